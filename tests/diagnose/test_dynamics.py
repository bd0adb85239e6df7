"""Jacobians, their products and Lyapunov exponents against closed forms and brute force."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.diagnose import dynamics
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.recurrence.taps import Seen, parted, recorded
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell

pytestmark = pytest.mark.usefixtures("strict_dtypes")

every_cell = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("rnn", "lstm") else pytest.mark.slow)
        for n in cells.names()
    ],
)


def linear(size: int) -> Cell:
    """h' = h A + x, as a user would write it: its state is a dict, its parameter is A alone."""

    def step(params, carry, z):
        h = carry["h"] @ params["A"] + z
        return {"h": h}, h

    return Cell(
        name="linear",
        hidden=size,
        init=lambda key, width, dtype=jnp.float32: {"A": jnp.eye(size, dtype=dtype)},
        carry=lambda batch, dtype=jnp.float32: {"h": jnp.zeros((batch, size), dtype)},
        noise=lambda key, time, batch: None,
        project=lambda params, x, noise=None: x,
        step=step,
    )


def watch(cell: Cell, params: Any, x: Any, start: Any = None) -> Seen:
    dtype = jax.tree.leaves(params)[0].dtype
    start = cell.carry(x.shape[1], dtype) if start is None else start
    _, y = unroll(recorded(cell), params, x, start, path="plain")
    return parted(cell, x, y)[1]


def driven(name: str, *, time=6, rows=3, width=3, hidden=4, **options: Any):
    """(cell, params, seen) of random inputs, in float64."""
    cell = cells.get(name, hidden=hidden, **options)
    params = cell.init(jax.random.key(0), width, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (time, rows, width), jnp.float64)
    return cell, params, watch(cell, params, x)


def still(matrix: np.ndarray, time: int, rows: int = 1):
    """(cell, params, seen) of the linear cell, whose state stays finite since it stays 0."""
    size = len(matrix)
    cell, params = linear(size), {"A": jnp.asarray(matrix, jnp.float64)}
    return cell, params, watch(cell, params, jnp.zeros((time, rows, size), jnp.float64))


def matrix(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, size)) / math.sqrt(size)


def before(seen: Seen, t: int, row: int) -> list[np.ndarray]:
    return [np.asarray(leaf)[t, row] for leaf in jax.tree.leaves(seen.before)]


# Jacobians


def vector_step(cell: Cell, params: Any, seen: Seen, t: int, row: int):
    """F of one row, made by hand: the leaves side by side, in a batch of one."""
    sizes = [len(part) for part in before(seen, t, row)]
    tree = jax.tree.structure(seen.before)
    z = jax.tree.map(lambda leaf: leaf[t], cell.project(params, seen.x[:, row : row + 1], None))

    def step(s):
        parts = jnp.split(s[None], list(np.cumsum(sizes)[:-1]), axis=1)
        new, _ = cell.step(params, jax.tree.unflatten(tree, parts), z)
        return jnp.concatenate(jax.tree.leaves(new), axis=1)[0]

    return step, jnp.concatenate([jnp.asarray(part) for part in before(seen, t, row)])


@every_cell
def test_jacobians_are_those_of_reverse_mode_and_of_differences(name, float64):
    cell, params, seen = driven(name)
    found = dynamics.jacobians(cell, params, seen, row=2)
    size = sum(leaf.shape[-1] for leaf in jax.tree.leaves(seen.before))
    assert found.shape == (6, size, size)
    assert found.dtype == np.float64
    assert np.abs(found).max() > 0.1
    for t in (0, 3):
        step, s = vector_step(cell, params, seen, t, 2)
        np.testing.assert_allclose(found[t], jax.jacrev(step)(s), rtol=1e-12, atol=1e-14)
        e = 1e-5
        moved = jax.jit(jax.vmap(step))(
            jnp.concatenate([s + e * jnp.eye(size), s - e * jnp.eye(size)])
        )
        differences = np.asarray(moved[:size] - moved[size:]).T / (2 * e)
        np.testing.assert_allclose(found[t], differences, rtol=1e-7, atol=1e-9)


def test_the_state_of_an_lstm_is_c_and_h(float64):
    cell, params, seen = driven("lstm", peepholes=True, layer_norm=True)
    found = dynamics.jacobians(cell, params, seen, first=2, steps=2)
    assert found.shape == (2, 8, 8)
    step, s = vector_step(cell, params, seen, 2, 0)
    np.testing.assert_allclose(found[0], jax.jacrev(step)(s), rtol=1e-12, atol=1e-14)


def test_rows_of_a_jacobian_are_of_the_new_state(float64):
    a = matrix(3)
    found = dynamics.jacobians(*still(a, 2))
    np.testing.assert_array_equal(found, [a.T, a.T])


class Mixed(NamedTuple):
    count: Any  # int [B]
    h: Any  # [B, 2]
    wide: Any  # [B, 1, 3]


def test_a_state_of_any_parts_of_which_some_cannot_vary(float64):
    def step(params, carry, z):
        gain = carry.count[:, None].astype(z.dtype)
        h = params * carry.h * gain + z
        return Mixed(carry.count + 1, h, carry.wide + h[:, None, :1]), h

    def carry(batch, dtype=jnp.float32):
        zeros = jnp.zeros((batch, 2), dtype), jnp.zeros((batch, 1, 3), dtype)
        return Mixed(jnp.ones(batch, jnp.int32), *zeros)

    cell = linear(2)._replace(step=step, carry=carry)
    params = jnp.asarray(0.5, jnp.float64)
    states, carries = carry(2, jnp.float64), [carry(2, jnp.float64)]
    x = jax.random.normal(jax.random.key(0), (3, 2, 2), jnp.float64)
    for z in x:
        states, _ = step(params, states, z)
        carries.append(states)
    first, after = (
        jax.tree.map(lambda *a: jnp.stack(a), *part) for part in (carries[:-1], carries[1:])
    )
    seen = Seen(x, first, after)
    found = dynamics.jacobians(cell, params, seen, row=1)
    for t in range(3):
        gain = 0.5 * (t + 1)
        want = np.eye(5)
        want[:2, :2] *= gain
        want[2:, 0] = gain
        np.testing.assert_allclose(found[t], want, atol=1e-14)


def test_a_model_in_float32_on_tokens():
    net = stack.stack_cells(input_size=7, output_size=7, cell="gru", hidden=5, layers=2)
    params = net.init(jax.random.key(0))
    x = np.random.default_rng(0).integers(0, 7, (9, 2)).astype(np.uint8)
    _, _, seen = net.watch(params, net.carry(2), x)
    for layer, one in zip(params["layers"], seen, strict=True):
        found = dynamics.spectra(net.cell, layer, one, rows=2)
        assert found.singular.shape == (2, 9, 5)
        assert np.isfinite(found.log10_largest).all()
        exponents = dynamics.lyapunov(net.cell, layer, one, rows=2, transient=0).exponents
        assert exponents.sum() / 5 == pytest.approx(
            found.log10_mean[:, -1].mean() * math.log(10) / 9, rel=1e-9
        )
    assert jnp.zeros(1).dtype == jnp.float32  # the flag was not left on


# Products


def test_a_linear_cell_has_its_matrix_for_jacobian(float64):
    a = matrix(6)
    found = dynamics.spectra(*still(a, 40, rows=2), rows=2, every=3)
    values = np.linalg.svd(a, compute_uv=False)
    np.testing.assert_allclose(found.singular, np.broadcast_to(values, (2, 40, 6)), rtol=1e-12)
    np.testing.assert_allclose(found.condition, values[0] / values[-1], rtol=1e-11)
    radius = np.abs(np.linalg.eigvals(a)).max()
    assert found.radius.shape == (2, 14)
    np.testing.assert_allclose(found.radius, radius, rtol=1e-12)
    assert found.log10_rate == pytest.approx(math.log10(radius), rel=1e-10)
    for k in (1, 2, 7, 40):
        largest = np.linalg.norm(np.linalg.matrix_power(a, k), 2)
        np.testing.assert_allclose(found.log10_largest[:, k - 1], np.log10(largest), rtol=1e-11)
        mean = k * np.log10(abs(np.linalg.det(a))) / 6
        np.testing.assert_allclose(found.log10_mean[:, k - 1], mean, rtol=1e-11)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_product_that_no_float_holds(scale, float64):
    a, k = matrix(5, seed=1), 40
    found = dynamics.spectra(*still(scale * a, k), rows=1)
    want = k * math.log10(scale) + np.log10(np.linalg.norm(np.linalg.matrix_power(a, k), 2))
    assert abs(want) > 1190
    assert found.log10_largest[0, -1] == pytest.approx(want, rel=1e-13)
    want = k * (math.log10(scale) + np.log10(abs(np.linalg.det(a))) / 5)
    assert found.log10_mean[0, -1] == pytest.approx(want, rel=1e-13)


def test_a_product_that_is_zero(float64):
    found = dynamics.spectra(*still(np.diag([1.0, 2.0], 1), 4), rows=1)
    np.testing.assert_allclose(found.log10_largest[0, :2], np.log10([2, 2]), atol=1e-14)
    assert (found.log10_largest[0, 2:] == -np.inf).all()
    assert (found.log10_mean == -np.inf).all()
    assert (found.condition == np.inf).all()
    assert any(" 0 in the geometric" in s for s in dynamics.spectra_sentences(found, "it"))


def test_products_of_changing_jacobians(monkeypatch, float64):
    cell, params, seen = driven("gru", time=8)
    found = dynamics.spectra(cell, params, seen, rows=3, first=2, steps=5, every=1)
    for row in range(3):
        each = dynamics.jacobians(cell, params, seen, row=row, first=2, steps=5)
        product = np.eye(4)
        for k, one in enumerate(each):
            product = one @ product
            values = np.linalg.svd(product, compute_uv=False)
            assert found.log10_largest[row, k] == pytest.approx(np.log10(values[0]), rel=1e-11)
            assert found.log10_mean[row, k] == pytest.approx(np.log10(values).mean(), rel=1e-9)
            assert found.radius[row, k] == pytest.approx(np.abs(np.linalg.eigvals(one)).max())
    monkeypatch.setattr(dynamics, "CHUNK_BYTES", 2 * 8 * 4**2)  # two steps at a time
    again = dynamics.spectra(cell, params, seen, rows=3, first=2, steps=5, every=1)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# Lyapunov exponents


def test_exponents_of_a_linear_cell_are_the_logarithms_of_its_eigenvalues(float64):
    values = np.array([1.5, -1.1, 0.8, 0.5, -0.2])
    basis = matrix(5, seed=2) + 2 * np.eye(5)
    a = basis @ np.diag(values) @ np.linalg.inv(basis)
    found = dynamics.lyapunov(*still(a, 400), rows=1, transient=200)
    np.testing.assert_allclose(found.exponents, np.log(np.abs(values)), atol=1e-11)
    assert (found.steps, found.transient, found.size) == (200, 200, 5)
    assert np.isnan(found.error).all()


def test_exponents_of_a_rotation_that_shrinks(float64):
    turn = 0.9 * np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    found = dynamics.lyapunov(*still(turn, 30), rows=1, transient=0)
    np.testing.assert_allclose(found.exponents, math.log(0.9), atol=1e-14)


def test_exponents_of_rows_that_differ(float64):
    """h' = x h: the exponent of a row and unit is the mean of log |x|."""

    def step(params, carry, z):
        h = carry["h"] * z
        return {"h": h}, h

    cell = linear(2)._replace(step=step)
    x = np.random.default_rng(0).uniform(0.2, 2.0, (50, 4, 2)) * np.array([1.0, 0.2])
    seen = watch(cell, {"A": jnp.zeros(1, jnp.float64)}, jnp.asarray(x))
    # A random frame needs a transient to turn to the axes; the sum of all exponents needs none.
    found = dynamics.lyapunov(cell, {"A": jnp.zeros(1)}, seen, rows=4, transient=0)
    exact = np.log(x).mean(axis=0)
    assert found.rows.sum(axis=1) == pytest.approx(exact.sum(axis=1), rel=1e-12)
    late = dynamics.lyapunov(cell, {"A": jnp.zeros(1)}, seen, rows=4, transient=25)
    exact = np.log(x[25:]).mean(axis=0)
    np.testing.assert_allclose(late.rows, exact, atol=1e-12)
    np.testing.assert_allclose(late.exponents, exact.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(late.error, exact.std(axis=0, ddof=1) / 2, atol=1e-12)


@every_cell
def test_leading_exponents_are_the_first_of_all(name, float64):
    cell, params, seen = driven(name, time=12)
    whole = dynamics.lyapunov(cell, params, seen, rows=2, transient=3)
    part = dynamics.lyapunov(cell, params, seen, rows=2, transient=3, count=2)
    assert whole.exponents.shape == (whole.size,)
    assert part.rows.shape == (2, 2)
    # The first vectors of the frame are the same, and so are their rates, wherever they are sorted to.
    assert all(
        np.abs(whole.rows[row] - rate).min() < 1e-10 for row in (0, 1) for rate in part.rows[row]
    )
    # The sum of all is the mean log |det J|.
    for row in (0, 1):
        each = dynamics.jacobians(cell, params, seen, row=row, first=3)
        assert whole.rows[row].sum() == pytest.approx(np.linalg.slogdet(each)[1].mean(), rel=1e-9)


def test_a_singular_jacobian_has_an_exponent_of_minus_infinity(float64):
    found = dynamics.lyapunov(*still(np.diag([0.5, 0.0]), 10, rows=2), rows=2, transient=2)
    assert found.exponents[0] == pytest.approx(math.log(0.5))
    assert found.exponents[1] == -np.inf


# Bad input


def test_states_that_are_no_trajectory(float64):
    cell, params, seen = driven("rnn")
    flipped = seen._replace(states=jax.tree.map(lambda a: a[::-1], seen.states))
    for function in (dynamics.jacobians, dynamics.spectra, dynamics.lyapunov):
        more = {} if function is dynamics.jacobians else {"rows": 3}
        more |= {"transient": 0} if function is dynamics.lyapunov else {}
        function(cell, params, seen, **more)
        with pytest.raises(UsageError, match="after step 0 is not what the cell makes"):
            function(cell, params, flipped, **more)
    broken = seen._replace(states=jax.tree.map(lambda a: a.at[3, 1].set(jnp.nan), seen.states))
    dynamics.jacobians(cell, params, broken)
    with pytest.raises(UsageError, match="after step 3"):
        dynamics.jacobians(cell, params, broken, row=1, first=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 4}, "rows must be from 1 to 3"),
        ({"rows": 0}, "rows must be from 1 to 3"),
        ({"rows": 1, "first": 6}, "first must be from 0 to 5"),
        ({"rows": 1, "first": 2, "steps": 5}, "steps must be from 1 to 4"),
        ({"rows": 1, "transient": 6}, "transient must be from 0 to 5"),
        ({"rows": 1, "transient": 0, "count": 5}, "count must be from 1 to 4"),
        ({"rows": 1, "every": 0}, "every must be at least 1"),
    ],
)
def test_numbers_out_of_range(options, said, float64):
    which = dynamics.spectra if "every" in options else dynamics.lyapunov
    with pytest.raises(UsageError, match=said):
        which(*driven("rnn"), **options)


# In words


def exponents(values, error):
    values = np.asarray(values, float)
    error = np.full(len(values), error)
    return dynamics.Lyapunov(values, error, values[None], 4, 20, 80)


@pytest.mark.parametrize(
    ("top", "error", "said"),
    [
        (-0.12, 0.01, "is -0.12 +- 0.01 nats a step: neighbouring states converge, halving"),
        (-math.log(2) / 6, 0.01, "every 6 steps."),
        (0.12, 0.01, "0.12 +- 0.01 nats a step: neighbouring states diverge, doubling"),
        (0.12, 0.07, "within two standard errors of 0"),
        (-0.12, 0.07, "within two standard errors of 0"),
        (-0.12, math.nan, "is -0.12 nats a step: neighbouring states converge"),
        (-0.12, math.nan, "(one sequence, no standard error)."),
    ],
)
def test_what_is_said_of_exponents(top, error, said):
    sentences = dynamics.lyapunov_sentences(exponents([top, -0.5], error), "layer 1")
    assert said in sentences[0]
    assert sentences[0].startswith("The largest Lyapunov exponent of layer 1 is")
    positive = "1 is" if top > 0 else "0 are"
    assert sentences[1].startswith("Of its 2 leading exponents (the state has 4 numbers)")
    assert sentences[1].endswith(f"{positive} above 0.")


def test_what_is_said_of_spectra(float64):
    found = dynamics.spectra(*still(0.5 * np.eye(3), 300), rows=1)
    first, second = dynamics.spectra_sentences(found, "layer 2")
    assert first.startswith(
        "In layer 2 the median over 1 sequence and 300 steps is 0.5 for the largest"
    )
    assert second.count("4.9e-91") == 3  # 0.5^300 by all three


@pytest.mark.parametrize(
    ("log10", "said"),
    [(-71.6, "2.5e-72"), (0.0, "1"), (2.0, "100"), (-2.0, "0.01"), (400.0, "1.0e400"),
     (4.9999, "1.0e5"), (-np.inf, "0"), (math.log10(0.973), "0.973")],
)  # fmt: skip
def test_a_number_from_its_logarithm(log10, said):
    assert dynamics.power_of_ten(log10) == said
