"""Checkpoints where the host is odd: folders that are patterns, that go away, and full disks."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnnlab import checkpoint, serialise
from rnnlab.types import StorageError

ROOT = Path(__file__).resolve().parent.parent
TREE = {"w": np.arange(6, dtype=np.float32), "step": np.array(1, np.int32)}


def save(root, step=1):
    options = {"metric": None, "extra": {}, "fingerprint": {}, "keep": 2}
    return checkpoint.save(root, step, TREE, **options)


@pytest.mark.parametrize("name", ["run[1]", "*[a]?", "[!x]"])
def test_a_folder_whose_name_is_a_pattern(tmp_path, name):
    root = tmp_path / name / "checkpoints"
    root.parent.mkdir()
    save(root)
    state, _ = checkpoint.restore(root, TREE, fingerprint={}, warn=pytest.fail)
    assert state["w"].tobytes() == TREE["w"].tobytes()
    assert checkpoint.steps(root) == [1]


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        save(tmp_path / "run" / "checkpoints")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["moved", "removed", "another's"])
def test_a_run_folder_that_goes_during_a_save(tmp_path, monkeypatch, how):
    run = tmp_path / "run"

    def write(folder, arrays):
        if how == "removed":
            shutil.rmtree(run)
        else:
            run.rename(tmp_path / "moved")
        folder.mkdir(parents=True)  # as Orbax does
        if how == "another's":
            (run / "theirs").write_text("")
        real(folder / "again", arrays)

    run.mkdir()
    save(run / "checkpoints", 1)
    real = serialise.write
    monkeypatch.setattr(serialise, "write", write)
    with pytest.raises(StorageError, match="it was removed or moved meanwhile"):
        save(run / "checkpoints", 2)
    if how == "another's":
        assert [path.name for path in run.iterdir()] == ["theirs"]
    else:
        assert not run.exists()
    if how != "removed":
        root = tmp_path / "moved" / "checkpoints"
        assert checkpoint.fault(root, 1) == ""


FULL = """
import resource, sys
import numpy as np
from pathlib import Path
from rnnlab import checkpoint, serialise
from rnnlab.types import StorageError
tree = {f"w{i}": np.zeros(5000, np.float32) for i in range(40)}
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for step in range(1, 4):
    try:
        checkpoint.save(Path(sys.argv[1]), step, tree, metric=None, extra={}, fingerprint={}, keep=1)
    except StorageError as error:
        print(error)
"""


def test_a_refused_save_is_one_line(tmp_path):
    # TensorStore's threads say more, each in a traceback, when the call has long come back.
    command = [sys.executable, "-c", FULL, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.endswith("File too large") for line in lines)
    # A thread may still have written while all was thrown away: what is left is trash to `clean`.
    checkpoint.clean(tmp_path / "checkpoints")
    assert list((tmp_path / "checkpoints").iterdir()) == []
