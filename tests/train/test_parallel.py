"""A step split over devices is the step on one: the same mathematics, and close to the same bits."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.run import checkpoint, config
from rnnlab.run.files import read_rows
from rnnlab.run.folder import lock
from rnnlab.train import parallel
from rnnlab.train.from_config import build
from rnnlab.train.state import configured_state
from rnnlab.train.step import make_train_step
from tests.support import ROOT
from tests.train.splits import split_of, two_devices

pytestmark = pytest.mark.exact

STEPS = 5
CHANGES = [
    "model.hidden=8",
    "model.layers=2",
    "optim.clip_norm=0.05",  # clips every step
    "optim.warmup_steps=0",
    "data.forget=0.3",  # some rows start from a zero state
    "train.batch_size=4",
    "train.window=8",
    "train.steps=60",
    "eval.streams=2",
    "eval.window=32",
    "eval.burn_in=0",
    "eval.random_windows=4",
    "eval.random_window=16",
    "sample.length=10",
]


def as_dtype(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, tree)


@functools.cache
def built(text, *changes):
    settings = config.load(
        str(ROOT / "experiments" / "default.py"), [*CHANGES, f"data.path={text}", *changes]
    )
    return settings, *build(settings)


def stepped(text, kind, dtype=np.float32, *, changes=(), batch=None, reduction="mean", group=1):
    """(the state after STEPS steps, as one process has it; the last report)."""
    settings, task, optimiser = built(text, *changes)
    split = split_of(kind)
    state = configured_state(settings, task, optimiser)
    names = ("params", "average", "optimiser", "carry")
    state = state.replace(**{name: as_dtype(getattr(state, name), dtype) for name in names})
    state = parallel.place_state(split, state)
    step = make_train_step(
        task,
        optimiser,
        average_decay=0.9,
        reduction=reduction,
        log_every=STEPS,
        split=split,
        group=group,
    )
    batch = batch or task.batch
    for number in range(0, STEPS, group):
        these = [batch(n) for n in range(number, min(number + group, STEPS))]
        state, report = step(state, these if group > 1 else these[0])
        jax.block_until_ready(report)
    return parallel.gather_state(split, state), report


def worst(a, b) -> float:
    """The largest difference, relative to the largest entry of its leaf."""

    def of(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    return max(of(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def numbers(state):
    return state.replace(key=jax.random.key_data(state.key))


@two_devices
@pytest.mark.parametrize(
    ("kind", "reduction"),
    [
        pytest.param("apart", "mean", marks=pytest.mark.slow),
        pytest.param("apart", "sum_over_time", marks=pytest.mark.slow),
        ("mesh", "mean"),
    ],
)
def test_two_devices_are_one_in_float64(kind, reduction, text, float64):
    one, told = stepped(text, "single", np.float64, reduction=reduction)
    two, also = stepped(text, kind, np.float64, reduction=reduction)
    assert worst(numbers(one), numbers(two)) < 1e-10
    assert float(told["clipped"]) == STEPS
    also = {name: also[name] for name in told}  # a mesh tells of signals too
    assert worst(told, also) < 1e-10
    assert all(x.dtype == np.float64 for x in jax.tree.leaves(two.params))


@pytest.mark.slow
@two_devices
@pytest.mark.parametrize("kind", ["apart", pytest.param("mesh", marks=pytest.mark.slow)])
def test_two_devices_are_one_in_float32(kind, text):
    one, _ = stepped(text, "single")
    two, _ = stepped(text, kind)
    # Adam divides by the root of a second moment: where that is near 0 it shows the last bits.
    assert worst(one.params, two.params) < 1e-5
    assert worst(one.carry, two.carry) < 1e-5


@pytest.mark.slow
@two_devices
def test_in_a_mesh_dropout_is_that_of_one_device(text):
    changes = ("model.dropout=0.5",)
    one, _ = stepped(text, "single", changes=changes)
    two, _ = stepped(text, "mesh", changes=changes)
    assert worst(one.params, two.params) < 1e-5


@pytest.mark.slow
@two_devices
def test_apart_each_device_draws_masks_of_its_own(text):
    """Two halves of a batch that are alike come to different states, and always the same ones."""

    def twice(number):
        batch = built(text, "model.dropout=0.5")[1].batch(number)
        return {
            name: np.concatenate(np.split(leaf, 2, axis=min(leaf.ndim - 1, 1))[:1] * 2, axis=-1)
            for name, leaf in batch.items()
        }

    runs = [stepped(text, "apart", changes=("model.dropout=0.5",), batch=twice) for _ in range(2)]
    h = np.asarray(jax.tree.leaves(runs[0][0].carry)[-1])
    assert not np.array_equal(h[:2], h[2:])
    a, b = (jax.tree.leaves(numbers(state)) for state, _ in runs)
    assert all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(a, b, strict=True)
    )
    dry, _ = stepped(text, "apart", batch=twice)
    h = np.asarray(jax.tree.leaves(dry.carry)[-1])
    np.testing.assert_array_equal(h[:2], h[2:])


@two_devices
@pytest.mark.parametrize("kind", ["apart", "mesh"])
def test_a_fault_on_one_device_stops_all(kind, text, monkeypatch):
    settings, task, optimiser = built(text)

    def loss(params, carry, batch, key):
        after, sums = task.loss(params, carry, batch, key)
        bad = jax.numpy.where(batch["bad"], jax.numpy.nan, 0.0).sum()
        return after, {"loss": (sums["loss"][0] + bad, sums["loss"][1])}

    split = split_of(kind)
    state = parallel.place_state(split, configured_state(settings, task, optimiser))
    step = make_train_step(
        task._replace(loss=loss),
        optimiser,
        average_decay=0.9,
        reduction="mean",
        log_every=5,
        split=split,
    )
    kept = []
    for number, bad in enumerate([False, False, True, False]):
        rows = np.array([False, False, False, bad])  # of the second device
        state, report = step(state, {**task.batch(number), "bad": rows})
        jax.block_until_ready(report)
        kept.append([np.array(x) for x in jax.tree.leaves((state.params, state.carry))])
    assert int(report["fault"]) == 3
    assert int(state.step) == 2
    assert not np.array_equal(kept[0][-1], kept[1][-1])
    for later in kept[2:]:
        assert all(np.array_equal(a, b) for a, b in zip(kept[1], later, strict=True))


@pytest.mark.slow
@two_devices
def test_groups_of_steps_in_a_mesh(text, float64):
    one, _ = stepped(text, "single", np.float64)
    two, _ = stepped(text, "mesh", np.float64, group=3)
    assert worst(numbers(one), numbers(two)) < 1e-10


@pytest.mark.slow
def test_a_soak():
    """As its command line does 20,000 at 2 x 128; a process of its own, since a hang would end it."""
    sizes = ["--steps=2000", "--layers=1", "--hidden=16", "--batch=8", "--window=8"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *sizes],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 devices, 2000 steps")
    assert done.stdout.endswith("finished\n")


# Which devices


def test_how_a_batch_is_cut():
    batch = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    np.testing.assert_array_equal(parallel._rows(batch, 1, 3), batch[:, 2:4])
    np.testing.assert_array_equal(parallel._rows(batch[0, :, 0], 2, 3), batch[0, 4:, 0])
    assert parallel._rows(np.float32(7.0), 1, 3) == 7.0


def test_how_many_devices(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    counted = {b: parallel.host_devices(requested=0, batch=b) for b in (1, 16, 24, 50, 64)}
    assert counted == {1: 1, 16: 1, 24: 1, 50: 2, 64: 4}
    assert parallel.host_devices(requested=5, batch=1) == 5
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert parallel.host_devices(requested=0, batch=64) == 1
    assert parallel.choose_split(requested=0, batch=64) is parallel.SINGLE
    # As a library, where JAX runs with the devices that it has: no more than those.
    monkeypatch.setattr(parallel, "cores", lambda: 64)
    assert parallel.choose_split(requested=0, batch=4096) is parallel.SINGLE
    with pytest.raises(UsageError, match=r"parallel\.devices is 64, and there are"):
        parallel.choose_split(requested=64, batch=4096)


@two_devices
def test_devices_that_do_not_divide_the_batch(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    with pytest.raises(UsageError, match="7 cannot be split over 2 devices"):
        parallel.choose_split(requested=2, batch=7)
    split = parallel.choose_split(requested=2, batch=8)
    assert (split.name, split.mesh) == ("2 devices", None)


def test_cores(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    assert parallel.cores() == 3
    monkeypatch.setenv("NPROC", "many")
    assert parallel.cores() >= 1


# Several processes


def started(text, workdir, *changes, process=None, port=None) -> subprocess.Popen:
    flags = []
    if process is not None:
        flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={process}"]
    quiet = ("train.log_every=3", "train.checkpoint_every=10", "train.eval_every=10")
    overrides = [*CHANGES, f"data.path={text}", "train.steps=20", *quiet, *changes]
    return subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "launch.py"),
            "train",
            f"--config={ROOT / 'experiments' / 'default.py'}",
            f"--workdir={workdir}",
            *flags,
            *[f"--config.{change}" for change in overrides],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RNNLAB_CACHE": str(text.parent / "cache")},
    )


def ended(*processes) -> list[tuple[int, str, str]]:
    outputs = [p.communicate(timeout=300) for p in processes]
    return [(p.returncode, *o) for p, o in zip(processes, outputs, strict=True)]


def pair(text, workdir, *changes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [started(text, workdir, *changes, process=n, port=port) for n in range(2)]


def rows(workdir):
    return read_rows(workdir / "metrics.jsonl")


CONSTANT = ("optim.schedule=constant", "parallel.devices=0")


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> Path:
    """The folder of two runs alike, `one` and `two`, the latter by two processes."""
    folder = tmp_path_factory.mktemp("processes") / "000_seed=0"  # as a member of a sweep is named
    folder.mkdir()
    ((code, _, errors),) = ended(started(text, folder / "one", *CONSTANT))
    assert code == 0, errors
    both = ended(*pair(text, folder / "two", *CONSTANT))
    assert [code for code, _, _ in both] == [0, 0], both
    # Process 0 alone speaks.
    assert "done: 20 steps" in both[0][1]
    assert [line for line in both[1][1].splitlines() if not line.startswith("[Gloo]")] == []
    return folder


@pytest.mark.slow
def test_two_processes_are_one(trained):
    one, two = rows(trained / "one"), rows(trained / "two")
    assert [(r["step"], r["split"]) for r in one] == [(r["step"], r["split"]) for r in two]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    run = json.loads((trained / "two" / "run.json").read_text())
    assert (run["processes"], run["split"]) == (2, "2 devices in a mesh of 2 processes")
    assert len(list((trained / "two" / "tensorboard").iterdir())) == 1
    names = [sorted(p.name for p in (trained / n).iterdir()) for n in ("one", "two")]
    assert names[0] == names[1]


@pytest.mark.slow
def test_from_two_processes_to_one_and_back(trained, text, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(trained / name, tmp_path / name)
    ((code, _, errors),) = ended(started(text, tmp_path / "two", *CONSTANT, "train.steps=30"))
    assert code == 0, errors
    assert 'split: checkpoint has "2 devices in a mesh of 2 processes"' in errors
    both = ended(*pair(text, tmp_path / "two", *CONSTANT, "train.steps=40"))
    assert [code for code, _, _ in both] == [0, 0], both
    assert "equal bits are not promised" in both[0][2]
    ((code, _, errors),) = ended(started(text, tmp_path / "one", *CONSTANT, "train.steps=40"))
    assert code == 0, errors
    last = [rows(tmp_path / name)[-1] for name in ("one", "two")]
    assert last[1]["step"] == last[0]["step"] == 40
    assert last[1]["loss"] == pytest.approx(last[0]["loss"], rel=1e-3)


@pytest.mark.slow
def test_a_signal_to_either_process_stops_both(text, tmp_path):
    both = pair(text, tmp_path / "run", *CONSTANT, "train.steps=1000000")
    until = time.monotonic() + 200
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not rows(tmp_path / "run"):
        assert time.monotonic() < until
        time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    found = ended(*both)
    assert [code for code, _, _ in found] == [143, 143], found
    told = {re.search(r"interrupted after step (\d+)", errors)[1] for _, _, errors in found}
    assert len(told) == 1
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == int(told.pop())


@pytest.mark.slow
def test_a_folder_in_use_stops_both(text, tmp_path):
    with lock(tmp_path / "run"):
        found = ended(*pair(text, tmp_path / "run", *CONSTANT))
    assert [code for code, _, _ in found] == [6, 2], found
