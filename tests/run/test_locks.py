"""File systems without flock, where a run folder is held all the same, and without fsync of folders."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rnnlab.data import cache
from rnnlab.errors import InUseError, StorageError, UsageError
from rnnlab.run import files, locks
from rnnlab.run.logs import Log
from tests.support import ROOT

LACKING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def refuse(code):
    def operation(*_):
        raise OSError(code, os.strerror(code))

    return operation


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(locks, "_told", False)
    return []


@pytest.fixture
def without_flock(monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", refuse(errno.ENOSYS))


@pytest.mark.parametrize("code", LACKING)
def test_one_process_holds_it_without_flock(tmp_path, monkeypatch, told, code):
    monkeypatch.setattr(locks.fcntl, "flock", refuse(code))
    path = tmp_path / ".lock"
    for _ in range(2):
        with locks.held(path, "it", told.append):
            holder = json.loads((tmp_path / ".lock.holder").read_text())
            assert holder["process"] == os.getpid()
            with pytest.raises(InUseError) as error, locks.held(path, "it", told.append):
                pass
            assert str(error.value) == f"it is in use by process {os.getpid()}"
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    (line,) = told  # once, whatever happens
    assert "has no flock" in line


def test_another_error_is_no_lack_of_flock(tmp_path, monkeypatch, told):
    monkeypatch.setattr(locks.fcntl, "flock", refuse(errno.EIO))
    with (
        pytest.raises(UsageError, match="it cannot be locked"),
        locks.held(tmp_path / ".lock", "it", told.append),
    ):
        pass
    assert told == []


HOLDER = """
import errno, os, sys
from pathlib import Path
from rnnlab.run import locks
def refuse(*_):
    raise OSError(errno.ENOSYS, "")
locks.fcntl.flock = refuse
with locks.held(Path(sys.argv[1]), "it", lambda text: None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_dead_holder_is_taken_over_and_a_living_one_is_not(tmp_path, without_flock, told):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError) as error, locks.held(path, "it", told.append):
            pass
        assert str(error.value) == f"it is in use by process {holder.pid}"
        holder.kill()
        for _ in range(1000):  # a zombie until it is waited for, and holds nothing
            if Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.01)
        with locks.held(path, "it", told.append):
            pass
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def left(tmp_path, **changes):
    found = locks._holder(os.getpid()) | changes
    (tmp_path / ".lock.holder").write_text(json.dumps(found))


def test_a_number_that_another_process_has_by_now(tmp_path, without_flock, told):
    left(tmp_path, since="1")
    with locks.held(tmp_path / ".lock", "it", told.append):
        pass


@pytest.mark.parametrize(
    "changes", [{"host": "elsewhere"}, {"boot": "another"}, {"processes": "pid:[1]"}]
)
def test_of_another_host_nothing_is_known(tmp_path, without_flock, told, changes):
    left(tmp_path, process=77, **changes)
    with pytest.raises(InUseError) as error, locks.held(tmp_path / ".lock", "it", told.append):
        pass
    host = changes.get("host", locks._holder(1)["host"])
    path = tmp_path / ".lock.holder"
    assert str(error.value) == (
        f"it is in use by process 77 on host {host}, as {path} says: if that has ended, remove the file"
    )
    path.unlink()
    with locks.held(tmp_path / ".lock", "it", told.append):
        pass


@pytest.mark.parametrize("content", ["", "[]", "no JSON"])
def test_a_file_that_says_nothing(tmp_path, without_flock, told, monkeypatch, content):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    (tmp_path / ".lock.holder").write_text(content)
    with (
        pytest.raises(InUseError, match="then remove it"),
        locks.held(tmp_path / ".lock", "it", told.append),
    ):
        pass


def test_of_many_one_holds_it(tmp_path, without_flock, told):
    left(tmp_path, since="1")  # left behind, which each would take over
    held, most, turn = [], [], threading.Lock()

    def hold():
        try:
            with locks.held(tmp_path / ".lock", "it", told.append):
                with turn:
                    held.append(1)
                    most.append(len(held))
                time.sleep(0.05)
                with turn:
                    held.pop()
        except InUseError:
            pass

    threads = [threading.Thread(target=hold) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


@pytest.mark.parametrize("code", LACKING)
def test_no_fsync_is_told_once(tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(files, "_unsettled", False)
    monkeypatch.setattr(os, "fsync", refuse(code))
    for number in range(3):
        files.write_json(tmp_path / f"{number}.json", {"a": number})
    with Log(tmp_path / "log") as log:
        log.append("line")
        log.sync()
        log.truncate(log.size, lambda text: None)
    assert files.read_json(tmp_path / "2.json") == {"a": 2}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnnlab: warning: the file system of ")
    assert "no fsync" in line


def test_an_fsync_that_fails_is_the_disks_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(StorageError):
        files.write_file(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absent", [False, True])
def test_the_cache_without_locks(tmp_path, monkeypatch, absent):
    if absent:
        monkeypatch.setattr(cache, "fcntl", None)
    else:
        monkeypatch.setattr(cache.fcntl, "flock", refuse(errno.ENOSYS))
    monkeypatch.setattr(os, "fsync", refuse(errno.EINVAL))
    target = tmp_path / "folder" / "text"
    threads = [
        threading.Thread(
            target=cache.place, args=(target, target.exists, lambda file: file.write(b"all of it"))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == b"all of it"
    assert [p.name for p in target.parent.iterdir()] == ["text"]
