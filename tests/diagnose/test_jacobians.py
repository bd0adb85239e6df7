"""Products of Jacobians against closed forms and brute force, and their figures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import jacobians, lyapunov, trajectory
from rnnlab.diagnose.jacobians import Spectra
from rnnlab.models import stack
from rnnlab.run import figure as figures
from tests.diagnose import pictures
from tests.diagnose.systems import driven, matrix, still

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_a_model_in_float32_on_tokens():
    net = stack.stack_cells(input_size=7, output_size=7, cell="gru", hidden=5, layers=2)
    params = net.init(jax.random.key(0))
    x = np.random.default_rng(0).integers(0, 7, (9, 2)).astype(np.uint8)
    _, _, seen = net.watch(params, net.carry(2), x)
    for layer, one in zip(params["layers"], seen, strict=True):
        found = jacobians.measure(net.cell, layer, one, rows=2)
        assert found.singular.shape == (2, 9, 5)
        assert np.isfinite(found.log10_largest).all()
        exponents = lyapunov.measure(net.cell, layer, one, rows=2, transient=0).exponents
        assert exponents.sum() / 5 == pytest.approx(
            found.log10_mean[:, -1].mean() * math.log(10) / 9, rel=1e-9
        )
    assert jnp.zeros(1).dtype == jnp.float32  # the flag was not left on


def test_a_linear_cell_has_its_matrix_for_jacobian(float64):
    a = matrix(6)
    found = jacobians.measure(*still(a, 40, rows=2), rows=2, every=3)
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
    found = jacobians.measure(*still(scale * a, k), rows=1)
    want = k * math.log10(scale) + np.log10(np.linalg.norm(np.linalg.matrix_power(a, k), 2))
    assert abs(want) > 1190
    assert found.log10_largest[0, -1] == pytest.approx(want, rel=1e-13)
    want = k * (math.log10(scale) + np.log10(abs(np.linalg.det(a))) / 5)
    assert found.log10_mean[0, -1] == pytest.approx(want, rel=1e-13)


def test_a_product_that_is_zero(float64):
    found = jacobians.measure(*still(np.diag([1.0, 2.0], 1), 4), rows=1)
    np.testing.assert_allclose(found.log10_largest[0, :2], np.log10([2, 2]), atol=1e-14)
    assert (found.log10_largest[0, 2:] == -np.inf).all()
    assert (found.log10_mean == -np.inf).all()
    assert (found.condition == np.inf).all()
    assert any(" 0 in the geometric" in s for s in jacobians.sentences(found, "it"))


def test_products_of_changing_jacobians(monkeypatch, float64):
    cell, params, seen = driven("gru", time=8)
    found = jacobians.measure(cell, params, seen, rows=3, first=2, steps=5, every=1)
    for row in range(3):
        each = trajectory.step_jacobians(cell, params, seen, row=row, first=2, steps=5)
        product = np.eye(4)
        for k, one in enumerate(each):
            product = one @ product
            values = np.linalg.svd(product, compute_uv=False)
            assert found.log10_largest[row, k] == pytest.approx(np.log10(values[0]), rel=1e-11)
            assert found.log10_mean[row, k] == pytest.approx(np.log10(values).mean(), rel=1e-9)
            assert found.radius[row, k] == pytest.approx(np.abs(np.linalg.eigvals(one)).max())
    monkeypatch.setattr(jacobians, "CHUNK_BYTES", 2 * 8 * 4**2)  # two steps at a time
    again = jacobians.measure(cell, params, seen, rows=3, first=2, steps=5, every=1)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_what_is_said_of_spectra(float64):
    found = jacobians.measure(*still(0.5 * np.eye(3), 300), rows=1)
    first, second = jacobians.sentences(found, "layer 2")
    assert first.startswith(
        "In layer 2 the median over 1 sequence and 300 steps is 0.5 for the largest"
    )
    assert second.count("4.9e-91") == 3  # 0.5^300 by all three


def spectra(rows=2, time=30, size=5, scale=0.9, first=0) -> Spectra:
    rng = np.random.default_rng(0)
    singular = -np.sort(-scale * rng.uniform(0.1, 1.5, (rows, time, size)), axis=-1)
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log10(singular), axis=1)
    radius = singular[:, ::4, size // 3]
    return Spectra(first, 4, singular, radius, logs[..., 0], logs.mean(-1))


def nothing(found: Spectra) -> Spectra:
    """With Jacobians that are 0 from step 3 on."""
    for array, value in (
        (found.singular, 0.0), (found.log10_largest, -np.inf), (found.log10_mean, -np.inf)
    ):  # fmt: skip
        array[:, 3:] = value
    return found._replace(radius=0 * found.radius)


@pytest.mark.parametrize(
    ("draw", "colours"),
    [
        (jacobians.draw_steps, (figures.BLUE, figures.ORANGE, figures.GREY)),
        (jacobians.draw_products, figures.COLOURS[:2]),
    ],
)
def test_the_data_are_in_the_picture(draw, colours, tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"an old figure")
    draw(spectra(), path, title="layer 1")
    pictures.check_colours(path, colours)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(spectra(rows=1), id="one row"),
        pytest.param(spectra(time=1), id="one step"),
        pytest.param(spectra(size=1), id="one unit"),
        pytest.param(nothing(spectra()), id="zeros"),
        pytest.param(spectra(scale=1e-9), id="hardly a change"),
    ],
)
def test_odd_jacobians_are_drawn(found, tmp_path):
    jacobians.draw_steps(found, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(spectra(rows=1), id="one row"),
        pytest.param(spectra(time=1), id="one step"),
        pytest.param(nothing(spectra()), id="zeros"),
        pytest.param(spectra(scale=1e-60, first=7), id="far out"),
    ],
)
def test_odd_products_are_drawn(found, tmp_path):
    jacobians.draw_products(found, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")
