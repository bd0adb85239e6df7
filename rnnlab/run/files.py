"""Files that are whole or not there: text, strict JSON with a checksum, rows of JSON.

Strict JSON has no number that is not finite, so every file here spells those as the strings "nan",
"inf" and "-inf"; `float` reads them back. The last key of a JSON file is the checksum of all before it.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnlab.errors import StorageError, UsageError, lacking
from rnnlab.run import signals

_NON_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
_BLANK = f"sha256:{'-' * 64}"  # what a file has for its checksum while that is computed


@contextlib.contextmanager
def storage_errors(what: Path | str) -> Iterator[None]:
    """Raises StorageError, "cannot write WHAT: why", for an OSError inside."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = getattr(error, "strerror", None) or str(error)
    text = text.strip().split("\n")[0].partition(" [tensorstore_spec")[0]
    return (text if len(text) <= 300 else f"{text[:297]}...") or type(error).__name__


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed afterwards, by a signal that ends the process too."""
    with tempfile.TemporaryDirectory(prefix="rnnlab-") as name:
        folder = Path(name)
        with signals.tidied(lambda: shutil.rmtree(folder, ignore_errors=True)):
            yield folder


# ---- whole files


def write_file(path: Path, content: bytes | str) -> None:
    """Replaces the file at `path` as a whole, so that no reader meets half of it; a text as UTF-8.

    Raises StorageError if the disk refuses; the old file is then still there.
    """
    with storage_errors(path):
        replace_file(path, content)


def replace_file(path: Path, content: bytes | str) -> None:
    """What `write_file` does, for a caller with its own words for the OSError that this raises.

    The content is on the disk before the file gets its name, and the name before this returns.
    """
    path = Path(path)
    writing = path.with_name(f".{path.name}.writing")
    try:
        with writing.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            settle(file.fileno(), path)
        os.replace(writing, path)
    except OSError:
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns once a file, or the list of names of a folder, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        settle(descriptor, path)
    finally:
        os.close(descriptor)


_unsettled = False  # whether it has been told that something could not be


def settle(descriptor: int, path: Path) -> None:
    """Returns once an open file, or the list of names of an open folder, is on the disk; the first time
    that the file system has no fsync for such, after a warning. Raises OSError."""
    global _unsettled
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not lacking(error):
            raise
        if not _unsettled:
            _unsettled = True
            from rnnlab.run.display import warn  # which brings packages for the screen

            what = "folders" if Path(path).is_dir() else "files"
            warn(
                f"the file system of {path} has no fsync of {what} ({reason(error)}): a crash of the "
                "machine, not of the run, may lose what was written last"
            )


# ---- JSON


def write_json(path: Path, obj: dict[str, Any]) -> None:
    """`write_file` of an object of numbers, texts, lists and objects, see `json_text`."""
    write_file(path, json_text(obj))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises UsageError if the file is missing, broken or has changed since."""
    try:
        return parse_json(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error


def json_text(obj: dict[str, Any]) -> str:
    """Strict JSON, with the checksum of everything before it as the last key."""
    blank = json.dumps({**plain_json(obj), "checksum": _BLANK}, indent=2, allow_nan=False) + "\n"
    return _checksum(blank.encode()).join(blank.rsplit(_BLANK, 1))


def parse_json(content: bytes) -> dict[str, Any]:
    """What `json_text` was given. Raises ValueError if that is not what the content says. (What older
    versions wrote has no checksum.)"""
    found = json.loads(content.decode())
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    name, told = list(found.items())[-1] if found else ("", "")
    # The name of the key may be what is damaged.
    if name == "checksum" or str(told).startswith("sha256:"):
        blank = _BLANK.encode().join(content.rsplit(str(told).encode(), 1))
        if name != "checksum" or _checksum(blank) != told:
            raise ValueError("it has changed since it was written")
        del found[name]
    return found


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def json_row(row: dict[str, Any]) -> str:
    """One line of strict JSON without its newline; equal numbers give equal bytes."""
    return json.dumps(plain_json(row), allow_nan=False)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, numbers that are not finite as floats again.

    A last line that a killed process left unfinished is ignored. Raises UsageError if the file is
    missing or any other line is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {reason(error)}") from error
    rows = []
    for number, text in enumerate(lines, start=1):
        try:
            row = dict(json.loads(text)) if text.strip() else {}
        except (ValueError, TypeError, RecursionError) as error:
            if number == len(lines):  # the last newline is missing, and more may be
                break
            raise UsageError(f"cannot read {path}: line {number} is broken") from error
        if row:
            rows.append({k: float(v) if v in ("nan", "inf", "-inf") else v for k, v in row.items()})
    return rows


def plain_json(tree: Any) -> Any:
    """What JSON makes of `tree`: scalars of NumPy and JAX, and names for the numbers that it lacks."""
    text = json.dumps(tree, default=lambda scalar: scalar.item())
    return json.loads(text, parse_constant=_NON_FINITE.__getitem__)
