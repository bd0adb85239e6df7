"""A run folder that explains itself: its lock, JSON, row logs, event files and what run.json says.

Strict JSON has no number that is not finite, so every file here spells those as the strings "nan",
"inf" and "-inf"; `float` reads them back. The last key of a JSON file is the checksum of all before it.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.errors import InUseError, StorageError, UsageError
from rnnlab.run import machine


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Have `import package` fail inside, as if it were not installed, unless it is imported."""
    unseen = package not in sys.modules
    if unseen:
        sys.modules[package] = None  # pyright: ignore
    try:
        yield
    finally:
        if unseen:
            del sys.modules[package]


with _hidden("torch"):  # which takes 3 s, and is there for the annotations of its types alone
    from tensorboardX import RecordWriter
    from tensorboardX.proto import event_pb2, summary_pb2

_NON_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
_BLANK = f"sha256:{'-' * 64}"  # what a file has for its checksum while that is computed
PATIENCE = 2.0  # seconds in which a run saves its state after a signal
_PACKAGES = ("rnnlab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Generated when they are imported, so a type checker cannot see them.
Event, SessionLog = event_pb2.Event, event_pb2.SessionLog  # pyright: ignore
Summary = summary_pb2.Summary  # pyright: ignore
_SOURCE = Path(__file__).resolve().parent


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds the run folder, made if need be, for this process; its death lets go of it.

    Raises InUseError if another one holds it, UsageError if the folder cannot be made or written.
    """
    workdir = Path(workdir)
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"run folder {str(workdir)!a} cannot be used: its name is not UTF-8, which checkpoints "
            "need: choose another --workdir"
        ) from None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {workdir}")
        no_links([workdir, workdir / "tensorboard"])
        file = (workdir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"run folder {workdir} cannot be used: {line(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip()
            by = f" by process {holder}" if holder.isdigit() else ""
            raise InUseError(f"run folder {workdir} is in use{by}") from error
        except OSError as error:
            raise UsageError(f"run folder {workdir} cannot be locked: {line(error)}") from error
        # The number is for the message above alone; a disk too full to hold it is no obstacle.
        with contextlib.suppress(OSError):
            _overwrite(file.fileno(), f"{os.getpid()}\n")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                _overwrite(file.fileno(), "")
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough if a fork holds a copy


def no_links(folders: Iterable[Path]) -> None:
    """Raises UsageError for a link to a file in one of the folders: a run writes to the files of its
    folder, and one that somebody else has made could have it write to any."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() and not path.is_dir():
                raise UsageError(
                    f"{path} is a link, through which another file would be written: remove it"
                )


def _overwrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode())


# ---- JSON


def write_json(path: Path, obj: dict[str, Any]) -> None:
    """`write` of an object of numbers, texts, lists and objects, see `to_text`."""
    write(path, to_text(obj).encode())


def write(path: Path, content: bytes) -> None:
    """Replaces the file at `path` as a whole, so that no reader meets half of it.

    Raises StorageError if the disk refuses; the old file is then still there.
    """
    path = Path(path)
    writing = path.with_name(f".{path.name}.writing")
    with _storage_errors(path):
        try:
            with writing.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(writing, path)
        except OSError:
            with contextlib.suppress(OSError):
                writing.unlink(missing_ok=True)
            raise
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises UsageError if the file is missing, broken or has changed since."""
    try:
        return from_text(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {line(error)}") from error


def to_text(obj: dict[str, Any]) -> str:
    """Strict JSON, with the checksum of everything before it as the last key."""
    blank = json.dumps({**plain(obj), "checksum": _BLANK}, indent=2, allow_nan=False) + "\n"
    return _checksum(blank.encode()).join(blank.rsplit(_BLANK, 1))


def from_text(content: bytes) -> dict[str, Any]:
    """What `to_text` was given. Raises ValueError if that is not what the content says. (What older
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


def metrics_row(row: dict[str, Any]) -> str:
    """One line of strict JSON without its newline; equal numbers give equal bytes."""
    return json.dumps(plain(row), allow_nan=False)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, numbers that are not finite as floats again.

    A last line that a killed process left unfinished is ignored. Raises UsageError if the file is
    missing or any other line is broken.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {line(error)}") from error
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


def plain(tree: Any) -> Any:
    """What JSON makes of `tree`: scalars of NumPy and JAX, and names for the numbers that it lacks."""
    text = json.dumps(tree, default=lambda scalar: scalar.item())
    return json.loads(text, parse_constant=_NON_FINITE.__getitem__)


class Log:
    """An append-only text file of whole lines, cut back to a recorded size on resume.

    Every line goes to the operating system at once, so only a crash of the machine can lose what
    was not synchronised. Every method raises StorageError if the disk refuses; `append` and `sync`
    also if the file has been removed or replaced, by whoever removed the run's folder, say.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        with _storage_errors(self.path):
            self._file = self.path.open("ab", buffering=0)
            self._hash = hashlib.sha256(self.path.read_bytes())

    def append(self, text: str) -> None:
        """Writes `text`, closed by a newline if it lacks one; all of it or nothing."""
        content = text.encode() if text.endswith("\n") else f"{text}\n".encode()
        before = self.size
        self._check()
        with _storage_errors(self.path):
            try:
                self._put(content)
            except OSError:
                self._file.truncate(before)
                raise
        self._hash.update(content)

    def _put(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        """Returns once the lines are on the disk."""
        self._check()
        with _storage_errors(self.path):
            os.fsync(self._file.fileno())

    def _check(self) -> None:
        """What is written to a file that has no name any more is lost."""
        with _storage_errors(self.path), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self.path.stat(), os.fstat(self._file.fileno())):
                return
        raise StorageError(
            f"cannot write {self.path}: it was removed or replaced while the run went on"
        )

    @property
    def size(self) -> int:
        """Bytes so far: what a checkpoint records, after `sync`, for `truncate`."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def sha256(self) -> str:
        """Of all lines so far."""
        return self._hash.hexdigest()

    def truncate(
        self,
        size: int,
        warn: Callable[[str], None],
        *,
        sha256: str | None = None,
        copy: Path | None = None,
    ) -> None:
        """Cuts the file to `size` bytes, so that a resumed run writes no line twice.

        If what is left is not that of `sha256`, `warn` is told, and `copy` takes its place. Without
        one, a file that is shorter has lost lines: the run goes on after the last whole one.
        """
        with _storage_errors(self.path):
            content = self.path.read_bytes()
            changed = sha256 not in (None, hashlib.sha256(content[:size]).hexdigest())
            if changed and copy is not None:
                warn(f"{self.path} has changed since it was written: its lines are put back")
                content = copy.read_bytes()
                self._file.truncate(0)
                self._put(content)
            elif self.size < size:
                warn(f"{self.path} has {self.size} bytes, {size} were recorded: lines are missing")
                size = content.rfind(b"\n") + 1
            self._file.truncate(size)
            os.fsync(self._file.fileno())
            self._hash = hashlib.sha256(content[:size])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Events:
    """TensorBoard's curves in `<workdir>/tensorboard`, one event file for each start of the run.

    TensorBoard hides the points at `purge_step` and later that earlier files hold, so a run that
    resumes after step n passes n + 1; None for a new run. The file is written here, without the
    background process and the host name in the file's name that a SummaryWriter brings. Raises
    StorageError if the disk refuses.
    """

    def __init__(self, workdir: Path, purge_step: int | None):
        folder = Path(workdir) / "tensorboard"
        with _storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files in the order of their names.
            number = sum(1 for _ in folder.glob("events.out.tfevents.*"))
            self.path = folder / f"events.out.tfevents.{number:06d}"
            self._records = RecordWriter(str(self.path))
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def write(self, step: int, split: str, row: dict[str, Any]) -> None:
        """Writes every number of `row` as the scalar `<split>/<name>`; the rest is left out."""
        values = [
            Summary.Value(tag=f"{split}/{name}", simple_value=float(value))
            for name, value in row.items()
            if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
        ]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        with _storage_errors(self.path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        with _storage_errors(self.path):
            self._records.close()

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- what the run was


def describe(*, overrides: list[str]) -> dict[str, Any]:
    """What run.json records of the program and the machine; no names of host or user are asked for.

    `overrides` are the config values given on the command line, kept as they are. `git` is None
    where the source is not part of a commit.
    """
    devices = jax.devices()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "overrides": list(overrides),
        "git": _git(),
        "versions": {"python": platform.python_version()}
        | {p: machine.installed(p) for p in _PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "cpus_allowed": machine.allowed(),
        "environment": {name: os.environ.get(name) for name in ("NPROC", "XLA_FLAGS")},
    }


def unchanged(folder: Path | None, what: str, source: Any, sha256: str | None) -> None:
    """Raise UsageError unless this is the sha256 of the data of the run in `folder`; None: there is no
    run yet. what: a word for the data; source: where it comes from."""
    if folder is None:
        return
    before = read_json(folder / "run.json").get("data", {}).get("sha256")
    if before != sha256:
        raise UsageError(
            f"the {what} of this run changed since it began: {source} has sha256 {sha256}, the run has "
            f"{before}"
        )


def _git() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(_SOURCE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


# ---- signals


class Received:
    """The first signal caught so far: its number, or None."""

    received: int | None = None


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag, so that the loop can end after a whole step.

    A SIGINT that comes PATIENCE seconds after the first, or later, raises KeyboardInterrupt, to break a
    hang: sooner it may be the same keystroke, and the state is still to be saved. A SIGHUP, which comes
    when the terminal goes away, stays ignored if it was: by nohup, say. The old handlers come back at
    the end. Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    caught = Received()
    first = math.inf

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        caught.received = caught.received or number
        if number == signal.SIGINT:
            first = min(first, time.monotonic())
            if time.monotonic() - first >= PATIENCE:
                raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            # None: it was installed from C, and Python cannot put it back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# ---- errors


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {line(error)}") from error


def line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = getattr(error, "strerror", None) or str(error)
    text = text.strip().split("\n")[0].partition(" [tensorstore_spec")[0]
    return (text if len(text) <= 300 else f"{text[:297]}...") or type(error).__name__
