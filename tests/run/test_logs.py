"""Logs without a line twice."""

import errno
import os
import shutil

import pytest

from rnnlab.errors import StorageError
from rnnlab.run.logs import Log


def test_log(tmp_path):
    path = tmp_path / "samples.txt"
    with Log(path) as log:
        log.append("é")
        assert path.read_text(encoding="utf-8") == "é\n"  # a kill from here on loses nothing
        log.append("two\nlines\n")
        log.sync()
        assert log.size == path.stat().st_size == 13
        recorded = log.size
        log.append("after the checkpoint")
    with Log(path) as log:
        log.truncate(recorded, pytest.fail)
        log.append("once")
    assert path.read_text(encoding="utf-8") == "é\ntwo\nlines\nonce\n"
    with Log(path) as log:
        log.truncate(0, pytest.fail)
    assert path.read_bytes() == b""


def test_a_log_that_lost_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\nthr")
    told = []
    with Log(path) as log:
        log.truncate(100, told.append)
        log.append("four")
    assert told == [f"{path} has 11 bytes, 100 were recorded: lines are missing"]
    assert path.read_bytes() == b"one\ntwo\nfour\n"


def test_a_full_disk_leaves_no_half_line(tmp_path):
    class Full:
        """A disk with room for 3 more bytes."""

        def __init__(self, file):
            self.file, self.room = file, 3

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written, self.room = self.file.write(data[: self.room]), 0
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    log = Log(tmp_path / "metrics.jsonl")
    log.append("whole")
    log._file = Full(log._file)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
        log.append("half a line")
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"whole\n"
    with pytest.raises(StorageError):
        Log(tmp_path / "none" / "metrics.jsonl")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_whose_file_was_removed_or_replaced(tmp_path, replaced):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    with Log(path) as log:
        log.append("one")
        shutil.rmtree(path.parent)
        if replaced:
            path.parent.mkdir()
            path.write_text("another's\n")
        for call in (lambda: log.append("two"), log.sync):
            with pytest.raises(StorageError, match="was removed or replaced while the run went on"):
                call()
    assert path.exists() == replaced
