import math
import struct

import numpy as np
import pytest
from matplotlib.image import imread

from rnnlab.diagnose import dynamics_figures as figures
from rnnlab.diagnose import fixed_points
from rnnlab.diagnose.dynamics import Lyapunov, Spectra
from rnnlab.diagnose.fixed_points import FixedPoints, Line
from rnnlab.diagnose.initialisation import Curve, Scan
from rnnlab.run.figure import BLUE, COLOURS, GREY, ORANGE


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


def exponents(rows=3, size=6, count=6) -> Lyapunov:
    each = -np.sort(-np.random.default_rng(0).normal(size=(rows, count)), axis=1)
    error = each.std(0) if rows > 1 else np.full(count, math.nan)
    return Lyapunov(each.mean(0), error, each, size, 10, 40)


def points(count=12, size=4, lines=True) -> FixedPoints:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, size)) + 1j * rng.normal(size=(count, size))
    states = rng.normal(size=(count, size))
    return FixedPoints(
        states=states,
        q=np.full(count, 1e-25),
        eigenvalues=values,
        kinds=tuple(fixed_points.kind_of(0.4 * v, 0.1) for v in values),
        found=np.ones(count, int),
        lines=(Line(tuple(range(min(4, count))), 2.0),) if lines else (),
        starts=count,
        unfinished=0,
        fast=0,
        tolerance=1e-22,
        slow=1e-6,
        margin=0.1,
    )


def scan(scales_h=(0.5, 1.0, 2.0, 4.0), scales_x=(0.1, 1.0, 10.0)) -> Scan:
    h, x = np.array(scales_h, float), np.array(scales_x, float)
    logs = 20 * h[:, None] - 25 - x
    return Scan("rnn", 8, 50, 3, h, x, logs, 0 * logs, np.clip(x * h[:, None] / 10, 0, 1))


def curves(count=3, end=-5.0) -> list[Curve]:
    k = np.arange(1, 51)
    return [
        Curve(f"scheme {i}", (1 + i) * end * k / 50, 0.1 * k, 1 + 0.02 * i, 1.0)
        for i in range(count)
    ]


STATES = np.random.default_rng(1).normal(size=(20, 3, 4)).cumsum(axis=0) / 4
ODD = {
    "jacobians": {
        "one row": (spectra(rows=1),),
        "one step": (spectra(time=1),),
        "one unit": (spectra(size=1),),
        "zeros": (nothing(spectra()),),
        "hardly a change": (spectra(scale=1e-9),),
    },
    "products": {
        "one row": (spectra(rows=1),),
        "one step": (spectra(time=1),),
        "zeros": (nothing(spectra()),),
        "far out": (spectra(scale=1e-60, first=7),),
    },
    "lyapunov": {
        "one row": (exponents(rows=1),),
        "many": (exponents(size=500, count=300),),
        "one": (exponents(count=1),),
        "minus infinity": (exponents()._replace(exponents=np.full(6, -np.inf)),),
    },
    "eigenvalues": {
        "no point": (points(0),),
        "one point": (points(1),),
        "all kinds": (points(80, 11),),
    },
    "portrait": {
        "no point": (STATES, points(0, lines=False)),
        "one unit": (STATES[..., :1], points(5, 1)),
        "all at rest": (0 * STATES, points(5)),
        "not all finite": (np.where(STATES.max() - 0.1 < STATES, np.nan, STATES), points(5)),
        "all kinds": (np.tile(STATES, 3), points(80, 12)),
    },
    "initialisation": {
        "no scheme": (scan(), []),
        "no map": (scan((1.0,), (1.0,)), curves()),
        "one row of the map": (scan(scales_x=(1.0,)), curves()),
        "scale 0 and zeros": (scan((0.0, 1.0))._replace(log10=np.full((2, 3), -np.inf)), curves()),
        "many schemes": (scan(), curves(11)),
        "a scheme beyond": (scan(), [curves(1)[0]._replace(scale_h=100.0)]),
        "curves of zero": (scan(), [curves(1)[0]._replace(log10=np.full(50, -np.inf))]),
        "one step": (scan(), [c._replace(log10=c.log10[:1], spread=c.spread[:1]) for c in curves()]),
    },
}  # fmt: skip
USUAL = {
    "jacobians": (spectra(),),
    "products": (spectra(),),
    "lyapunov": (exponents(),),
    "eigenvalues": (points(),),
    "portrait": (STATES, points()),
    "initialisation": (scan(), curves()),
}
COLOURS = {
    "jacobians": (BLUE, ORANGE, GREY),
    "products": COLOURS[:2],
    "lyapunov": (BLUE, ORANGE),
    "eigenvalues": COLOURS[:2],
    "portrait": COLOURS[:2],
    "initialisation": COLOURS[:3],
}


def draw(which, given, path, title="layer 1"):
    getattr(figures, which)(*given, path, title=title)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 900
    assert height >= 600


@pytest.mark.parametrize("which", USUAL)
def test_the_data_are_in_the_picture(which, tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"an old figure")
    draw(which, USUAL[which], path)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    pixels = imread(path)[..., :3]
    for colour in COLOURS[which]:
        exact = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels - exact).max(-1) < 0.02).sum() > 20, colour


@pytest.mark.parametrize(("which", "what"), [(f, what) for f, odd in ODD.items() for what in odd])
def test_odd_data_are_drawn(which, what, tmp_path):
    draw(which, ODD[which][what], tmp_path / "figure.png")


def test_the_figures_that_are_tested_are_all_there_are():
    own = [f for f in vars(figures).values() if getattr(f, "__module__", "") == figures.__name__]
    public = {f.__name__ for f in own if callable(f) and not f.__name__.startswith("_")}
    assert public == set(USUAL) == set(ODD)


def test_what_is_above_1_is_drawn_above_the_line(tmp_path):
    """The border of the map: the side of the larger scales is red, that of the smaller ones blue."""
    draw("initialisation", (scan((0.5, 1.0, 2.0, 4.0)), []), tmp_path / "figure.png")
    pixels = imread(tmp_path / "figure.png")[..., :3]
    middle = pixels.shape[0] // 2
    left, right = (pixels[middle, int(pixels.shape[1] * at)] for at in (0.1, 0.42))
    assert left[2] > left[0] + 0.2
    assert right[0] > right[2] + 0.2
