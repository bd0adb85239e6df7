"""What lies below a folder of the user's: one walk for all tasks, through links too, and never in circles."""

from pathlib import Path

from rnnlab.data.reading import reading
from rnnlab.errors import UsageError


def children(folder: Path, *, what: str = "data.path") -> list[Path]:
    """What lies in a folder and is not hidden, by name. Raises UsageError if it cannot be read."""
    with reading(f"{what} {folder}"):
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def files(root: Path, skip: tuple[str, ...] = (), *, linked: bool = True) -> list[str]:
    """The files below `root`, as sorted relative POSIX paths; hidden files and folders are left out, and
    folders of a name in `skip`.

    Links are followed, unless `linked` is False, which leaves linked folders out; a file that is not
    there is listed, so that whoever opens it says so. Each real folder is read once: under its own name
    if it lies below `root`, else under the first of its links; a link to a folder above `root` is a loop
    and is not followed.

    Raises OSError for a folder that cannot be read.
    """
    found: list[str] = []
    links = [root]
    resolved = root.resolve()
    seen = {_identity(folder) for folder in resolved.parents}
    while links:
        # Folders come before links, so that what a link in a folder adds does not depend on its name.
        started, links = links, []
        for start in started:
            _walk(start, root, skip, seen, found, links)
        links = sorted(links) if linked else []
    return sorted(found)


def _walk(
    start: Path,
    root: Path,
    skip: tuple[str, ...],
    seen: set[tuple[int, int]],
    found: list[str],
    links: list[Path],
) -> None:
    """Add to `found` the files below `start` that are not hidden, and to `links` the linked folders."""
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if path.name not in skip:
                    (links if path.is_symlink() else waiting).append(path)
            elif path.is_file() or not path.exists():
                found.append(path.relative_to(root).as_posix())


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all names of a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def one_name_each(folders: list[Path]) -> None:
    """Raises UsageError for two that are one folder by different names, by a link."""
    known: dict[tuple[int, int], Path] = {}
    for folder in folders:
        with reading(folder):
            before = known.setdefault(_identity(folder), folder)
        if before != folder:
            raise UsageError(f"{before} and {folder} are one folder: remove the link")
