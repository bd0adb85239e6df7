"""The run folder: one holder, strict JSON, logs without a line twice, and what run.json says."""

import errno
import itertools
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from rnnlab.errors import InUseError, StorageError, UsageError
from rnnlab.run import runfolder

# ---- lock

HOLDER = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_one_process_holds_a_folder(tmp_path):
    with runfolder.lock(tmp_path / "a" / "run"):
        pass
    path = tmp_path / "a" / "run" / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError) as error, runfolder.lock(path.parent):
            pass
        assert str(error.value) == f"run folder {path.parent} is in use by process {holder.pid}"
        assert error.value.exit_code == 6
        holder.kill()
        holder.wait()
        with runfolder.lock(path.parent):  # death lets go
            assert path.read_text() == f"{os.getpid()}\n"
            with pytest.raises(InUseError), runfolder.lock(path.parent):
                pass
    assert path.read_text() == ""
    with pytest.raises(ZeroDivisionError), runfolder.lock(path.parent):
        raise ZeroDivisionError
    with runfolder.lock(path.parent):
        pass


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used") as error, runfolder.lock(path):
            pass
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "closed").mkdir()
    with pytest.raises(UsageError, match="permission"), runfolder.lock(tmp_path / "closed"):
        pass
    assert list((tmp_path / "closed").iterdir()) == []


# ---- JSON


def test_json(tmp_path):
    path = tmp_path / "config.json"
    obj = {"z": [1, (2.5, None)], "a": float("inf"), "b": {"c": float("nan"), "d": -np.inf}}
    runfolder.write_json(path, obj)
    text = path.read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert text.startswith('{\n  "z": [\n    1,\n')
    assert runfolder.read_json(path) == {
        "z": [1, [2.5, None]],
        "a": "inf",
        "b": {"c": "nan", "d": "-inf"},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "run.json"
    runfolder.write_json(path, {"old": 1})
    monkeypatch.setattr(os, name, full)
    with pytest.raises(StorageError) as error:
        runfolder.write_json(path, {"new": 1})
    assert str(error.value) == f"cannot write {path}: No space left on device"
    assert runfolder.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_what_is_no_json_changes_nothing(tmp_path):
    runfolder.write_json(tmp_path / "run.json", {"old": 1})
    with pytest.raises((TypeError, AttributeError)):
        runfolder.write_json(tmp_path / "run.json", {"new": object()})
    assert runfolder.read_json(tmp_path / "run.json") == {"old": 1}


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff"])
def test_json_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        runfolder.read_json(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(error.value)


# ---- rows


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.none() | st.booleans()))
def test_row_round_trip(tmp_path_factory, row):
    line = runfolder.metrics_row(row)
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.write_text(f"{line}\n")
    (got,) = runfolder.read_rows(path) or [{}]
    assert repr(got) == repr(row)  # nan equals nan, -0.0 is not 0.0


def test_equal_numbers_give_equal_bytes():
    row = {"loss": np.float32(0.1), "step": np.int64(3), "grad": jnp.float32(jnp.inf)}
    again = {"loss": float(np.float32(0.1)), "step": 3, "grad": float("inf")}
    assert runfolder.metrics_row(row) == runfolder.metrics_row(again)
    assert runfolder.metrics_row(again) == '{"loss": 0.10000000149011612, "step": 3, "grad": "inf"}'


def test_a_broken_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert runfolder.read_rows(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert runfolder.read_rows(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2 is broken"):
        runfolder.read_rows(path)
    path.write_bytes(b"1\n{}\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 1 is broken"):
        runfolder.read_rows(path)
    with pytest.raises(UsageError, match="cannot read"):
        runfolder.read_rows(tmp_path / "none.jsonl")


# ---- log


def test_log(tmp_path):
    path = tmp_path / "samples.txt"
    with runfolder.Log(path) as log:
        log.append("é")
        assert path.read_text(encoding="utf-8") == "é\n"  # a kill from here on loses nothing
        log.append("two\nlines\n")
        log.sync()
        assert log.size == path.stat().st_size == 13
        recorded = log.size
        log.append("after the checkpoint")
    with runfolder.Log(path) as log:
        log.truncate(recorded, pytest.fail)
        log.append("once")
    assert path.read_text(encoding="utf-8") == "é\ntwo\nlines\nonce\n"
    with runfolder.Log(path) as log:
        log.truncate(0, pytest.fail)
    assert path.read_bytes() == b""


def test_a_log_that_lost_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\nthr")
    told = []
    with runfolder.Log(path) as log:
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

    log = runfolder.Log(tmp_path / "metrics.jsonl")
    log.append("whole")
    log._file = Full(log._file)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
        log.append("half a line")
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"whole\n"
    with pytest.raises(StorageError):
        runfolder.Log(tmp_path / "none" / "metrics.jsonl")


# ---- describe


def test_describe(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    run = runfolder.describe(overrides=["optim.rate=0.1"])
    runfolder.write_json(tmp_path / "run.json", run)
    assert runfolder.read_json(tmp_path / "run.json") == run
    assert run["overrides"] == ["optim.rate=0.1"]
    assert run["environment"]["NPROC"] == "1"
    assert run["versions"]["jax"]
    assert run["backend"]
    assert run["cpus"] >= 1
    assert run["started"].endswith("+00:00")
    assert os.uname().nodename not in json.dumps({**run, "command": None, "platform": None})


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(runfolder, "_SOURCE", tmp_path)
    assert runfolder._git() is None
    git("init")
    (tmp_path / "runfolder.py").write_text("")
    assert runfolder._git() is None  # in a repository, but not of it
    git("add", ".")
    git("commit", "-m", "x")
    known = runfolder._git()
    assert known is not None
    assert len(known["commit"]) == 40
    assert known["dirty"] is False
    (tmp_path / "cell.py").write_text("")
    assert runfolder._git() == known | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert runfolder._git() is None


# ---- event files


def read_events(path):
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def test_events(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = runfolder.Events(tmp_path, None)
        row = {
            "loss": 1.5,
            "steps": np.int64(3),
            "grad": jnp.float32(2.0),
            "bad": float("nan"),
            "name": "x",
            "none": None,
            "flag": True,
            "vector": np.ones(2),
        }
        first.write(10, "train", row)
        events = read_events(first.path)  # nothing waits in memory for a close
        first.close()
        with runfolder.Events(tmp_path, 6) as second:
            second.write(6, "valid", {"loss": 0.5})
    assert [event.file_version for event in events] == ["brain.Event:2", ""]
    values = {value.tag: value.simple_value for value in events[1].summary.value}
    assert events[1].step == 10
    assert {k: v for k, v in values.items() if v == v} == {
        "train/loss": 1.5,
        "train/steps": 3.0,
        "train/grad": 2.0,
    }
    assert set(values) - {"train/bad"} == {"train/loss", "train/steps", "train/grad"}
    _, start, value = read_events(second.path)
    assert (start.step, start.session_log.status) == (6, event_pb2.SessionLog.START)
    assert value.summary.value[0].tag == "valid/loss"
    names = sorted(p.name for p in (tmp_path / "tensorboard").iterdir())
    assert names == [first.path.name, second.path.name]
    assert all("tfevents" in name and os.uname().nodename not in name for name in names)


def test_a_changed_json_file_is_noticed(tmp_path):
    """Whichever bit it is, the name of the checksum's key included; files without one are old."""
    path = tmp_path / "a.json"
    runfolder.write_json(path, {"rate": 0.002, "steps": 100, "name": "é", "inf": math.inf})
    assert runfolder.read_json(path) == {"rate": 0.002, "steps": 100, "name": "é", "inf": "inf"}
    content = path.read_bytes()
    for position, bit in itertools.product(range(len(content)), range(8)):
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(UsageError, match=r"cannot read .*a\.json"):
            runfolder.read_json(path)
    path.write_text('{"steps": 100}')
    assert runfolder.read_json(path) == {"steps": 100}


def test_changed_lines_are_put_back_from_a_copy(tmp_path):
    path, copy, told = tmp_path / "rows", tmp_path / "copy", []
    with runfolder.Log(path) as log:
        log.append("one")
        log.append("two")
        size, sha256 = log.size, log.sha256
        copy.write_bytes(path.read_bytes())
        log.append("three")
    path.write_bytes(b"onE\ntwo\nthree\n")
    with runfolder.Log(path) as log:
        log.truncate(size, told.append, sha256=sha256, copy=copy)
        assert log.sha256 == sha256
        log.append("four")
    assert path.read_text() == "one\ntwo\nfour\n"
    assert len(told) == 1
    assert f"{path} has changed" in told[0]


# ---- signals


def test_signals_set_a_flag(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with runfolder.signals() as caught:
        assert caught.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same keystroke, or an impatient one
        assert caught.received == signal.SIGTERM
        monkeypatch.setattr(runfolder, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_outside_the_main_thread():
    seen = []

    def run():
        with runfolder.signals() as caught:
            seen.append(caught.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_hang_up_is_a_signal_too_unless_it_was_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    with runfolder.signals() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
        assert caught.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with runfolder.signals() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_log_whose_file_was_removed_or_replaced(tmp_path, replaced):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    with runfolder.Log(path) as log:
        log.append("one")
        shutil.rmtree(path.parent)
        if replaced:
            path.parent.mkdir()
            path.write_text("another's\n")
        for call in (lambda: log.append("two"), log.sync):
            with pytest.raises(StorageError, match="was removed or replaced while the run went on"):
                call()
    assert path.exists() == replaced


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    folder = tmp_path / b"\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match="udcff' cannot be used: its name"), runfolder.lock(folder):
        pass
    assert not folder.exists()
