"""A file that one process holds: by flock, or where the file system has none, by a file beside it.

flock is the kernel's, and a holder's death lets go of it. Lustre without its mount option, some FUSE and
some network file systems have none. There a file that is created exclusively says who holds: of a process
on this machine it is known whether it still runs, of another machine's it is not, and a person decides.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from rnnlab.errors import InUseError, UsageError, lacking
from rnnlab.run.environment import SUPPORTED
from rnnlab.run.files import reason

try:
    import fcntl
except ImportError:  # Windows, where this can be imported and no more
    fcntl = None

PATIENCE = 1.0  # seconds in which a process that has made its file writes its name into it


@contextlib.contextmanager
def held(path: Path, what: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the file at `path`, made if need be, for this process. what: is held by it, in words.

    warn: is told if the file system has no flock. Raises InUseError if another process holds it,
    UsageError if it cannot be held.
    """
    if fcntl is None:
        raise UsageError(SUPPORTED)
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} cannot be used: {reason(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            by = f" by process {holder}" if holder.isdigit() else ""
            raise InUseError(f"{what} is in use{by}") from error
        except OSError as error:
            if not lacking(error):
                raise UsageError(f"{what} cannot be locked: {reason(error)}") from error
            _warn_once(
                warn,
                f"the file system of {path.parent} has no flock ({reason(error)}): {_beside(path).name} "
                "in it says who holds it",
            )
            with _file_of(_beside(path), what):
                yield
            return
        try:
            with _named(file):
                yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a fork holds a copy


_told = False  # whether it has been told that a file system has no flock


def _warn_once(warn: Callable[[str], None], text: str) -> None:
    global _told
    if not _told:
        warn(text)
    _told = True


@contextlib.contextmanager
def _named(file: IO[str]) -> Iterator[None]:
    """The number of this process in the file: for the message alone; a disk too full to hold it is no
    obstacle."""
    with contextlib.suppress(OSError):
        _overwrite(file.fileno(), f"{os.getpid()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _overwrite(file.fileno(), "")


def _overwrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


# ---- without flock


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


@contextlib.contextmanager
def _file_of(path: Path, what: str) -> Iterator[None]:
    """Holds `path` by having created it. Raises InUseError, or UsageError if the disk refuses."""
    mine = _holder(os.getpid())
    try:
        if not _created(path, mine):
            _take_over(path, what)
            if not _created(path, mine):
                raise InUseError(f"{what} is in use: another process was faster")
    except OSError as error:
        raise UsageError(f"{what} cannot be locked: {reason(error)}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _read(path) == mine:
                path.unlink()


def _created(path: Path, holder: dict[str, Any]) -> bool:
    """Whether this process has made the file, with the holder in it; not if it was there."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, json.dumps(holder).encode())
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    return True


def _take_over(path: Path, what: str) -> None:
    """Remove a file whose holder has ended. Raises InUseError if it has not, or nobody here knows."""
    # Of several processes that would, one does, or the second would remove the file of the first.
    guard = path.with_name(f"{path.name}.taking")
    if not _created(guard, _holder(os.getpid())):
        raise InUseError(f"{what} is in use, or {guard} was left behind: then remove that file")
    try:
        found = _read(path)
        if found is None:
            return
        if not found:
            raise InUseError(
                f"{what} is in use, or {path}, which is empty, was left behind: then remove it"
            )
        process, host, mine = found.get("process"), found.get("host"), _holder(os.getpid())
        here = all(found.get(name) == mine[name] for name in ("host", "boot", "processes"))
        if here and isinstance(process, int) and _holder(process) != found:
            path.unlink()
        elif here:
            raise InUseError(f"{what} is in use by process {process}")
        else:
            raise InUseError(
                f"{what} is in use by process {process} on host {host}, as {path} says: if that has "
                "ended, remove the file"
            )
    finally:
        guard.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """What the file says, None if it is not there; nothing, {}, if it says nothing sensible, though its
    maker had the time to write it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except FileNotFoundError:
            return None
        except ValueError:
            if time.monotonic() > until:
                return {}
            time.sleep(0.02)


def _holder(process: int) -> dict[str, Any]:
    """A process of this machine, as no other is called, and none that gets its number later.

    boot: this start of the machine; processes: the namespace that the number is from, a container's
    say; since: when it began; None where the system does not tell, or there is no such process.
    """
    return {
        "host": platform.node(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "processes": _link("/proc/self/ns/pid"),
        "process": process,
        "since": _since(process),
    }


def _text(path: str) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return Path(path).read_text(encoding="utf-8").strip()
    return None


def _link(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return None


def _since(process: int) -> str | None:
    stat = _text(f"/proc/{process}/stat")
    if stat is not None:
        state, *fields = stat.rpartition(")")[2].split()
        return fields[18] if state not in "ZX" else None  # a zombie computes nothing any more
    if Path("/proc/self/stat").exists():
        return None
    try:  # macOS
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        pass
    return "runs"
