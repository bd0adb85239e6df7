"""The run folder: one holder, and what run.json says."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from rnnlab.errors import InUseError, UsageError
from rnnlab.run import folder
from rnnlab.run.files import read_json, write_json
from rnnlab.run.folder import describe, lock

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
    with lock(tmp_path / "a" / "run"):
        pass
    path = tmp_path / "a" / "run" / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InUseError) as error, lock(path.parent):
            pass
        assert str(error.value) == f"run folder {path.parent} is in use by process {holder.pid}"
        assert error.value.exit_code == 6
        holder.kill()
        holder.wait()
        with lock(path.parent):  # death lets go
            assert path.read_text() == f"{os.getpid()}\n"
            with pytest.raises(InUseError), lock(path.parent):
                pass
    assert path.read_text() == ""
    with pytest.raises(ZeroDivisionError), lock(path.parent):
        raise ZeroDivisionError
    with lock(path.parent):
        pass


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used") as error, lock(path):
            pass
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "closed").mkdir()
    with pytest.raises(UsageError, match="permission"), lock(tmp_path / "closed"):
        pass
    assert list((tmp_path / "closed").iterdir()) == []


def test_describe(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "1")
    run = describe(overrides=["optim.rate=0.1"])
    write_json(tmp_path / "run.json", run)
    assert read_json(tmp_path / "run.json") == run
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
    monkeypatch.setattr(folder, "_SOURCE", tmp_path)
    assert folder._git() is None
    git("init")
    (tmp_path / "folder.py").write_text("")
    assert folder._git() is None  # in a repository, but not of it
    git("add", ".")
    git("commit", "-m", "x")
    known = folder._git()
    assert known is not None
    assert len(known["commit"]) == 40
    assert known["dirty"] is False
    (tmp_path / "cell.py").write_text("")
    assert folder._git() == known | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert folder._git() is None


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    folder = tmp_path / b"\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match="udcff' cannot be used: its name"), lock(folder):
        pass
    assert not folder.exists()
