"""TensorBoard's event files of a run."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.run.files import storage_errors


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

# Generated when they are imported, so a type checker cannot see them.
Event, SessionLog = event_pb2.Event, event_pb2.SessionLog  # pyright: ignore
Summary = summary_pb2.Summary  # pyright: ignore


class Events:
    """TensorBoard's curves in `<workdir>/tensorboard`, one event file for each start of the run.

    TensorBoard hides the points at `purge_step` and later that earlier files hold, so a run that
    resumes after step n passes n + 1; None for a new run. The file is written here, without the
    background process and the host name in the file's name that a SummaryWriter brings. Raises
    StorageError if the disk refuses.
    """

    def __init__(self, workdir: Path, purge_step: int | None):
        folder = Path(workdir) / "tensorboard"
        with storage_errors(folder):
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
        with storage_errors(self.path):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        with storage_errors(self.path):
            self._records.close()

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
