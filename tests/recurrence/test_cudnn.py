"""cuDNN's LSTM: its layout, lengths and directions against `unroll`, by JAX's reference of it.

The reference, `jax.experimental.rnn.lstm_ref`, takes cuDNN's packed weights and is pure JAX. cuDNN
itself runs in the last tests, where there is a CUDA GPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from rnnlab import cells
from rnnlab.cells.lstm import Carry
from rnnlab.errors import UsageError
from rnnlab.models.stack import stack_cells
from rnnlab.recurrence import cudnn
from rnnlab.recurrence.unrolling import unroll

pytestmark = pytest.mark.usefixtures("strict_dtypes")

T, B, D, H = 6, 3, 4, 5
on_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a CUDA GPU")
stacks = pytest.mark.parametrize(
    ("depth", "bidirectional"),
    [
        pytest.param(n, both, marks=pytest.mark.slow if n == 1 else ())
        for n, both in ((1, False), (3, False), (1, True), (2, True))
    ],
)


def random_like(tree, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), dtype), tree)


def stack(depth, bidirectional, dtype=np.float64, time=T, batch=B, hidden=H, **options):
    """A model's layers, carry and input, all random."""
    net = stack_cells(
        input_size=D,
        output_size=1,
        cell="lstm",
        hidden=hidden,
        layers=depth,
        input="dense",
        bidirectional=bidirectional,
        cell_options=options,
    )
    layers = jax.eval_shape(net.init, jax.random.key(0))["layers"]
    carry = jax.eval_shape(lambda: net.carry(batch))
    x = jax.ShapeDtypeStruct((time, batch, D), dtype)
    return random_like((layers, carry, x), dtype)


def unrolled(layers, x, carry, lengths=None):
    """The same stack by `unroll`, layer by layer."""
    second = "bias_h" in layers[0].get("forward", layers[0])
    cell, ends = cells.get("lstm", hidden=carry[0][0].h.shape[-1], hidden_bias=second), []
    for layer, states in zip(layers, carry, strict=True):
        sides = [layer["forward"], layer["backward"]] if "forward" in layer else [layer]
        runs = [
            unroll(cell, params, x, state, lengths=lengths, reverse=bool(side))
            for side, (params, state) in enumerate(zip(sides, states, strict=True))
        ]
        ends.append(tuple(end for end, _ in runs))
        x = jnp.concatenate([y for _, y in runs], axis=-1)
    return tuple(ends), x


def by_reference(x, h, c, weights, steps, size, hidden, depth, dropout, bidirectional, precision):
    """In place of rnn.lstm: the reference on the same packed weights."""
    del precision
    parts = rnn.unpack_lstm_weights(weights, size, hidden, depth, bidirectional)
    return rnn.lstm_ref(x, h, c, *parts, steps, size, hidden, depth, dropout, bidirectional)


@pytest.fixture
def reference(monkeypatch, float64):
    monkeypatch.setattr(cudnn.rnn, "lstm", by_reference)
    monkeypatch.setattr(cudnn, "_obstacle", lambda dtypes, precision: "")


def close(a, b, tolerance=1e-12):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=tolerance), a, b)


def compare(ours, theirs, arguments, tolerance=1e-11):
    """Values, and gradients of a random functional, in every argument."""
    values = jax.jit(ours)(*arguments), jax.jit(theirs)(*arguments)
    close(*values, tolerance)
    weights = random_like(values[0], jax.tree.leaves(values[0])[0].dtype, seed=9)

    def gradient(function):
        def functional(*arguments):
            found = function(*arguments)
            return sum(jax.tree.leaves(jax.tree.map(lambda a, w: (a * w).sum(), found, weights)))

        return jax.jit(jax.grad(functional, tuple(range(len(arguments)))))(*arguments)

    close(gradient(ours), gradient(theirs), tolerance)


# The layout


@stacks
@pytest.mark.parametrize("hidden_bias", [False, True])
def test_pack_and_unpack_are_inverse(depth, bidirectional, hidden_bias):
    layers, _, _ = stack(depth, bidirectional, np.float32, hidden_bias=hidden_bias)
    weights = cudnn.pack(layers)
    sizes = {"input_size": D, "hidden": H, "layers": depth, "bidirectional": bidirectional}
    again = cudnn.unpack(weights, **sizes, hidden_bias=hidden_bias)
    close(again, layers, 0.0)
    np.testing.assert_array_equal(cudnn.pack(cudnn.unpack(weights, **sizes)), weights, strict=True)
    theirs = rnn.init_lstm_weight(jax.random.key(0), D, H, depth, bidirectional)
    np.testing.assert_array_equal(cudnn.pack(cudnn.unpack(theirs, **sizes)), theirs, strict=True)


def test_weights_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"shape \[7\], expected \[220\] for 1 layers of 5 units"):
        cudnn.unpack(jnp.zeros(7), input_size=D, hidden=H, layers=1)


# The whole, but for cuDNN itself


@stacks
@pytest.mark.parametrize(
    ("lengths", "hidden_bias"), [(None, False), ((6, 1, 4), True)], ids=["whole", "lengths"]
)
def test_a_stack_is_that_of_unroll(reference, depth, bidirectional, lengths, hidden_bias):
    layers, carry, x = stack(depth, bidirectional, hidden_bias=hidden_bias)
    lengths = None if lengths is None else jnp.array(lengths)
    compare(
        functools.partial(cudnn.lstm, lengths=lengths),
        functools.partial(unrolled, lengths=lengths),
        (layers, x, carry),
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, (0, 3, 9)], ids=["whole", "none_some_more"])
def test_run_is_unroll(reference, reverse, lengths):
    """A length of 0, one beyond T and NaN in the padding included."""
    cell = cells.get("lstm", hidden=H)
    (params,), ((carry,),), x = stack(1, False)
    options = {"lengths": None if lengths is None else jnp.array(lengths), "reverse": reverse}
    compare(
        lambda *a: cudnn.run(cell, *a, **options),
        lambda *a: unroll(cell, *a, **options),
        (params, x, carry),
    )
    if lengths is not None:
        holes = x.at[3:, 1].set(jnp.nan).at[:, 0].set(jnp.nan)
        close(
            cudnn.run(cell, params, holes, carry, **options),
            unroll(cell, params, x, carry, **options),
        )


def test_tokens_become_one_hot_rows(reference):
    cell = cells.get("lstm", hidden=H)
    (params,), _, _ = stack(1, False)
    x = jnp.asarray(np.random.default_rng(0).integers(-1, D + 1, (T, B)), jnp.int32)
    compare(lambda p: cudnn.run(cell, p, x), lambda p: unroll(cell, p, x), (params,))


# What it refuses


def test_without_a_gpu_it_says_so():
    if jax.default_backend() == "gpu":
        pytest.skip("there is one")
    layers, carry, x = stack(1, False, np.float32)
    cell = cells.get("lstm", hidden=H)
    for call in (
        lambda: cudnn.lstm(layers, x, carry),
        lambda: cudnn.run(cell, layers[0], x, carry[0][0]),
    ):
        with pytest.raises(UsageError, match="needs a CUDA GPU, and JAX runs on the cpu") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "path 'auto'" in str(caught.value)


REFUSED = [
    ("gru", {}, {}, "the cell lstm, not gru"),
    ("lstm", {"layer_norm": True}, {}, "no layer norm"),
    ("lstm", {"peepholes": True}, {}, "no peepholes"),
    ("lstm", {"zoneout": 0.1}, {}, "no zoneout"),
    ("lstm", {"recurrent_dropout": 0.1}, {}, "no recurrent dropout"),
    ("lstm", {"precision": "bf16"}, {}, "no precision 'bf16', only float32 and tf32"),
    ("lstm", {}, {"reset": np.zeros((T, B), bool)}, "reset the state inside a window"),
    ("lstm", {}, {"mask": np.ones((T, B), bool)}, "lengths, not a mask"),
    ("lstm", {}, {"chunk": 3}, "rematerialise"),
]


@pytest.mark.parametrize(("name", "options", "asked", "why"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_it_cannot_do_is_said(monkeypatch, name, options, asked, why):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cell = cells.get(name, hidden=H, **options)
    params, x = cell.init(jax.random.key(0), D), jnp.zeros((T, B, D))
    assert why in cudnn.supports(cell, params, x, cell.carry(B), **asked)
    with pytest.raises(UsageError, match=r"path 'cudnn' cannot run this cell: .*: use path 'auto'"):
        cudnn.run(cell, params, x, **asked)
    plain = cells.get("lstm", hidden=H, hidden_bias=True, precision="tf32")
    params = plain.init(jax.random.key(0), D)
    assert cudnn.supports(plain, params, x) == ""
    assert cudnn.supports(plain, params, jnp.zeros((T, B), jnp.int32)) == ""
    assert "not bfloat16" in cudnn.supports(plain, params, x.astype(jnp.bfloat16))


# cuDNN's own calls


@pytest.mark.parametrize("bidirectional", [False, True])
def test_shapes_of_the_call(monkeypatch, bidirectional):
    """Of the real primitive, which elsewhere asks cuDNN how much space it wants."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    space = "compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(rnn.gpu_rnn, space, lambda *sizes: (64, 32), raising=False)
    layers, carry, x = stack(2, bidirectional, np.float32)

    def loss(layers, x, carry):
        ends, y = cudnn.lstm(layers, x, carry, lengths=jnp.array([6, 1, 0]), precision="tf32")
        return y.sum() + ends[1][0].h.sum(), (ends, y)

    found, (ends, y) = jax.eval_shape(
        jax.grad(loss, argnums=(0, 1, 2), has_aux=True), layers, x, carry
    )
    shape = functools.partial(jax.tree.map, lambda a: (a.shape, a.dtype.name))
    assert shape(found) == shape((layers, x, carry))
    assert shape(ends) == shape(carry)
    assert isinstance(ends[0][0], Carry)
    assert shape(y) == ((T, B, 2 * H if bidirectional else H), "float32")


@on_gpu
@stacks
@pytest.mark.parametrize("lengths", [None, (6, 0, 4)], ids=["whole", "lengths"])
def test_cudnn_is_unroll(depth, bidirectional, lengths):
    layers, carry, x = stack(depth, bidirectional, np.float32)
    lengths = None if lengths is None else jnp.array(lengths)
    compare(
        functools.partial(cudnn.lstm, lengths=lengths),
        functools.partial(unrolled, lengths=lengths),
        (layers, x, carry),
        tolerance=1e-4,
    )


@on_gpu
@pytest.mark.parametrize("reverse", [False, True])
def test_cudnn_is_unroll_at_a_real_size(reverse):
    cell = cells.get("lstm", hidden=256)
    (params,), ((carry,),), x = stack(1, False, np.float32, time=64, batch=32, hidden=256)
    params = jax.tree.map(lambda a: 0.2 * a, params)
    compare(
        lambda *a: cudnn.run(cell, *a, reverse=reverse),
        lambda *a: unroll(cell, *a, reverse=reverse),
        (params, x, carry),
        tolerance=1e-2,
    )
