"""An append-only log of whole lines, which a resumed run cuts back to what its checkpoint knows."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from rnnlab.errors import StorageError
from rnnlab.run.files import settle, storage_errors


class Log:
    """An append-only text file of whole lines, cut back to a recorded size on resume.

    Every line goes to the operating system at once, so only a crash of the machine can lose what
    was not synchronised. Every method raises StorageError if the disk refuses; `append` and `sync`
    also if the file has been removed or replaced, by whoever removed the run's folder, say.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        with storage_errors(self.path):
            self._file = self.path.open("ab", buffering=0)
            self._hash = hashlib.sha256(self.path.read_bytes())

    def append(self, text: str) -> None:
        """Writes `text`, closed by a newline if it lacks one; all of it or nothing."""
        content = text.encode() if text.endswith("\n") else f"{text}\n".encode()
        before = self.size
        self._check()
        with storage_errors(self.path):
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
        with storage_errors(self.path):
            settle(self._file.fileno(), self.path)

    def _check(self) -> None:
        """What is written to a file that has no name any more is lost."""
        with storage_errors(self.path), contextlib.suppress(FileNotFoundError):
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
        with storage_errors(self.path):
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
            settle(self._file.fileno(), self.path)
            self._hash = hashlib.sha256(content[:size])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
