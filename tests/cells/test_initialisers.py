"""Initial values: the distributions they claim, alone and in the parameters of the cells."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.cells.parts import initialisers
from rnnlab.errors import UsageError

pytestmark = pytest.mark.usefixtures("strict_dtypes")

D, H = 48, 64
KEY = jax.random.key(0)
every_cell = pytest.mark.parametrize("name", cells.names())


def sample(spec, shape, hidden=None, seed=0):
    return np.asarray(
        initialisers.from_spec(spec, hidden)(jax.random.key(seed), shape, jnp.float32)
    )


def assert_uniform(values, limit):
    values = np.asarray(values).ravel()
    assert np.abs(values).max() <= limit
    assert np.abs(values).max() >= limit * (1.0 - 20.0 / values.size)
    assert_spread(values, limit / math.sqrt(3.0))


def assert_spread(values, deviation):
    """Mean 0 and that standard deviation, to within five standard errors."""
    values = np.asarray(values).ravel()
    assert abs(values.mean()) <= 5 * deviation / math.sqrt(values.size)
    assert abs(values.std() / deviation - 1.0) <= 5 / math.sqrt(2.0 * values.size)


def assert_orthogonal(matrix, scale=1.0):
    """The rows or the columns, whichever are fewer, are orthogonal and of length `scale`."""
    matrix = np.asarray(matrix)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, scale**2 * np.eye(len(small)), atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (16, 40), (40, 16)])
def test_orthogonal(shape):
    assert_orthogonal(sample("orthogonal", shape))
    assert_orthogonal(sample("orthogonal:1.5", shape), scale=1.5)


def test_identity():
    np.testing.assert_array_equal(sample("identity", (5, 5)), np.eye(5))
    np.testing.assert_array_equal(sample("identity:0.25", (3, 5)), 0.25 * np.eye(3, 5))


def test_constants():
    np.testing.assert_array_equal(sample("zeros", (2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(sample("ones", (2, 3)), np.ones((2, 3)))
    np.testing.assert_array_equal(sample("constant:-0.5", (2, 3)), np.full((2, 3), -0.5))


SHAPE = (200, 150)


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        ("uniform:0.08", 0.08),
        ("glorot_uniform", math.sqrt(6 / (200 + 150))),
        ("lecun_uniform", math.sqrt(3 / 200)),
        ("inverse_sqrt_hidden", 1 / math.sqrt(25)),
    ],
)
def test_uniform_distributions(spec, limit):
    assert_uniform(sample(spec, SHAPE, hidden=25), limit)


@pytest.mark.parametrize(
    ("spec", "variance"),
    [
        ("normal:0.3", 0.3**2),
        ("glorot_normal", 2 / (200 + 150)),
        ("lecun_normal", 1 / 200),
        ("he_normal", 2 / 200),
    ],
)
def test_normal_distributions(spec, variance):
    values = sample(spec, SHAPE)
    assert_spread(values, math.sqrt(variance))
    # More than a uniform distribution of that variance has beyond its bound.
    assert np.abs(values).max() > 1.9 * math.sqrt(variance)


def test_spectral_radius_is_exact():
    def radius(matrix):
        return np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64))).max()

    assert abs(radius(sample("spectral:0.9", (60, 60))) - 0.9) < 1e-5
    assert abs(radius(sample("spectral", (60, 60))) - 1.0) < 1e-5
    # Not one that is scaled by its norm: the norm of a Gaussian matrix is near twice its radius.
    assert np.linalg.norm(sample("spectral", (60, 60)), 2) > 1.5
    draw = initialisers.from_spec("spectral:1.2")
    several = jax.jit(jax.vmap(lambda key: draw(key, (20, 20), jnp.float32)))(jax.random.split(KEY))
    for matrix in several:
        assert abs(radius(matrix) - 1.2) < 1e-5
    assert np.any(several[0] != several[1])
    with jax.enable_x64(True):
        assert abs(radius(draw(KEY, (20, 20), jnp.float64)) - 1.2) < 1e-13


def test_spectral_asks_for_a_square_kernel():
    with pytest.raises(UsageError, match=r"'spectral' needs a square kernel.*use it for kernel_h"):
        cells.get("lstm", hidden=4, kernel_x_init="spectral").init(KEY, 3)


@pytest.mark.parametrize(
    "spec", ["orthogonal", "identity", "uniform:1", "spectral", "glorot_uniform", "zeros"]
)
def test_a_key_gives_one_value_of_the_dtype_asked_for(spec):
    draw = initialisers.from_spec(spec)
    first = draw(KEY, (4, 4), jnp.float32)
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, draw(KEY, (4, 4), jnp.float32))
    other = draw(jax.random.key(1), (4, 4), jnp.float32)
    assert np.array_equal(first, other) == (spec in ("identity", "zeros"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ortogonal", "unknown initialisation 'ortogonal': did you mean 'orthogonal'? there are"),
        ("xyz:1", "unknown initialisation 'xyz': there are orthogonal, identity"),
        ("", "unknown initialisation ''"),
        ("uniform", "initialisation 'uniform' needs a number: write 'uniform:0.08'"),
        ("normal:", "initialisation 'normal' needs a number"),
        ("uniform:wide", "'uniform:wide': 'wide' is not a number"),
        ("uniform:nan", "must be finite"),
        ("spectral:inf", "must be finite"),
        ("uniform:-0.1", "'uniform:-0.1': the number must not be negative"),
        ("normal:-1", "must not be negative"),
        ("spectral:-1", "must not be negative"),
        ("glorot_uniform:2", "'glorot_uniform:2': 'glorot_uniform' takes no number"),
        ("zeros:1", "'zeros' takes no number"),
        ("inverse_sqrt_hidden:3", "'inverse_sqrt_hidden' takes no number"),
        ("inverse_sqrt_hidden", "'inverse_sqrt_hidden' is for the parameters of a cell"),
    ],
)
def test_a_mistake_is_told_in_one_line(spec, message):
    with pytest.raises(UsageError) as caught:
        initialisers.from_spec(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# In the parameters of the cells


def gates_of(params):
    return params["kernel_h"].shape[1] // params["kernel_h"].shape[0]


@every_cell
def test_shapes_and_types(name):
    cell = cells.get(name, hidden=H, hidden_bias=True, layer_norm=True)
    params = jax.eval_shape(lambda: cell.init(KEY, D, jnp.bfloat16))
    wide = gates_of(params) * H
    assert params["kernel_x"].shape == (D, wide)
    assert params["kernel_h"].shape == (H, wide)
    for vector in ("bias", "bias_h", "norm_x", "norm_h"):
        assert params[vector].shape == (wide,)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    plain = jax.eval_shape(lambda: cells.get(name, hidden=H).init(KEY, D))
    assert set(plain) == {"kernel_x", "kernel_h", "bias"}
    assert {leaf.dtype for leaf in jax.tree.leaves(plain)} == {jnp.dtype(jnp.float32)}


def test_norms_start_as_the_identity():
    cell = cells.get("lstm", hidden=4, layer_norm=True, peepholes=True)
    params = cell.init(KEY, 3)
    for name, value in {"norm_x": 1, "norm_h": 1, "norm_c": 1, "bias_c": 0, "peepholes": 0}.items():
        assert (params[name] == value).all()


KEEPING_GATE = {"lstm": 1, "gru": 1, "ugrnn": 0, "rnn": None}


@every_cell
def test_gate_bias_is_on_the_gate_that_keeps_the_state(name):
    start = {"kernel_x_init": "zeros", "kernel_h_init": "zeros", "bias_init": "constant:0.25"}
    cell = cells.get(name, hidden=4, gate_bias=40.0, hidden_bias=True, **start)
    params = cell.init(KEY, 3)
    raised = np.asarray(params["bias"]).reshape(-1, 4) - 0.25
    assert (params["bias_h"] == 0.25).all()
    if not raised.any():
        assert KEEPING_GATE.get(name) is None
        return
    gate = KEEPING_GATE.get(name, int(raised.any(axis=1).argmax()))
    np.testing.assert_array_equal(
        raised, 40.0 * (np.arange(len(raised)) == gate)[:, None] * np.ones(4)
    )
    # What it is for: the first field of the carry is handed on as it is, up to what is added to it.
    ones = jax.tree.map(jnp.ones_like, cell.carry(2))
    z = jax.tree.map(lambda a: a[0], cell.project(params, jnp.ones((1, 2, 3)), None))
    kept = cell.step(params, ones, z)[0][0]
    added = math.tanh(0.5) / (1 + math.exp(-0.5)) if name == "lstm" else 0.0
    np.testing.assert_allclose(kept, 1.0 + added, rtol=1e-6)


@every_cell
def test_gate_bias_is_one_unless_told(name):
    bias = np.asarray(cells.get(name, hidden=4).init(KEY, 3)["bias"]).reshape(-1, 4)
    # Of a cell that is not known here, the gate that is raised is the one that keeps.
    raised = bias.any(axis=1)
    assert raised.sum() <= 1
    gate = KEEPING_GATE.get(name, int(raised.argmax()) if raised.any() else None)
    for index, row in enumerate(bias):
        assert (row == (1.0 if index == gate else 0.0)).all()


@every_cell
def test_init_per_gate(name):
    """Each gate's block is a draw of its own, or the fused kernel is one draw."""
    apart = cells.get(name, hidden=H).init(KEY, D)
    gates = gates_of(apart)
    blocks = np.split(np.asarray(apart["kernel_h"]), gates, axis=1)
    for index, block in enumerate(blocks):
        assert_orthogonal(block)
        assert not any(np.array_equal(block, other) for other in blocks[:index])
    for block in np.split(np.asarray(apart["kernel_x"]), gates, axis=1):
        assert_uniform(block, math.sqrt(6 / (D + H)))
    fused = cells.get(name, hidden=H, init_per_gate=False).init(KEY, D)
    assert_orthogonal(fused["kernel_h"])
    assert_uniform(fused["kernel_x"], math.sqrt(6 / (D + gates * H)))


def test_each_parameter_has_a_draw_of_its_own():
    same = {"kernel_x_init": "normal:1", "kernel_h_init": "normal:1", "bias_init": "normal:1"}
    cell = cells.get("lstm", hidden=16, hidden_bias=True, gate_bias=0.0, **same)
    params = cell.init(KEY, 16)
    assert np.any(params["kernel_x"] != params["kernel_h"])
    assert np.any(params["bias"] != params["bias_h"])
    assert np.any(cell.init(jax.random.key(1), 16)["bias"] != params["bias"])
    for draw in params.values():
        # A bias of 64 values is too few for more than a rough look.
        assert abs(np.std(draw) - 1.0) < 0.4


# The conventions of the peers: what each draws for kernel_x, for kernel_h and for the biases.
PRESETS = [
    (name, preset)
    for name in cells.names()
    for preset in getattr(importlib.import_module(f"rnnlab.cells.{name}"), "PRESETS", {})
]


def test_the_presets_that_exist():
    wanted = {
        (name, peer) for name in ("gru", "lstm", "rnn") for peer in ("torch", "flax", "keras")
    }
    assert wanted <= set(PRESETS)
    assert {peer for _, peer in PRESETS} == {"torch", "flax", "keras"}


@pytest.mark.parametrize(("name", "peer"), PRESETS)
def test_a_preset_starts_as_the_peer_does(name, peer):
    params = cells.get(name, preset=peer, hidden=H).init(KEY, D)
    gates = gates_of(params)
    if peer == "torch":
        # torch.nn.RNNBase.reset_parameters: U(+-1/sqrt(H)) for all, and two biases.
        assert set(params) == {"kernel_x", "kernel_h", "bias", "bias_h"}
        for value in params.values():
            assert_uniform(value, 1 / math.sqrt(H))
        return
    # Keras: the two biases of a GRU with reset_after; the forget gate of an LSTM starts at 1.
    assert ("bias_h" in params) == ((peer, name) == ("keras", "gru"))
    bias = np.asarray(params["bias"]).reshape(gates, H)
    for gate, row in enumerate(bias):
        assert (row == (1.0 if (peer, name, gate) == ("keras", "lstm", 1) else 0.0)).all()
    if "bias_h" in params:
        assert not params["bias_h"].any()
    # Flax's LSTMCell has a layer a gate; its GRUCell, and all of Keras, one fused kernel.
    fused = peer == "keras" or name == "gru"
    for block in [params["kernel_h"]] if fused else jnp.split(params["kernel_h"], gates, axis=1):
        assert_orthogonal(block)
    if peer == "keras":
        assert_uniform(params["kernel_x"], math.sqrt(6 / (D + gates * H)))
    else:
        # LeCun normal, cut at two standard deviations of the normal it is cut from.
        assert_spread(params["kernel_x"], 1 / math.sqrt(D))
        cut = 2 / 0.87962566 / math.sqrt(D)
        assert 0.95 * cut < np.abs(params["kernel_x"]).max() <= cut
