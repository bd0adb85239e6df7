"""Gradients at initialisation against closed forms and the plain gradient."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from rnnlab import cells
from rnnlab.diagnose import initialisation
from rnnlab.diagnose.initialisation import Curve, Scan
from rnnlab.errors import UsageError
from rnnlab.run import figure as figures
from rnnlab.types import Cell
from tests.diagnose import pictures

pytestmark = pytest.mark.usefixtures("strict_dtypes")

every_cell = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("rnn", "lstm") else pytest.mark.slow)
        for n in cells.names()
    ],
)
SMALL: dict[str, Any] = {"input_size": 3, "steps": 12, "draws": 3}


def linear(hidden: int) -> Cell:
    """h' = h W_h + x W_x with an orthogonal W_h, as a user would write it."""
    draw_h = jax.nn.initializers.orthogonal()

    def init(key, width, dtype=jnp.float32):
        return {
            "kernel_h": draw_h(key, (hidden, hidden), dtype),
            "kernel_x": jnp.ones((width, hidden), dtype),
        }

    def step(params, carry, z):
        h = carry["h"] @ params["kernel_h"] + z
        return {"h": h}, h

    return Cell(
        name="linear",
        hidden=hidden,
        init=init,
        carry=lambda batch, dtype=jnp.float32: {"h": jnp.zeros((batch, hidden), dtype)},
        noise=lambda key, time, batch: None,
        project=lambda params, x, noise=None: x @ params["kernel_x"],
        step=step,
    )


def test_a_linear_cell_with_an_orthogonal_kernel_scales_the_gradient_by_its_power(float64):
    scales = np.array([0.01, 0.5, 1.0, 1.3, 100.0])
    found = initialisation.measure(
        linear(6), scales_h=scales, scales_x=[0.0, 2.0], input_size=3, steps=200, dtype=jnp.float64
    )
    want = 200 * np.log10(scales)  # from 1e-400 to 1e400
    np.testing.assert_allclose(found.log10, np.stack([want, want], 1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.spread, 0, atol=1e-10)
    assert initialisation.border(found, 2.0)[0] == pytest.approx(1.0, abs=1e-9)
    (curve,) = initialisation.measure_schemes(
        linear(6), {"itself": linear(6)}, input_size=3, steps=9, dtype=jnp.float64
    )
    np.testing.assert_allclose(curve.log10, 0, atol=1e-12)
    assert curve.scale_h == curve.scale_x == 1.0


def jacobian(cell: Cell, params: Any, x: Any):
    """ds_k/ds_0 from s_0 = 0 by reverse mode through the whole run, the state as one vector."""
    start = cell.carry(1, x.dtype)
    leaves, tree = jax.tree.flatten(start)
    sizes = np.cumsum([leaf.size for leaf in leaves])

    def run(s):
        carry = jax.tree.unflatten(tree, jnp.split(s[None], list(sizes[:-1]), axis=1))
        z = cell.project(params, x, None)
        for t in range(len(x)):
            carry, _ = cell.step(params, carry, jax.tree.map(lambda leaf, t=t: leaf[t], z))
        return jnp.concatenate(jax.tree.leaves(carry), axis=1)[0]

    return jax.jacrev(run)(jnp.zeros(sizes[-1], x.dtype))


@every_cell
def test_the_scan_is_the_product_of_the_jacobians_times_v(name, float64):
    cell = cells.get(name, hidden=5)
    sizes = {"input_size": 3, "steps": 6, "draws": 2}
    found = initialisation.measure(
        cell, scales_h=[0.7, 1.9], scales_x=[0.3], seed=4, dtype=jnp.float64, **sizes
    )
    drawn = initialisation._drawn(cell, *sizes.values(), 4, jnp.float64)
    np.testing.assert_allclose(np.linalg.norm(drawn.v, axis=1), 1, rtol=1e-12)
    for index, scale in enumerate((0.7, 1.9)):
        logs = []
        for draw in range(2):
            params, x, v = jax.tree.map(lambda leaf, draw=draw: leaf[draw], drawn)
            params = params | {"kernel_h": scale * params["kernel_h"]}
            logs.append(np.log10(np.linalg.norm(jacobian(cell, params, 0.3 * x) @ v)))
        assert found.log10[index, 0] == pytest.approx(np.mean(logs), rel=1e-9)
        assert found.spread[index, 0] == pytest.approx(np.std(logs), rel=1e-6)


def test_forward_and_backward_norms_have_one_distribution():
    """What the module says of |P v| and |P^T v|: the same mean logarithm, over many v."""
    rng = np.random.default_rng(0)
    p = rng.normal(size=(6, 6)) @ np.diag([3, 1, 1, 0.3, 0.1, 0.01]) @ rng.normal(size=(6, 6))
    v = rng.normal(size=(6, 200_000))
    v /= np.linalg.norm(v, axis=0)
    forward, backward = (np.log10(np.linalg.norm(m @ v, axis=0)) for m in (p, p.T))
    assert forward.mean() == pytest.approx(
        backward.mean(), abs=5 * forward.std() / 200_000**0.5 * 2
    )
    assert forward.std() == pytest.approx(backward.std(), rel=0.02)


@pytest.mark.slow
@every_cell
def test_curves_end_where_the_scan_is(name):
    cell = cells.get(name, hidden=6)
    found = initialisation.measure(cell, scales_h=[1.0], scales_x=[1.0], **SMALL)
    schemes = initialisation.schemes(name, 6)
    curves = initialisation.measure_schemes(cell, schemes, **SMALL)
    # A preset only where the cell has it.
    wanted = [s for s in initialisation.SCHEMES if name != "ugrnn" or s != "preset:torch"]
    assert [curve.scheme for curve in curves] == wanted
    by_name = {curve.scheme: curve for curve in curves}
    assert by_name["orthogonal"].log10[-1] == pytest.approx(found.log10[0, 0], rel=1e-4)
    assert by_name["orthogonal"].spread[-1] == pytest.approx(found.spread[0, 0], rel=1e-3)
    assert all(curve.log10.shape == (12,) for curve in curves)
    assert len({float(curve.log10[-1]) for curve in curves}) == len(curves)


@pytest.mark.slow
def test_the_scale_of_a_scheme_is_that_of_its_entries(float64):
    cell = cells.get("gru", hidden=40)
    wanted = ("orthogonal:1.7", "identity:0.5", "uniform:0.08", "lecun_normal", "preset:torch")
    schemes = initialisation.schemes("gru", 40, wanted)
    curves = initialisation.measure_schemes(cell, schemes, input_size=7, steps=2, dtype=jnp.float64)
    scales = {curve.scheme: (curve.scale_h, curve.scale_x) for curve in curves}
    assert scales["orthogonal:1.7"] == pytest.approx((1.7, 1.0), rel=1e-12)
    assert scales["identity:0.5"] == pytest.approx((0.5, 1.0), rel=1e-12)
    # The entries of an orthogonal matrix have mean square 1/H, uniform ones limit^2 / 3.
    assert scales["uniform:0.08"][0] == pytest.approx(0.08 * math.sqrt(40 / 3), rel=0.02)
    assert scales["lecun_normal"][0] == pytest.approx(1.0, rel=0.02)
    glorot = math.sqrt(2 / (7 + 40))
    assert scales["preset:torch"][0] == pytest.approx(math.sqrt(1 / 3), rel=0.02)
    assert scales["preset:torch"][1] == pytest.approx(math.sqrt(1 / (3 * 40)) / glorot, rel=0.06)


def test_an_initialisation_touches_nothing_but_the_initial_values():
    """What lets the schemes of a cell share one program."""
    schemes = initialisation.schemes("lstm", 4, ("orthogonal", "identity:1.0", "preset:torch"))
    first, second, torch = (cell._replace(init=None) for cell in schemes.values())
    assert first == second
    assert first != torch


def test_saturation_and_a_gradient_of_zero():
    found = initialisation.measure(
        cells.get("rnn", hidden=8), scales_h=[0.0, 1.0], scales_x=[0.01, 1e4], **SMALL
    )
    assert (found.log10[0] == -np.inf).all()
    assert np.isfinite(found.log10[1, 0])
    assert (found.saturated[:, 0] == 0).all()
    assert (found.saturated[:, 1] > 0.99).all()


def grid(values, scales_h=(0.5, 1.0, 2.0, 4.0), scales_x=(0.1, 1.2)) -> Scan:
    logs = np.stack([np.full(len(scales_h), -5.0), np.asarray(values, float)], axis=1)
    none = np.zeros_like(logs)
    axes = np.array(scales_h, float), np.array(scales_x, float)
    return Scan("rnn", 8, 50, 3, *axes, logs, none, none)


@pytest.mark.parametrize(
    ("values", "crossed"),
    [
        ([-3, -1, 1, 2], [1.5]),
        ([-3, -1, 3, 2], [1.25]),
        ([-3, 0, 3, 2], [1.0]),
        ([-1, 1, 1, -1], [0.75, 3.0]),
        ([-3, -2, -1, -0.5], []),
        ([-3, -2, -1, 0], [4.0]),
        ([-np.inf, 1, 2, 3], []),
    ],
)
def test_the_border(values, crossed):
    found = grid(values)
    assert initialisation.border(found, 1.0) == pytest.approx(crossed)
    order = [2, 0, 3, 1]
    shuffled = found._replace(scales_h=found.scales_h[order], log10=found.log10[order])
    assert initialisation.border(shuffled, 1.0) == pytest.approx(crossed)
    assert initialisation.border(found, 0.2) == []


def test_what_is_said():
    curves = [
        Curve(name, np.array([0.0, end]), np.zeros(2), 1.0, 1.0)
        for name, end in (("low", -30.5), ("even", 0.3), ("high", 4.0))
    ]
    said = initialisation.sentences(grid([-3, -1, 1, 2]), curves)
    assert said == [
        "A rnn of 8 units, inputs of scale 1.2, 50 steps: the gradient neither grows nor shrinks at a "
        "scale of W_h of 1.5.",
        "With high it explodes: its norm is 1.0e4 after 2 steps.",
        "With even it keeps its size within a factor of ten: its norm is 2 after 2 steps.",
        "With low it vanishes: its norm is 3.2e-31 after 2 steps.",
    ]
    said = initialisation.sentences(grid([-3, -2, -1, -0.5]), [])
    assert "crosses no border" in said[0]
    assert "from 0.5 to 4" in said[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"input_size": 0}, "input_size must be at least 1"),
        ({"scales_h": []}, "scales_h must be finite numbers"),
        ({"scales_x": [math.nan]}, "scales_x must be finite numbers"),
    ],
)
def test_bad_options(change, said):
    options = {"scales_h": [1.0], "scales_x": [1.0], **SMALL} | change
    with pytest.raises(UsageError, match=said):
        initialisation.measure(cells.get("rnn", hidden=3), **options)


def test_bad_cells_and_schemes():
    bare = linear(3)._replace(init=lambda key, width, dtype: {"A": jnp.ones((3, 3), dtype)})
    with pytest.raises(UsageError, match="cell 'linear' has no parameter 'kernel_h'"):
        initialisation.measure(bare, scales_h=[1.0], scales_x=[1.0], **SMALL)
    with pytest.raises(UsageError, match="did you mean 'orthogonal'"):
        initialisation.schemes("rnn", 3, ("ortogonal",))
    with pytest.raises(UsageError, match="did you mean 'torch'"):
        initialisation.schemes("rnn", 3, ("preset:torhc",))


def drawn_scan(scales_h=(0.5, 1.0, 2.0, 4.0), scales_x=(0.1, 1.0, 10.0)) -> Scan:
    h, x = np.array(scales_h, float), np.array(scales_x, float)
    logs = 20 * h[:, None] - 25 - x
    return Scan("rnn", 8, 50, 3, h, x, logs, 0 * logs, np.clip(x * h[:, None] / 10, 0, 1))


def drawn_curves(count=3, end=-5.0) -> list[Curve]:
    k = np.arange(1, 51)
    return [
        Curve(f"scheme {i}", (1 + i) * end * k / 50, 0.1 * k, 1 + 0.02 * i, 1.0)
        for i in range(count)
    ]


def test_the_data_are_in_the_picture(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"an old figure")
    initialisation.draw(drawn_scan(), drawn_curves(), path, title="layer 1")
    pictures.check_colours(path, figures.COLOURS[:3])


ZEROS = drawn_scan((0.0, 1.0))._replace(log10=np.full((2, 3), -np.inf))
ONE_STEP = [c._replace(log10=c.log10[:1], spread=c.spread[:1]) for c in drawn_curves()]


@pytest.mark.parametrize(
    ("found", "curves"),
    [
        pytest.param(drawn_scan(), [], id="no scheme"),
        pytest.param(drawn_scan((1.0,), (1.0,)), drawn_curves(), id="no map"),
        pytest.param(drawn_scan(scales_x=(1.0,)), drawn_curves(), id="one row of the map"),
        pytest.param(ZEROS, drawn_curves(), id="scale 0 and zeros"),
        pytest.param(drawn_scan(), drawn_curves(11), id="many schemes"),
        pytest.param(
            drawn_scan(), [drawn_curves(1)[0]._replace(scale_h=100.0)], id="a scheme beyond"
        ),
        pytest.param(
            drawn_scan(),
            [drawn_curves(1)[0]._replace(log10=np.full(50, -np.inf))],
            id="curves of zero",
        ),
        pytest.param(drawn_scan(), ONE_STEP, id="one step"),
    ],
)
def test_odd_maps_are_drawn(found, curves, tmp_path):
    initialisation.draw(found, curves, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")


def test_what_is_above_1_is_drawn_above_the_line(tmp_path):
    """The border of the map: the side of the larger scales is red, that of the smaller ones blue."""
    found = drawn_scan((0.5, 1.0, 2.0, 4.0))
    initialisation.draw(found, [], tmp_path / "figure.png", title="layer 1")
    pixels = imread(tmp_path / "figure.png")[..., :3]
    middle = pixels.shape[0] // 2
    left, right = (pixels[middle, int(pixels.shape[1] * at)] for at in (0.1, 0.42))
    assert left[2] > left[0] + 0.2
    assert right[0] > right[2] + 0.2
