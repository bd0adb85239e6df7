"""Flags that name a file or a folder: `~` is the home folder, and whether the place will do is checked
before the verb begins.

A kind of place is the `type` of a flag for argparse:

    parser.add_argument("--out", type=places.new_folder, metavar="DIR")

and its value a text with a `check`, which `command.run` calls for all flags that are given.
"""

import os
from collections.abc import Callable
from pathlib import Path

from rnnlab.errors import UsageError
from rnnlab.run.files import reason


class Place(str):
    """The value of such a flag, a path."""

    kind: Callable[[Path], str]  # what is wrong with it, "" for nothing

    def check(self, flag: str) -> None:
        """Raises UsageError if this cannot be what the flag is for. flag: "--out"."""
        check(self, flag, self.kind)


def check(path: str, flag: str, kind: Callable[[Path], str]) -> None:
    """Raises UsageError if `path` cannot be what `flag` is for."""
    if not path:
        raise UsageError(f"{flag} is empty: it takes a path")
    if "\0" in path:
        raise UsageError(f"{flag} has a NUL character in it")
    if path.startswith("~"):
        raise UsageError(f"{flag}={path}: there is no home folder {path.partition('/')[0]}")
    try:
        problem = kind(Path(path))
    except (OSError, ValueError) as error:  # a name too long, a loop of links
        problem = reason(error)
    if problem:
        raise UsageError(f"{flag}={path} cannot be used: {problem}")


def _place(kind: Callable[[Path], str]) -> Callable[[str], Place]:
    def given(text: str) -> Place:
        value = Place(os.path.expanduser(text))
        value.kind = kind
        return value

    return given


def _anything(path: Path) -> str:
    return ""


def _old_file(path: Path) -> str:
    path.stat()
    if path.is_dir():
        return "it is a folder, and a file is needed"
    return "" if os.access(path, os.R_OK) else "no permission to read it"


def _new_file(path: Path) -> str:
    if path.is_dir():
        return "it is a folder, and a file is needed"
    if path.exists():
        return "" if os.access(path, os.W_OK) else "no permission to write it"
    path = Path(os.path.realpath(path))  # a link to what is not there would be filled
    if path.is_symlink():  # in a loop
        path.stat()
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return _unwritable(path.parent)


def _old_folder(path: Path) -> str:
    path.stat()
    if not path.is_dir():
        return "it is a file, and a folder is needed"
    return "" if os.access(path, os.R_OK | os.X_OK) else "no permission to read it"


def _new_folder(path: Path) -> str:
    there = path.absolute()
    while not _named(there):
        there = there.parent
    there.stat()  # and is no link that leads nowhere
    if not there.is_dir():
        it = "it" if there == path.absolute() else str(there)
        return f"{it} is a file, and a folder is needed"
    return _unwritable(there)


def _named(path: Path) -> bool:
    """Whether something has this name, be it a link to nothing. Raises OSError if nothing can."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _unwritable(folder: Path) -> str:
    if os.access(folder, os.W_OK | os.X_OK):
        return ""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "Read-only file system"
    return f"no permission to write in {folder}"


any_place = _place(_anything)  # whose reader checks it
old_file = _place(_old_file)
new_file = _place(_new_file)  # written, there or not, in a folder that is there
old_folder = _place(_old_folder)
new_folder = _place(_new_folder)  # written into, there or not


def folder_for(given: str | None, default: Path, flag: str) -> Path:
    """The folder that `flag` names, or else the default, after the check of a new folder. Raises
    UsageError."""
    if not given:
        check(str(default), flag, _new_folder)
    return Path(given or default)
