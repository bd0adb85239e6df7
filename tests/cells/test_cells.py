"""Every cell against the equations of its paper, and its gradients against its own differences.

The cells are those of rnnlab/cells, with the variants of `COMMON` and of `CHOICES`: a new file is
tested as it is, and against its paper once it has an entry in `ORACLES`.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from rnnlab import cells
from rnnlab.cells import parts
from rnnlab.errors import UsageError
from rnnlab.recurrence.unrolling import unroll
from tests.cells.cases import CASES, REFUSED, B, Case, D, H, T, label

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("strict_dtypes")]

BUILT_IN = ("gru", "lstm", "rnn", "ugrnn")


every_case = pytest.mark.parametrize("case", CASES, ids=label)
every_cell = pytest.mark.parametrize("name", cells.names())


def test_the_cases_cover_the_built_in_cells():
    assert set(BUILT_IN) <= set(cells.names())
    assert set(BUILT_IN) <= set(ORACLES)
    assert [case for case in REFUSED if case.cell in BUILT_IN] == [
        Case("rnn", (), "dropout_candidate")
    ]
    for own in ((("peepholes", True),), (("reset", "before"),), (("activation", "relu"),)):
        assert any(case.own == own for case in CASES)


# The equations, gate by gate, in NumPy.


def sigmoid(v):
    return 1.0 / (1.0 + np.exp(-v))


def normed(v, gain):
    return gain * (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)


def shares(v, kernel, gain, bias, groups):
    """What `v` adds to the gates of each group; layer norm, if any, is over the group."""
    hidden = kernel.shape[1] // (1 + max(max(group) for group in groups))
    gates = []
    for group in groups:
        columns = slice(group[0] * hidden, (group[-1] + 1) * hidden)
        share = v @ kernel[:, columns]
        share = share if gain is None else normed(share, gain[columns])
        share = share if bias is None else share + bias[columns]
        gates += np.split(share, len(group), axis=-1)
    return gates


def from_input(p, x, groups):
    return shares(x, p["kernel_x"], p.get("norm_x"), p["bias"], groups)


def from_state(p, h, groups):
    return shares(h, p["kernel_h"], p.get("norm_h"), p.get("bias_h"), groups)


def added(of_input, of_state):
    return [a + r for a, r in zip(of_input, of_state, strict=True)]


def lstm(p, x, old, seen, drop, options):
    """Gers et al. 2000; peepholes: Gers and Schmidhuber 2000; layer norm: Ba et al. eq. 20-22."""
    groups = [(0, 1, 2, 3)]
    i, f, g, o = added(from_input(p, x, groups), from_state(p, seen, groups))
    peep = p.get("peepholes", np.zeros((3, 1)))
    c = old["c"] * sigmoid(f + peep[1] * old["c"])
    c = c + sigmoid(i + peep[0] * old["c"]) * drop(np.tanh(g))
    read = normed(c, p["norm_c"]) + p["bias_c"] if "norm_c" in p else c
    return {"c": c, "h": sigmoid(o + peep[2] * c) * np.tanh(read)}


def gru(p, x, old, seen, drop, options):
    """Cho et al. 2014, eq. 5-8; layer norm: Ba et al. 2016, supplement."""
    x_q, x_u, x_n = from_input(p, x, [(0, 1), (2,)])
    if options.get("reset") == "before":
        h_q, h_u, _ = from_state(p, seen, [(0, 1), (2,)])
        reset = sigmoid(x_q + h_q) * seen
        candidate = np.tanh(x_n + from_state(p, reset, [(0, 1), (2,)])[2])
    else:
        h_q, h_u, h_n = from_state(p, seen, [(0, 1), (2,)])
        candidate = np.tanh(x_n + sigmoid(x_q + h_q) * h_n)
    u = sigmoid(x_u + h_u)
    return {"h": u * old["h"] + (1.0 - u) * drop(candidate)}


def rnn(p, x, old, seen, drop, options):
    """Elman 1990; relu: Le et al. 2015."""
    total = from_input(p, x, [(0,)])[0] + from_state(p, seen, [(0,)])[0]
    return {"h": np.maximum(total, 0.0) if options.get("activation") == "relu" else np.tanh(total)}


def ugrnn(p, x, old, seen, drop, options):
    """Collins et al. 2017, eq. 14-16, the 1 inside the gate being part of its bias."""
    g, c = added(from_input(p, x, [(0, 1)]), from_state(p, seen, [(0, 1)]))
    return {"h": sigmoid(g) * old["h"] + (1.0 - sigmoid(g)) * drop(np.tanh(c))}


ORACLES = {"lstm": lstm, "gru": gru, "rnn": rnn, "ugrnn": ugrnn}


def oracle(case: Case, params, x, carry, noise):
    """y [T, B, H] and the final carry, with the draws of `noise`, or as in evaluation (None).

    Recurrent dropout: Semeniuta et al. 2016, Gal and Ghahramani 2016; zoneout: Krueger et al. 2017.
    """
    options = case.options
    dropped, zoned = options.get("recurrent_dropout", 0.0), options.get("zoneout", 0.0)
    state = dict(carry._asdict())
    ys = []
    for t in range(x.shape[0]):
        keep = None if noise is None or noise.keep is None else noise.keep[t]

        def drop(v, where, keep=keep):
            if keep is None or options["recurrent_dropout_on"] != where:
                return v
            return v * keep / (1.0 - dropped)

        step = ORACLES[case.cell]
        seen = drop(state["h"], "state")
        new = step(params, x[t], state, seen, lambda v, drop=drop: drop(v, "candidate"), options)
        for field, old in state.items():
            if zoned and noise is None:
                new[field] = zoned * old + (1.0 - zoned) * new[field]
            elif zoned and noise is not None:
                new[field] = np.where(getattr(noise.zone, field)[t], old, new[field])
        state = new
        ys.append(state["h"])
    return np.stack(ys), state


class Problem(NamedTuple):
    cell: Any  # its noise is `noise`, so that no program has to draw it again
    params: Any
    x: Any
    carry: Any
    noise: Any


def problem(case: Case, time=T, batch=B, size=D, hidden=H, dtype: Any = np.float64) -> Problem:
    """A cell with all of its parameters random: those that start at 0 or 1 would hide mistakes."""
    cell = cells.get(case.cell, hidden=hidden, **case.options)
    rng = np.random.default_rng(7)

    def random(tree):
        scale = 1.2 / np.sqrt(hidden)
        return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), dtype), tree)

    params = random(jax.eval_shape(lambda: cell.init(jax.random.key(0), size, dtype)))
    carry = random(jax.eval_shape(lambda: cell.carry(batch, dtype)))
    x = jnp.asarray(rng.normal(size=(time, batch, size)), dtype)
    noise = cell.noise(jax.random.key(3), time, batch)
    return Problem(cell._replace(noise=lambda *_: noise), params, x, carry, noise)


def measure(at: Problem, key):
    """y and the final carry; the gradient of a random functional of both, and its differences.

    One program a case: the differences with respect to every coordinate of parameters, input and
    initial carry are one batched forward pass.
    """
    flat, unravel = ravel_pytree((at.params, at.x, at.carry))

    def run(flat):
        params, x, carry = unravel(flat)
        carry, y = unroll(at.cell, params, x, carry, key=key)
        return ravel_pytree((y, carry))[0]

    weights = np.random.default_rng(8).normal(size=jax.eval_shape(run, flat).shape)
    # Four points: two leave an error of 1e-6 where layer norm divides by a small variance.
    reach, h = (1.0, -1.0, 2.0, -2.0), 3e-5
    moves = np.concatenate([np.zeros((1, flat.size)), *(r * h * np.eye(flat.size) for r in reach)])

    def program(flat):
        outputs = jax.vmap(lambda move: run(flat + move))(moves)
        return outputs, jax.grad(lambda flat: jnp.dot(weights, run(flat)))(flat)

    outputs, gradient = jax.tree.map(np.asarray, jax.jit(program)(flat))
    plus, minus, plus2, minus2 = np.split(outputs[1:] @ weights, 4)
    differences = (8.0 * (plus - minus) - (plus2 - minus2)) / (12.0 * h)
    _, outputs_of = ravel_pytree((np.zeros((T, B, H)), at.carry))
    y, carry = jax.tree.map(np.asarray, outputs_of(outputs[0]))
    return y, carry, gradient, differences


MODES = [(case, True) for case in CASES] + [
    (case, False) for case in CASES if case.label == "zoneout"
]


@pytest.mark.parametrize(
    ("case", "training"), MODES, ids=lambda v: label(v) if isinstance(v, Case) else f"training={v}"
)
def test_forward_is_the_paper_and_backward_its_difference_quotient(case, training, float64):
    at = problem(case)
    y, carry, gradient, differences = measure(at, jax.random.key(0) if training else None)
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-7)
    assert np.abs(gradient).max() > 0.1
    if case.cell not in ORACLES:
        return
    params, x, start, noise = jax.tree.map(np.asarray, (at.params, at.x, at.carry, at.noise))
    wanted, final = oracle(case, params, x, start, noise if training else None)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-13)
    assert carry._asdict().keys() == final.keys()
    for field in final:
        np.testing.assert_allclose(getattr(carry, field), final[field], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", list(ORACLES))
def test_real_sizes_in_float32(name):
    """What the compiler makes of 512 units: forward, and the gradient along random directions,
    against the equations in float64."""
    case = Case(name, (), "plain")
    at = problem(case, time=3, batch=64, size=512, hidden=512, dtype=np.float32)
    arguments = (at.params, at.x, at.carry)
    rng = np.random.default_rng(9)
    weights = jax.tree.map(
        lambda a: rng.normal(size=a.shape).astype(np.float32),
        jax.eval_shape(lambda: unroll(at.cell, *arguments)),
    )

    def functional(arguments):
        outputs = unroll(at.cell, *arguments)
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, outputs, weights))), outputs

    gradient, (carry, y) = jax.jit(jax.grad(functional, has_aux=True))(arguments)

    def exact(arguments):
        params, x, start = arguments
        y, state = oracle(case, params, x, start, None)
        return y, type(carry)(**state)

    double, weights = jax.tree.map(lambda a: np.asarray(a, np.float64), (arguments, weights))
    wanted_y, wanted_carry = exact(double)
    for got, wanted in [(y, wanted_y), *zip(carry, wanted_carry, strict=True)]:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    leaves, tree = jax.tree.flatten(double)
    for index, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        direction = rng.normal(size=leaf.shape)
        moved = []
        for step in (1e-6, -1e-6):
            there = [*leaves[:index], leaf + step * direction, *leaves[index + 1 :]]
            y, carry_there = exact(tree.unflatten(there))
            outputs = jax.tree.map(np.vdot, (carry_there, y), weights)
            moved.append(sum(jax.tree.leaves(outputs)))
        difference = (moved[0] - moved[1]) / 2e-6
        assert abs(np.vdot(slope, direction) - difference) <= 1e-4 * np.linalg.norm(slope)


@pytest.mark.parametrize("case", [case for case in CASES if "dropout" in case.label], ids=label)
def test_no_key_means_no_dropout(case):
    """In evaluation a cell with dropout is the cell without it, to the bit."""
    at = problem(case, dtype=np.float32)
    plain = cells.get(case.cell, hidden=H, **(case.options | {"recurrent_dropout": 0.0}))

    def first(cell, noise):
        z = jax.tree.map(lambda a: a[0], cell.project(at.params, at.x, noise))
        return cell.step(at.params, at.carry, z)

    jax.tree.map(np.testing.assert_array_equal, first(at.cell, None), first(plain, None))
    dropped, undropped = first(at.cell, at.noise)[1], first(at.cell, None)[1]
    assert not np.array_equal(dropped, undropped)


@pytest.mark.slow
@every_cell
def test_second_order(name, float64):
    at = problem(Case(name, (), "plain"), time=2, batch=1, size=2, hidden=3)
    run = jax.jit(functools.partial(unroll, at.cell))
    check_grads(run, (at.params, at.x, at.carry), order=2, modes=("rev",), atol=1e-6, rtol=1e-6)


@every_case
def test_the_four_parts_are_the_step(case, float64):
    at = problem(case)
    parts_of = (at.cell.operand, at.cell.product, at.cell.merge, at.cell.gates)
    if any(part is None for part in parts_of):
        assert parts_of == (None,) * 4
        assert case.cell not in BUILT_IN or ("reset", "before") in case.own
        return
    operand, product, merge, gates = parts_of
    for noise in (None, at.noise):
        z = jax.tree.map(lambda a: a[1], at.cell.project(at.params, at.x, noise))
        u = merge(z, product(at.params, operand(at.carry, z)))
        apart = gates(at.params, at.carry, u)
        jax.tree.map(np.testing.assert_array_equal, apart, at.cell.step(at.params, at.carry, z))


@every_cell
def test_integers_are_one_hot_rows(name, float64):
    at = problem(Case(name, (), "plain"))
    tokens = np.array([[0, 2], [1, 1], [2, 0], [1, 2], [0, 0]], np.int32)
    rows = np.eye(D)[tokens]

    def functional(params, x):
        z = at.cell.project(params, x, None)
        return jnp.sin(jax.tree.leaves(z)[0]).sum(), z

    gradient = jax.grad(functional, has_aux=True)
    by_token, by_row = (gradient(at.params, jnp.asarray(x)) for x in (tokens, rows))
    jax.tree.map(np.testing.assert_array_equal, by_token[1], by_row[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), by_token[0], by_row[0]
    )


@every_cell
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32])
def test_tokens_of_any_integer_type_and_range(name, dtype):
    """Bytes must reach all of 256 rows, and what is no token must not pass for one."""
    at = problem(Case(name, (), "plain"), size=256, hidden=1, dtype=np.float32)
    tokens = np.array([[0, 1, 127, 128, 255, 256, 2**31 - 1, -1]])
    with np.errstate(over="ignore"):
        tokens = tokens.astype(dtype)
    wide = tokens.astype(np.int64)[..., None]
    rows = (wide == np.arange(256)).astype(np.float32)
    by_token, by_row = (at.cell.project(at.params, jnp.asarray(x), None) for x in (tokens, rows))
    jax.tree.map(np.testing.assert_array_equal, by_token, by_row)


def test_draw_has_the_stated_probability():
    count = 200_000
    for p in (0.0, 0.01, 0.3, 0.5, 0.95):
        drawn = np.asarray(parts.bernoulli(jax.random.key(1), p, (count,)))
        assert drawn.dtype == bool
        assert abs(drawn.mean() - p) <= 5 * np.sqrt(p * (1 - p) / count)
    # A probability too near to 1 for 16 bits must not wrap to 0.
    assert np.asarray(parts.bernoulli(jax.random.key(1), 1.0 - 1e-9, (1000,))).mean() > 0.99


@every_cell
def test_noise_keeps_and_zones_at_the_stated_rates(name):
    time, batch, hidden = 40, 30, 20
    shape = (time, batch, hidden)
    options = {"recurrent_dropout": 0.2, "recurrent_dropout_on": "state", "zoneout": 0.1}
    cell = cells.get(name, hidden=hidden, **options)
    noise = cell.noise(jax.random.key(0), time, batch)
    fields = [noise.keep, *noise.zone]
    assert [field.shape for field in fields] == [shape] * len(fields)
    for field, rate in zip(fields, [0.8] + [0.1] * len(noise.zone), strict=True):
        assert abs(np.mean(field) - rate) < 5 * np.sqrt(0.16 / np.prod(shape))
        assert np.any(field[0] != field[1])
        assert np.any(field[:, 0] != field[:, 1])
    # No two draws may be one: a unit of c that is zoned out would always drag its h along.
    for index, field in enumerate(fields):
        for other in fields[:index]:
            assert np.any(field != other)
            assert np.any(field == other)
    again = cell.noise(jax.random.key(0), time, batch)
    jax.tree.map(np.testing.assert_array_equal, noise, again)
    assert np.any(noise.keep != cell.noise(jax.random.key(1), time, batch).keep)
    shared = cells.get(name, hidden=hidden, **options, recurrent_dropout_shared=True)
    keep = np.asarray(shared.noise(jax.random.key(0), time, batch).keep)
    assert keep.shape == shape
    assert (keep == keep[0]).all()
    assert np.any(keep[0, 0] != keep[0, 1])
    silent = cells.get(name, hidden=hidden).noise(jax.random.key(0), time, batch)
    assert jax.tree.leaves(silent) == []


def test_ugrnn_as_published(float64):
    """The paper adds 1 to the gate and starts its bias at 0; here the bias starts at 1."""
    cell = cells.get("ugrnn", hidden=H)
    params = jax.tree.map(np.asarray, cell.init(jax.random.key(0), D, np.float64))
    x = np.random.default_rng(0).normal(size=(T, B, D))
    h, wanted = np.zeros((B, H)), []
    for x_t in x:
        both = np.concatenate([x_t, h], axis=-1)
        g, c = np.split(both @ np.concatenate([params["kernel_x"], params["kernel_h"]]), 2, -1)
        h = sigmoid(g + 1.0) * h + (1.0 - sigmoid(g + 1.0)) * np.tanh(c)
        wanted.append(h)
    _, y = unroll(cell, params, jnp.asarray(x))
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-14)


@every_cell
def test_bfloat16_is_near_float32(name):
    """Operands of 8 bits: outputs within 2%, gradients within 5% of their norm."""
    at = problem(Case(name, (), "plain"), time=6, dtype=np.float32)
    rounded = cells.get(name, hidden=H, precision="bf16")

    def functional(params, cell):
        carry, y = unroll(cell, params, at.x, at.carry)
        return jnp.sin(2.0 * y).sum(), (y, carry)

    gradient = jax.jit(jax.grad(functional, has_aux=True), static_argnums=1)
    (exact, (y, _)), (near, (y_near, carry)) = (gradient(at.params, c) for c in (at.cell, rounded))
    for leaf in jax.tree.leaves((near, y_near, carry)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert 0.0 < np.abs(y_near - y).max() <= 0.02
    exact, near = (ravel_pytree(tree)[0] for tree in (exact, near))
    assert 0.0 < np.linalg.norm(near - exact) <= 0.05 * np.linalg.norm(exact)


@every_cell
def test_the_zero_carry(name):
    cell = cells.get(name, hidden=H)
    carry = cell.carry(B, jnp.bfloat16)
    for leaf in carry:
        assert leaf.shape == (B, H)
        assert leaf.dtype == jnp.bfloat16
        assert not leaf.any()
    # A donated state must not hold one buffer twice.
    assert len({leaf.unsafe_buffer_pointer() for leaf in carry}) == len(carry)


# get()


def test_the_names_are_those_of_the_files():
    folder = pathlib.Path(cells.__file__).parent
    assert list(cells.names()) == sorted(
        path.stem for path in folder.glob("*.py") if path.stem[0] != "_"
    )


def test_adding_a_cell_is_adding_a_file(tmp_path, monkeypatch):
    (tmp_path / "leaky_for_test.py").write_text(
        "from rnnlab import cells\n"
        "PRESETS = {'wide': {'hidden': 9}}\n"
        "def make_cell(*, leak=0.5, **common):\n"
        "    return cells.get('rnn', **common)._replace(name=f'leaky {leak}')\n"
    )
    monkeypatch.setattr(cells, "__path__", [*cells.__path__, str(tmp_path)])
    assert "leaky_for_test" in cells.names()
    assert cells.get("leaky_for_test", hidden=3, leak=0.25).name == "leaky 0.25"
    assert cells.get("leaky_for_test", preset="wide").hidden == 9
    assert cells.get("leaky_for_test", preset="wide", hidden=2).hidden == 2
    with pytest.raises(UsageError, match="no option 'leek': did you mean 'leak'"):
        cells.get("leaky_for_test", hidden=3, leek=0.25)


def test_options_given_beside_a_preset_win():
    cell = cells.get("lstm", preset="torch", hidden=H, hidden_bias=False, gate_bias=2.0)
    params = cell.init(jax.random.key(0), D)
    assert "bias_h" not in params
    assert params["bias"][H : 2 * H].min() > 1.0


MISTAKES = [
    ("lsmt", {}, "unknown cell 'lsmt': did you mean 'lstm'? there are gru, lstm"),
    ("perceptron", {}, "unknown cell 'perceptron': there are gru, lstm"),
    ("_parts", {}, "unknown cell '_parts'"),
    ("lstm", {"preset": "troch"}, "no preset 'troch': did you mean 'torch'? there are torch, flax"),
    ("ugrnn", {"preset": "torch"}, "cell 'ugrnn' has no preset 'torch': there are none"),
    ("lstm", {"peephole": True}, "no option 'peephole': did you mean 'peepholes'? there are"),
    ("gru", {"peepholes": True}, "cell 'gru' has no option 'peepholes'"),
    ("gru", {"layernorm": True}, "did you mean 'layer_norm'?"),
    ("gru", {"reset": "middle"}, "cell 'gru' takes reset 'after' or 'before', not 'middle'"),
    ("rnn", {"activation": "sin"}, "activation 'tanh' or 'relu', not 'sin'"),
    ("rnn", {"recurrent_dropout_on": "candidate"}, "set recurrent_dropout_on to 'state'"),
    ("lstm", {"hidden": 0}, "at least 1 hidden unit, got 0"),
    ("lstm", {"hidden": 2.5}, "hidden must be of type int, got 2.5"),
    ("lstm", {"hidden": None}, "hidden must be of type int, got None"),
    ("lstm", {"recurrent_dropout": 1.0}, "recurrent_dropout must be in [0, 1), got 1.0"),
    ("lstm", {"recurrent_dropout": -0.1}, "recurrent_dropout must be in [0, 1), got -0.1"),
    ("lstm", {"zoneout": float("nan")}, "zoneout must be in [0, 1), got nan"),
    ("lstm", {"zoneout": "0.1"}, "zoneout must be of type float, got '0.1'"),
    ("lstm", {"recurrent_dropout_on": "input"}, "'candidate' or 'state', got 'input'"),
    ("lstm", {"layer_norm": "no"}, "layer_norm must be of type bool, got 'no'"),
    ("lstm", {"gate_bias": float("inf")}, "gate_bias must be finite, got inf"),
    ("lstm", {"precision": "bfloat16"}, "unknown precision 'bfloat16': did you mean 'bf16'? there"),
    ("lstm", {"precision": None}, "precision must be of type str, got None"),
    ("lstm", {"kernel_h_init": "ortogonal"}, "did you mean 'orthogonal'?"),
    ("lstm", {"kernel_x_init": "uniform"}, "'uniform' needs a number"),
    ("lstm", {"bias_init": 0.0}, "bias_init must be of type str, got 0.0"),
]


@pytest.mark.parametrize(("name", "options", "message"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_told_in_one_line(name, options, message):
    with pytest.raises(UsageError) as caught:
        cells.get(name, **({"hidden": 3} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@every_cell
def test_the_number_of_units_must_be_given(name):
    with pytest.raises(UsageError, match=f"cell '{name}' needs the option 'hidden'"):
        cells.get(name)


def test_numbers_of_numpy_are_numbers():
    cell = cells.get("lstm", hidden=np.int64(3), zoneout=np.float32(0.5), gate_bias=1)
    assert cell.init(jax.random.key(0), D)["kernel_h"].shape == (3, 12)
