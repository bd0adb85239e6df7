"""Lyapunov exponents against closed forms, and what is said and drawn of them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import lyapunov, trajectory
from rnnlab.run import figure as figures
from tests.diagnose import pictures
from tests.diagnose.systems import driven, every_cell, linear, matrix, still, watch

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_exponents_of_a_linear_cell_are_the_logarithms_of_its_eigenvalues(float64):
    values = np.array([1.5, -1.1, 0.8, 0.5, -0.2])
    basis = matrix(5, seed=2) + 2 * np.eye(5)
    a = basis @ np.diag(values) @ np.linalg.inv(basis)
    found = lyapunov.measure(*still(a, 400), rows=1, transient=200)
    np.testing.assert_allclose(found.exponents, np.log(np.abs(values)), atol=1e-11)
    assert (found.steps, found.transient, found.size) == (200, 200, 5)
    assert np.isnan(found.error).all()


def test_exponents_of_a_rotation_that_shrinks(float64):
    turn = 0.9 * np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    found = lyapunov.measure(*still(turn, 30), rows=1, transient=0)
    np.testing.assert_allclose(found.exponents, math.log(0.9), atol=1e-14)


def test_exponents_of_rows_that_differ(float64):
    """h' = x h: the exponent of a row and unit is the mean of log |x|."""

    def step(params, carry, z):
        h = carry["h"] * z
        return {"h": h}, h

    cell = linear(2)._replace(step=step)
    x = np.random.default_rng(0).uniform(0.2, 2.0, (50, 4, 2)) * np.array([1.0, 0.2])
    params = {"A": jnp.zeros((2, 2))}  # of which this step makes no use
    seen = watch(cell, params, jnp.asarray(x))
    # A random frame needs a transient to turn to the axes; the sum of all exponents needs none.
    found = lyapunov.measure(cell, params, seen, rows=4, transient=0)
    exact = np.log(x).mean(axis=0)
    assert found.rows.sum(axis=1) == pytest.approx(exact.sum(axis=1), rel=1e-12)
    late = lyapunov.measure(cell, params, seen, rows=4, transient=25)
    exact = np.log(x[25:]).mean(axis=0)
    np.testing.assert_allclose(late.rows, exact, atol=1e-12)
    np.testing.assert_allclose(late.exponents, exact.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(late.error, exact.std(axis=0, ddof=1) / 2, atol=1e-12)


@every_cell
def test_leading_exponents_are_the_first_of_all(name, float64):
    cell, params, seen = driven(name, time=12)
    whole = lyapunov.measure(cell, params, seen, rows=2, transient=3)
    part = lyapunov.measure(cell, params, seen, rows=2, transient=3, count=2)
    assert whole.exponents.shape == (whole.size,)
    assert part.rows.shape == (2, 2)
    # The first vectors of the frame are the same, and so are their rates, wherever they are sorted to.
    assert all(
        np.abs(whole.rows[row] - rate).min() < 1e-10 for row in (0, 1) for rate in part.rows[row]
    )
    # The sum of all is the mean log |det J|.
    for row in (0, 1):
        each = trajectory.step_jacobians(cell, params, seen, row=row, first=3)
        assert whole.rows[row].sum() == pytest.approx(np.linalg.slogdet(each)[1].mean(), rel=1e-9)


def test_a_singular_jacobian_has_an_exponent_of_minus_infinity(float64):
    found = lyapunov.measure(*still(np.diag([0.5, 0.0]), 10, rows=2), rows=2, transient=2)
    assert found.exponents[0] == pytest.approx(math.log(0.5))
    assert found.exponents[1] == -np.inf


def told_of(values, error):
    values = np.asarray(values, float)
    error = np.full(len(values), error)
    return lyapunov.Lyapunov(values, error, values[None], 4, 20, 80)


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
    sentences = lyapunov.sentences(told_of([top, -0.5], error), "layer 1")
    assert said in sentences[0]
    assert sentences[0].startswith("The largest Lyapunov exponent of layer 1 is")
    positive = "1 is" if top > 0 else "0 are"
    assert sentences[1].startswith("Of its 2 leading exponents (the state has 4 numbers)")
    assert sentences[1].endswith(f"{positive} above 0.")


def exponents(rows=3, size=6, count=6) -> lyapunov.Lyapunov:
    each = -np.sort(-np.random.default_rng(0).normal(size=(rows, count)), axis=1)
    error = each.std(0) if rows > 1 else np.full(count, math.nan)
    return lyapunov.Lyapunov(each.mean(0), error, each, size, 10, 40)


def test_the_data_are_in_the_picture(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"an old figure")
    lyapunov.draw(exponents(), path, title="layer 1")
    pictures.check_colours(path, (figures.BLUE, figures.ORANGE))


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(exponents(rows=1), id="one row"),
        pytest.param(exponents(size=500, count=300), id="many"),
        pytest.param(exponents(count=1), id="one"),
        pytest.param(exponents()._replace(exponents=np.full(6, -np.inf)), id="minus infinity"),
    ],
)
def test_odd_exponents_are_drawn(found, tmp_path):
    lyapunov.draw(found, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")
