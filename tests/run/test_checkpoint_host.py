"""Checkpoints where the host is odd: folders that are patterns, that go away, and full disks."""

import errno
import shutil
import string
import subprocess
import sys

import jax
import numpy as np
import pytest

from rnnlab.errors import StorageError, UsageError
from rnnlab.run import arrays, checkpoint, integrity
from rnnlab.train.session import fit
from tests.support import ROOT

TREE = {"w": np.arange(6, dtype=np.float32), "step": np.array(1, np.int32)}


def save(root, step=1):
    options = {"metric": None, "extra": {}, "fingerprint": {}, "keep": 2}
    return checkpoint.save(root, step, TREE, **options)


@pytest.mark.parametrize(
    "name", ["run[1]", "*[a]?", "[!x]", "**", "a\\b", "gs:", "file:", "\udcff"]
)
def test_a_folder_whose_name_is_a_pattern(tmp_path, name):
    root = tmp_path / name / "checkpoints"
    root.parent.mkdir()
    save(root)
    state, _ = checkpoint.restore(root, TREE, fingerprint={}, warn=pytest.fail)
    assert state["w"].tobytes() == TREE["w"].tobytes()
    assert checkpoint.steps(root) == [1]


@pytest.mark.parametrize(
    "name",
    [
        "".join(c for c in string.printable if c.isprintable() and c not in "/[]*?\\"),
        *("000_seed=0", "%41", "a%2Fb", "${HOME}", "~", "s3:x", "a...", "--", "{}", " "),
        *("new\nline\t", "a\x01\x7f", "\u00e9e\u0301\u65e5\U0001f600", "\u2028\u00a0\x85"),
    ],
)
def test_other_names_are_as_good_as_letters(tmp_path, monkeypatch, name):
    """Without another name for it, which several processes of one run have not."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    arrays.check_name(tmp_path / name / "checkpoints")
    monkeypatch.undo()
    root = tmp_path / name
    root.mkdir()
    arrays.write_arrays(root / "state", TREE)
    assert [path.name for path in root.iterdir()] == ["state"]
    back = arrays.read_arrays(root / "state", TREE)
    assert all(back[key].tobytes() == TREE[key].tobytes() for key in TREE)


@pytest.mark.parametrize("name", ["run[1]", "*", "a?", "a\\b", "gs:", "file:", "\udcff"])
def test_several_processes_are_told_of_a_name_at_once(tmp_path, monkeypatch, name):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match="several processes cannot save"):
        fit(None, tmp_path / name, [])
    assert list(tmp_path.iterdir()) == []


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
    real = arrays.write_arrays
    monkeypatch.setattr(arrays, "write_arrays", write)
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
from rnnlab.run import arrays, checkpoint, integrity
from rnnlab.errors import StorageError
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


def warned(root) -> list[str]:
    said: list[str] = []
    checkpoint.restore(root, TREE, fingerprint={}, warn=said.append)
    return said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_threefry_partitionable", False),
        ("jax_default_prng_impl", "rbg"),
        ("jax_random_seed_offset", 3),
        ("jax_default_matmul_precision", "bfloat16"),
        ("jax_enable_x64", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_disable_jit", True),
        ("jax_high_dynamic_range_gumbel", True),
        ("jax_optimization_level", "O1"),
    ],
)
def test_a_flag_that_changes_numbers_is_told(tmp_path, name, value):
    save(tmp_path)
    assert warned(tmp_path) == []
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        (line,) = warned(tmp_path)
    finally:
        jax.config.update(name, before)
    assert line.startswith("equal bits are not promised")
    assert f"{name}: checkpoint has " in line
    assert warned(tmp_path) == []


@pytest.mark.parametrize("name", ["NPROC", "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE"])
def test_a_variable_that_changes_numbers_is_told(tmp_path, monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    save(tmp_path)
    monkeypatch.setenv(name, "7")
    (line,) = warned(tmp_path)
    assert f'{name}: checkpoint has null, this run has "7"' in line


def test_of_what_an_older_version_did_not_record_nothing_is_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "SETTINGS", ())
        patch.setattr(integrity, "VARIABLES", ("NPROC",))
        save(tmp_path)
    assert warned(tmp_path) == []
    monkeypatch.setenv("NPROC", "7")
    assert len(warned(tmp_path)) == 1


def test_a_key_of_another_implementation_is_refused_by_the_name_of_the_flag(tmp_path):
    options = {"metric": None, "extra": {}, "fingerprint": {}, "keep": 2}
    checkpoint.save(tmp_path, 1, {"key": jax.random.key(0)}, **options)
    with jax.default_prng_impl("rbg"):
        template = {"key": jax.random.key(0)}
        with pytest.raises(UsageError, match="jax_default_prng_impl: checkpoint has"):
            checkpoint.restore(tmp_path, template, fingerprint={}, warn=pytest.fail)


def test_where_tensorstore_cannot_write_it_writes_elsewhere(tmp_path, monkeypatch):
    written = []
    write = arrays._write

    def lacking(folder, content):
        if folder.is_relative_to(tmp_path):
            folder.mkdir()
            (folder / "half").touch()
            raise OSError(errno.ENOSYS, "Function not implemented")
        written.append(folder)
        write(folder, content)

    monkeypatch.setattr(arrays, "_write", lacking)
    monkeypatch.setattr(arrays, "_copied", False)
    for step in (1, 2):
        save(tmp_path / "checkpoints", step)
    assert checkpoint.steps(tmp_path / "checkpoints") == [1, 2]
    assert warned(tmp_path / "checkpoints") == []
    assert not any(folder.exists() for folder in written)
    monkeypatch.setattr(arrays, "_copied", False)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(OSError, match="not implemented"):  # which all would have to do alike
        arrays.write_arrays(tmp_path / "state", TREE)
