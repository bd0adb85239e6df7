"""Checkpoints: what is saved comes back bit for bit, what is kept, and what is of another run."""

import json
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnnlab.errors import UsageError
from rnnlab.run import checkpoint
from tests.run.checkpoints import (
    FINGERPRINT,
    assert_identical,
    flip_a_bit,
    restore,
    save,
    small,
    train_state,
)

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
