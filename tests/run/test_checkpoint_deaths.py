"""Checkpoints: a full disk or a sudden death loses nothing."""

import errno
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import StorageError
from rnnlab.run import arrays, checkpoint
from tests.run.checkpoints import (
    restore,
    save,
    small,
)


class Death(BaseException):
    """Stands for SIGKILL: no handler for errors may see it."""


def fail_at(monkeypatch, count, error):
    """Makes the count-th call that changes a folder raise `error`, some of them half done.

    Returns a function that says whether it came to that.
    """
    calls = itertools.count()
    failed = []

    def patch(module, name, half_done):
        real = getattr(module, name)

        def call(*args, **kw):
            if next(calls) != count:
                return real(*args, **kw)
            failed.append(name)
            half_done(args[0])
            raise error

        monkeypatch.setattr(module, name, call)

    patch(os, "rename", lambda path: None)
    patch(os, "mkdir", lambda path: None)
    patch(shutil, "rmtree", lambda path: next(Path(path).rglob("*.*")).unlink())
    patch(os, "replace", lambda path: None)
    patch(checkpoint, "sync", lambda path: None)
    patch(checkpoint, "sync_and_hash", lambda path: None)
    return lambda: bool(failed)


@pytest.fixture
def quick(monkeypatch):
    """NumPy in Orbax's place, for tests of the folders alone."""

    def write(folder, arrays):
        folder.mkdir()
        np.savez(folder / "arrays.npz", **arrays)

    def read(folder, like):
        with np.load(folder / "arrays.npz") as arrays:
            return dict(arrays)

    monkeypatch.setattr(arrays, "write_arrays", write)
    monkeypatch.setattr(arrays, "read_arrays", read)


def sweep(tmp_path, monkeypatch, error, expected, step):
    """Saves `step` and removes the others, failing at every call in turn; yields what is left."""
    before = tmp_path / "before"
    save(before, 1, small(10))
    save(before, 2, small(20))
    for count in range(200):
        root = tmp_path / "checkpoints"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(before, root)
        message = None
        with monkeypatch.context() as patch:
            failed = fail_at(patch, count, error)
            try:
                save(root, step, small(30), keep=1)
            except expected as raised:
                message = str(raised)
            if not failed():
                assert count > 12
                return
        yield root, message
    pytest.fail("no end to the calls")


@pytest.mark.parametrize(
    "name", ["run[1]*", "a'b\"c\\d", "%41?x#y&z=1", " two words ", "ünï☃", "new\nline"]
)
def test_any_name_of_a_folder_is_itself(tmp_path, name):
    root = tmp_path / "above" / name / "checkpoints"
    root.parent.mkdir(parents=True)
    save(root, 3, small(7))
    state, _, warnings = restore(root)
    assert (int(state["step"]), warnings) == (7, [])
    assert [path.name for path in (tmp_path / "above").iterdir()] == [name]


def test_what_does_not_come_to_its_place_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "write_arrays", lambda folder, arrays: folder.mkdir())
    with pytest.raises(StorageError, match="the arrays were not written there"):
        save(tmp_path / "checkpoints", 1)
    assert checkpoint.steps(tmp_path / "checkpoints") == []


def test_a_folder_that_goes_in_a_save_stays_away(tmp_path, monkeypatch):
    """Though what writes goes on for a moment after it has failed, and makes each folder again."""
    root = tmp_path / "run" / "checkpoints"
    root.parent.mkdir()
    threads = []

    def write(folder, arrays):
        def go_on():
            for n in range(40):
                (folder / f"state.tmp-{n}").mkdir(parents=True, exist_ok=True)
                time.sleep(0.01)

        shutil.rmtree(root.parent)
        threads.append(threading.Thread(target=go_on))
        threads[0].start()
        time.sleep(0.05)
        raise OSError(errno.ENOENT, "a file has gone")

    monkeypatch.setattr(arrays, "write_arrays", write)
    with pytest.raises(StorageError, match="it was removed or moved meanwhile"):
        save(root, 1)
    threads[0].join()
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_jumps_ends_no_save(tmp_path, monkeypatch):
    """As it does where the machine slept in the middle of one."""
    real, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + 86400.0 * next(looks))
    save(tmp_path / "checkpoints", 1, small(10))
    monkeypatch.undo()
    assert next(looks) > 10
    assert restore(tmp_path / "checkpoints")[2] == []


def test_a_save_that_failed_is_told_once(tmp_path, monkeypatch, caplog):
    """Though Orbax's threads log what they raised when they end, which may be later."""

    def save_nothing(*_):
        raise ValueError("RESOURCE_EXHAUSTED: Error opening [os_error_code='24']")

    monkeypatch.setattr(arrays._orbax(), "save", save_nothing)
    with pytest.raises(StorageError, match="Too many open files"):
        save(tmp_path / "checkpoints", 1)
    logger = logging.getLogger("absl")
    logger.error("[thread=np_type_handler] _SignalingThread.run() raised an exception: x")
    logger.error("something else")
    assert [record.message for record in caplog.records] == ["something else"]


@pytest.mark.parametrize("step", [None, "best"])
def test_what_goes_away_while_it_is_read_is_no_fault(tmp_path, monkeypatch, quick, step):
    """As when a run that trains makes place for its next checkpoint."""
    root, read = tmp_path / "checkpoints", arrays.read_arrays
    save(root, 1, small(10), metric=1.0)

    def overtaken(folder, like):
        monkeypatch.setattr(arrays, "read_arrays", read)
        save(root, 2, small(20), metric=0.5, keep=1)
        assert not folder.exists()
        return read(folder, like)

    monkeypatch.setattr(arrays, "read_arrays", overtaken)
    state, meta, warnings = restore(root, step=step)
    assert (int(state["step"]), meta["step"], warnings) == (20, 2, [])


def test_one_that_is_damaged_is_named_once_though_another_goes_away(tmp_path, monkeypatch, quick):
    root, read = tmp_path / "checkpoints", arrays.read_arrays
    for step in (1, 2, 3):
        save(root, step)
    (root / "00000003" / "meta.json").unlink()

    def gone(folder, like):
        monkeypatch.setattr(arrays, "read_arrays", read)
        shutil.rmtree(folder.parent)
        return read(folder, like)

    monkeypatch.setattr(arrays, "read_arrays", gone)
    state, meta, (warning,) = restore(root)
    assert (int(state["step"]), meta["step"]) == (1, 1)
    assert "00000003 is not valid: meta.json is missing" in warning


def test_a_reader_beside_one_who_saves(tmp_path, quick):
    root, done = tmp_path / "checkpoints", threading.Event()
    save(root, 1, small(1), metric=1.0, keep=2)

    def go_on():
        for step in itertools.count(2):
            save(root, step, small(step), metric=1.0 / step, keep=2)
            if done.is_set():
                return

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        seen = [restore(root, step=step) for step in (None, "best") * 40]
    finally:
        done.set()
        writer.join()
    assert [warnings for _, _, warnings in seen] == [[]] * 80
    assert all(int(state["step"]) == meta["step"] for state, meta, _ in seen)
    assert len({meta["step"] for _, meta, _ in seen}) > 2


@pytest.mark.parametrize("saved", [2, 3])
def test_death_at_any_point_loses_nothing(tmp_path, monkeypatch, quick, saved):
    seen = set()
    for root, _ in sweep(tmp_path, monkeypatch, Death(), Death, saved):
        state, meta, warnings = restore(root)
        assert warnings == []
        assert (meta["step"], int(state["step"])) in ((2, 20), (saved, 30))
        seen.add(int(state["step"]))
        for step in checkpoint.steps(root):
            assert restore(root, step=step)[2] == []
        checkpoint.clean(root)
        assert restore(root)[1:] == (meta, [])
        assert all(p.name.isdigit() for p in root.iterdir())
        save(root, 4, keep=1)
        assert checkpoint.steps(root) == [4]
    assert seen == {20, 30}


@pytest.mark.parametrize("saved", [2, 3])
def test_a_full_disk_at_any_point_loses_nothing(tmp_path, monkeypatch, quick, saved):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    told = 0
    for root, message in sweep(tmp_path, monkeypatch, full, StorageError, saved):
        if message is not None:  # mkdir of a folder that is there may fail
            assert message.startswith(f"cannot write checkpoint {root}")
            assert message.endswith(": No space left on device")
            told += 1
        state, meta, warnings = restore(root)
        assert warnings == []
        assert (meta["step"], int(state["step"])) in ((2, 20), (saved, 30))
        save(root, 4, keep=1)
        assert sorted(p.name for p in root.iterdir()) == ["00000004"]
    assert told > 10


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("RESOURCE_EXHAUSTED: file 5: full [os_error_code='28']", "No space left on device"),
        ("DATA_LOSS: Error writing\nto a file", "DATA_LOSS: Error writing"),
    ],
)
def test_what_orbax_cannot_write_is_one_line(tmp_path, monkeypatch, raised, told):
    def refuse(*_):
        raise ValueError(raised)

    save(tmp_path, 1)
    monkeypatch.setattr(arrays._orbax(), "save", refuse)
    with pytest.raises(StorageError) as error:
        save(tmp_path, 2)
    assert str(error.value) == f"cannot write checkpoint {tmp_path / '00000002'}: {told}"
    assert error.value.exit_code == 5
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(StorageError, match="cannot write checkpoint"):
        save(tmp_path / "checkpoints", 1)


SAVER = """
import sys
import numpy as np
from pathlib import Path
from rnnlab.run import arrays, checkpoint

root, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    state = {f"w{i}": np.full((64, 64), step, np.float32) for i in range(4)}
    for again in range(2):
        metric = -float(step % 5)
        checkpoint.save(root, step, state, metric=metric, extra={}, fingerprint={}, keep=2)
        print(step, flush=True)
    step += 1
"""


def kill_savers(root, kills):
    template = {f"w{i}": jax.ShapeDtypeStruct((64, 64), jnp.float32) for i in range(4)}
    chance = random.Random(kills)
    step = 1
    for _ in range(kills):
        command = [sys.executable, "-c", SAVER, str(root), str(step)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as saver:
            assert saver.stdout is not None
            first = saver.stdout.readline()
            time.sleep(chance.uniform(0, 0.4))
            saver.send_signal(signal.SIGKILL)
            told = [first, *saver.stdout.read().splitlines()]
        last = max(int(line) for line in told if line.strip())
        warnings = []
        got = checkpoint.restore(root, template, fingerprint={}, warn=warnings.append)
        assert got is not None
        assert warnings == []
        assert got[1]["step"] in (last, last + 1)
        for listed in checkpoint.steps(root):
            one = checkpoint.restore(
                root, template, step=listed, fingerprint={}, warn=warnings.append
            )
            assert one is not None
            assert {float(w) for leaf in jax.tree.leaves(one[0]) for w in leaf.ravel()} == {listed}
        assert warnings == []
        step = got[1]["step"] + 1
    checkpoint.clean(root)
    assert all(p.name.isdigit() for p in root.iterdir())


def test_kill(tmp_path):
    kill_savers(tmp_path / "checkpoints", 2)


@pytest.mark.slow
def test_many_kills(tmp_path):
    kill_savers(tmp_path / "checkpoints", 20)
