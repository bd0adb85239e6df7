"""Checkpoints: what is saved comes back bit for bit, what is damaged is named, nothing is lost."""

import errno
import itertools
import json
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
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnnlab.errors import CheckpointError, StorageError, UsageError
from rnnlab.run import arrays, checkpoint

FINGERPRINT = {"model": {"hidden": 4, "layers": [4, 4]}, "vocabulary": "abc"}


class Carry(NamedTuple):
    c: Any
    h: Any


@flax.struct.dataclass
class State:
    params: Any
    optimiser: Any
    carry: Any
    key: Any
    step: Any
    nothing: Any = None
    name: str = flax.struct.field(pytree_node=False, default="static")


def save(root, step, state=None, *, metric=None, keep=10, **kw):
    state = small(step) if state is None else state
    kw = {"extra": {}, "fingerprint": FINGERPRINT} | kw
    return checkpoint.save(root, step, state, metric=metric, keep=keep, **kw)


def restore(root, template=None, *, step: Any = None, fingerprint=FINGERPRINT):
    """Returns (state, meta, warnings)."""
    template = small(0) if template is None else template
    warnings = []
    got = checkpoint.restore(
        root, template, step=step, fingerprint=fingerprint, warn=warnings.append
    )
    assert got is not None
    return *got, warnings


def small(step):
    return {"w": np.full((3, 2), step, np.float32), "step": np.array(step, np.int32)}


def train_state():
    params = {
        "cell": {"kernel": jax.random.normal(jax.random.key(1), (5, 8)), "bias": jnp.zeros(8)},
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    }
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    carry = (Carry(jnp.ones((2, 4)), jnp.full((2, 4), jnp.nan)), ())
    return State(params, optimiser, carry, jax.random.key(7), jnp.int32(3))


def assert_identical(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(a) is type(b)
        if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


# ---- round trip


@pytest.mark.parametrize("abstract", [False, True])
def test_train_state_round_trip(tmp_path, abstract):
    state = train_state()
    folder = save(tmp_path, 3, state, metric=1.5, extra={"seconds": 2.5, "best": float("inf")})
    assert folder.name == "00000003"
    template = jax.eval_shape(lambda: state) if abstract else state
    got, meta, warnings = restore(tmp_path, template)
    assert_identical(got, state)
    assert warnings == []
    assert got.name == "static"
    assert (meta["step"], meta["metric"]) == (3, 1.5)
    assert meta["extra"] == {"seconds": 2.5, "best": "inf"}
    assert meta["fingerprint"] == FINGERPRINT
    assert not any(leaf.committed for leaf in jax.tree.leaves(got))


def test_every_kind_of_leaf(tmp_path):
    state = {
        "numpy": np.arange(3),
        "scalars": [np.int64(2**60), np.float32(0.1), np.bool_(True)],
        "python": (True, 3, 0.1, 2j),
        "keys": [jax.random.split(jax.random.key(0), 3), jax.random.key(1, impl="rbg")],
        "legacy key": jax.random.PRNGKey(2),
        "empty": [jnp.zeros((0, 3)), np.zeros(0, np.int8), (), {}, None, optax.EmptyState()],
        "a/b.c": {"": jnp.ones(2), "['x']": jnp.zeros(()), "é\n": jnp.full(1, -0.0)},
        1: {2: jnp.int8([-128, 127])},
    }
    state = {str(name): value for name, value in state.items()}
    save(tmp_path, 1, state)
    assert_identical(restore(tmp_path, state)[0], state)


@pytest.mark.parametrize("state", [(), {"a": None}, {"a": jnp.zeros((2, 0))}])
def test_nothing_to_write(tmp_path, state):
    save(tmp_path, 1, state)
    assert_identical(restore(tmp_path, state)[0], state)


BITS = [
    *(np.dtype(kind) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4")),
    *(np.dtype(kind) for kind in ("u8", "c8", "c16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)),
]


@st.composite
def any_bits(draw):
    dtype = draw(st.sampled_from(BITS))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)


@settings(max_examples=10, deadline=None)
@given(st.lists(any_bits(), max_size=6))
def test_any_bits_round_trip(tmp_path_factory, arrays):
    root = tmp_path_factory.mktemp("bits")
    wide = {np.dtype(kind) for kind in ("f8", "i8", "u8", "c16")}
    state = [array if array.dtype in wide else jnp.array(array) for array in arrays]
    save(root, 1, state)
    assert_identical(restore(root, state)[0], state)
    shutil.rmtree(root)


def test_nan_payloads(tmp_path):
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000], np.uint32)
    half = np.array([0x7FC1, 0xFFFF, 0x7F81], np.uint16).view(ml_dtypes.bfloat16)
    state = {"f32": jnp.array(bits.view(np.float32)), "bf16": jnp.array(half)}
    save(tmp_path, 1, state)
    got = restore(tmp_path, state)[0]
    assert np.asarray(got["f32"]).view(np.uint32).tolist() == bits.tolist()
    assert np.asarray(got["bf16"]).view(np.uint16).tolist() == half.view(np.uint16).tolist()


def test_restored_state_continues_a_donated_step(tmp_path):
    tx = optax.adam(1e-2)

    def loss(params, key):
        return jnp.sum(jnp.tanh(jax.random.normal(key, (4, 5)) @ params["w"]) ** 2)

    @jax.jit
    def init(key):
        params = {"w": jax.random.normal(key, (5, 3))}
        return params, tx.init(params), key

    def step(state):
        params, optimiser, key = state
        key, now = jax.random.split(key)
        updates, optimiser = tx.update(jax.grad(loss)(params, now), optimiser, params)
        return optax.apply_updates(params, updates), optimiser, key

    step = jax.jit(step, donate_argnums=0)
    state = init(jax.random.key(0))
    for _ in range(3):
        state = step(state)
    save(tmp_path, 3, state)
    template = jax.eval_shape(init, jax.random.key(0))
    for _ in range(4):
        state = step(state)
    again = restore(tmp_path, template)[0]
    for _ in range(4):
        old, again = again, step(again)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert_identical(again, state)
    assert step._cache_size() == 1


def test_the_files_say_what_they_are(tmp_path):
    folder = save(tmp_path, 12, train_state(), metric=float("nan"))
    for name in ("meta.json", "manifest.json"):
        json.loads((folder / name).read_text(), parse_constant=pytest.fail)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["metric"] is None
    assert meta["leaves"][".params['cell']['kernel']"] == "float32[5, 8]"
    assert meta["leaves"][".key"] == "key<fry>[]"
    assert {"jax", "jaxlib", "numpy", "orbax-checkpoint", "backend", "NPROC"} <= set(
        meta["environment"]
    )
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(json.loads((folder / "manifest.json").read_text())["files"]) == files - {
        "manifest.json"
    }


def test_no_thread_and_no_sound_is_left(tmp_path, capfd, caplog):
    save(tmp_path, 1)  # the first save starts what Orbax keeps
    before = set(threading.enumerate())
    save(tmp_path, 2)
    restore(tmp_path)
    until = time.monotonic() + 20  # asyncio tells its idle threads to end and does not wait
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_leaf_that_is_no_number(tmp_path):
    with pytest.raises(TypeError, match=r"\['w'\] is no number: str"):
        save(tmp_path, 1, {"w": "text"})
    assert checkpoint.steps(tmp_path) == []


# ---- damage


def flip_a_bit(path, at):
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(b"\0")
        return
    position = min(int(at * len(content)), len(content) - 1)
    content[position] ^= 1 << random.Random(at).randrange(8)
    path.write_bytes(content)


def test_damage_of_any_file_is_seen(tmp_path):
    root = tmp_path / "checkpoints"
    save(root, 1, train_state())
    save(root, 2, train_state())
    paths = [p for p in (root / "00000002").rglob("*") if p.is_file()]
    assert len(paths) > 5
    template = train_state()

    def falls_back(damage):
        _, meta, warnings = restore(root, template)
        assert meta["step"] == 1, damage
        assert len(warnings) == 1, damage
        assert "00000002 is not valid: " in warnings[0]
        assert "\n" not in warnings[0]
        return warnings[0]

    for path in paths:
        content = path.read_bytes()
        for at in (0.0, 0.3, 0.99):
            flip_a_bit(path, at)
            falls_back(f"flip in {path}")
            path.write_bytes(content)
        path.unlink()
        assert f"{path.name} is missing" in falls_back(f"no {path}")
        path.write_bytes(content[:-1] if content else b"x")
        falls_back(f"cut {path}")
        path.write_bytes(content)
    extra = root / "00000002" / "state" / "extra"
    extra.write_bytes(b"")
    assert "state/extra is not in the manifest" in falls_back("extra file")
    extra.unlink()
    assert restore(root, template)[1:][0]["step"] == 2


def test_one_step_asked_for_has_no_substitute(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "meta.json").unlink()
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        restore(tmp_path, step=2)
    with pytest.raises(UsageError, match=r"no checkpoint of step 7 .* there are: 1, 2"):
        restore(tmp_path, step=7)
    assert restore(tmp_path, step=1)[1]["step"] == 1


def test_none_and_none_valid(tmp_path):
    def get():
        return checkpoint.restore(tmp_path / "c", small(0), fingerprint={}, warn=warnings.append)

    warnings = []
    assert get() is None
    (tmp_path / "c").mkdir()
    assert get() is None
    (tmp_path / "c" / ".writing-5" / "state").mkdir(parents=True)
    assert get() is None
    assert warnings == []
    (tmp_path / "c" / "00000003").mkdir()
    assert checkpoint.steps(tmp_path / "c") == []
    with pytest.raises(CheckpointError) as error:
        get()
    assert error.value.exit_code == 4
    assert len(warnings) == 1
    assert "manifest.json is missing" in warnings[0]


def test_an_empty_folder_does_not_pass_for_the_newest(tmp_path):
    save(tmp_path, 2)
    (tmp_path / "00000003").mkdir()
    _, meta, warnings = restore(tmp_path)
    assert meta["step"] == 2
    assert len(warnings) == 1
    assert checkpoint.steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert restore(tmp_path)[1:] == (restore(tmp_path)[1], [])
    assert checkpoint.steps(tmp_path) == [2, 3]


def test_a_run_goes_on_from_where_it_fell_back_to(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "00000300" / "manifest.json", 0.5)
    assert restore(tmp_path)[1]["step"] == 200
    save(tmp_path, 250, keep=1)
    assert checkpoint.steps(tmp_path) == [250]
    assert restore(tmp_path)[1:][1] == []


# ---- another run's checkpoint


@pytest.mark.parametrize(
    ("fingerprint", "told"),
    [
        (
            FINGERPRINT | {"model": {"hidden": 8, "layers": [4, 4]}},
            "model.hidden: checkpoint has 4, this run has 8",
        ),
        (
            {"model": {"hidden": 4, "layers": (4,)}, "vocabulary": "abc\n", "new": None},
            "model.layers: checkpoint has [4, 4], this run has [4]; "
            'vocabulary: checkpoint has "abc", this run has "abc\\n"; '
            "new: checkpoint has nothing, this run has null",
        ),
    ],
)
def test_fingerprint(tmp_path, fingerprint, told):
    save(tmp_path, 1)
    with pytest.raises(UsageError) as error:
        restore(tmp_path, fingerprint=fingerprint)
    assert str(error.value).endswith(f"00000001 is not of this run: {told}")
    assert error.value.exit_code == 2


def test_fingerprint_in_other_words(tmp_path):
    fingerprint = {"b": (1, 2), "a": {"x": float("nan")}, "n": np.float32(0.5)}
    save(tmp_path, 1, fingerprint=fingerprint)
    same = {"n": 0.5, "a": {"x": float("nan")}, "b": [1, 2]}
    assert restore(tmp_path, fingerprint=same)[1]["step"] == 1


def test_a_long_difference_stays_short(tmp_path):
    save(tmp_path, 1, fingerprint={"vocabulary": "x" * 5000})
    with pytest.raises(UsageError) as error:
        restore(tmp_path, fingerprint={"vocabulary": "x" * 4999 + "y"})
    assert len(str(error.value)) < 400 + len(str(tmp_path))
    assert "5002 characters, sha256" in str(error.value)
    with pytest.raises(UsageError, match="; and 12 more"):
        restore(tmp_path, fingerprint={str(n): n for n in range(19)})


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ({"w": np.zeros((2, 3), np.float32)}, r'"float32\[3, 2\]", this run has "float32\[2, 3\]"'),
        ({"w": jnp.zeros((3, 2), jnp.bfloat16)}, r'this run has "bfloat16\[3, 2\]"'),
        ({"w": np.zeros((3, 2))}, r'this run has "float64\[3, 2\]"'),
        ({"w": None}, "this run has nothing"),
        ({"v": jnp.zeros(3)}, r"\['v'\]: checkpoint has nothing"),
        ({"w": jax.random.key(0)}, r'this run has "key<fry>\[\]"'),
    ],
)
def test_shape_or_dtype_mismatch(tmp_path, template, told):
    save(tmp_path, 1)
    with pytest.raises(UsageError, match=told):
        restore(tmp_path, small(0) | template)


def test_another_machine_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "7")
    save(tmp_path, 1)
    monkeypatch.delenv("NPROC")
    _, meta, warnings = restore(tmp_path)
    assert meta["environment"]["NPROC"] == "7"
    assert len(warnings) == 1
    assert 'NPROC: checkpoint has "7", this run has null' in warnings[0]


def test_leaves_that_came_later_are_zero(tmp_path):
    old = small(3)
    save(tmp_path, 1, old)
    template = old | {"count": jnp.ones((), jnp.int32), "more": np.ones(2, np.float32)}
    later = ("['count']", "['more']", "['not of this template']")
    warnings = []
    state, _ = checkpoint.restore(
        tmp_path, template, fingerprint=FINGERPRINT, warn=warnings.append, later=later
    )
    wanted = old | {"count": jnp.zeros((), jnp.int32), "more": np.zeros(2, np.float32)}
    assert_identical(state, wanted)
    assert warnings == []
    with pytest.raises(UsageError, match="checkpoint has nothing"):
        restore(tmp_path, template)
    # What is there is read, and must be of the template's shape.
    save(tmp_path, 2, wanted | {"count": jnp.full((), 7, jnp.int32)})
    options = {"fingerprint": FINGERPRINT, "warn": warnings.append, "later": later}
    assert int(checkpoint.restore(tmp_path, template, **options)[0]["count"]) == 7
    with pytest.raises(UsageError, match="count"):
        checkpoint.restore(tmp_path, template | {"count": np.zeros(2)}, **options)


# ---- retention


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, metric in enumerate([5.0, 1.0, None, 3.0, float("nan"), 4.0, 9.0], start=1):
        save(tmp_path, step, metric=metric, keep=2)
        assert step in checkpoint.steps(tmp_path)
    assert checkpoint.steps(tmp_path) == [2, 6, 7]
    assert restore(tmp_path)[1]["step"] == 7
    assert restore(tmp_path, step="best")[1]["step"] == 2
    flip_a_bit(tmp_path / "00000002" / "meta.json", 0.5)
    _, meta, warnings = restore(tmp_path, step="best")
    assert meta["step"] == 6
    assert len(warnings) == 1
    save(tmp_path, 8, metric=0.5, keep=1)
    assert checkpoint.steps(tmp_path) == [8]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000008"]


def test_what_comes_after_a_step_is_dropped(tmp_path):
    for step, metric in ((10, 3.0), (20, 1.0), (30, 2.0)):
        save(tmp_path, step, metric=metric, keep=5)
    checkpoint.drop(tmp_path, after=20)
    assert checkpoint.steps(tmp_path) == [10, 20]
    assert not list(tmp_path.glob(".*"))
    assert restore(tmp_path)[1]["step"] == 20
    # The step is done again, and a fourth is kept as before.
    save(tmp_path, 30, metric=0.5, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 30]
    checkpoint.drop(tmp_path, after=0)
    assert checkpoint.steps(tmp_path) == []
    checkpoint.drop(tmp_path / "none", after=0)


def test_no_metric_no_best(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 3]
    with pytest.raises(UsageError, match="none is the best"):
        restore(tmp_path, step="best")
    with pytest.raises(UsageError, match="at least 1"):
        save(tmp_path, 4, keep=0)


def test_an_existing_step_is_replaced(tmp_path):
    save(tmp_path, 1, small(10))
    save(tmp_path, 2)
    save(tmp_path, 1, small(20))
    assert checkpoint.steps(tmp_path) == [1, 2]
    state, meta, warnings = restore(tmp_path, step=1)
    assert state["step"] == 20
    assert warnings == []
    assert meta["serial"] == 3
    assert restore(tmp_path)[1]["step"] == 1  # written last


# ---- a full disk and a sudden death


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
