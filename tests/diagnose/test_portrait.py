"""The figures of fixed points."""

import numpy as np
import pytest

from rnnlab.diagnose import fixed_points, portrait
from rnnlab.diagnose.fixed_points import FixedPoints, Line
from rnnlab.run import figure as figures
from tests.diagnose import pictures


def points(count=12, size=4, lines=True) -> FixedPoints:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, size)) + 1j * rng.normal(size=(count, size))
    states = rng.normal(size=(count, size))
    return FixedPoints(
        states=states,
        q=np.full(count, 1e-25),
        eigenvalues=values,
        kinds=tuple(fixed_points.kind_of(0.4 * v, 0.1) for v in values),
        hits=np.ones(count, int),
        lines=(Line(tuple(range(min(4, count))), 2.0),) if lines else (),
        starts=count,
        unfinished=0,
        fast=0,
        tolerance=1e-22,
        slow=1e-6,
        margin=0.1,
    )


STATES = np.random.default_rng(1).normal(size=(20, 3, 4)).cumsum(axis=0) / 4


@pytest.mark.parametrize(
    ("draw", "given"),
    [
        pytest.param(portrait.draw_eigenvalues, (points(),), id="eigenvalues"),
        pytest.param(portrait.draw_portrait, (STATES, points()), id="portrait"),
    ],
)
def test_the_data_are_in_the_picture(draw, given, tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"an old figure")
    draw(*given, path, title="layer 1")
    pictures.check_colours(path, figures.COLOURS[:2])


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(points(0), id="no point"),
        pytest.param(points(1), id="one point"),
        pytest.param(points(80, 11), id="all kinds"),
    ],
)
def test_odd_eigenvalues_are_drawn(found, tmp_path):
    portrait.draw_eigenvalues(found, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("states", "found"),
    [
        pytest.param(STATES, points(0, lines=False), id="no point"),
        pytest.param(STATES[..., :1], points(5, 1), id="one unit"),
        pytest.param(0 * STATES, points(5), id="all at rest"),
        pytest.param(
            np.where(STATES.max() - 0.1 < STATES, np.nan, STATES), points(5), id="not all finite"
        ),
        pytest.param(np.tile(STATES, 3), points(80, 12), id="all kinds"),
    ],
)
def test_odd_portraits_are_drawn(states, found, tmp_path):
    portrait.draw_portrait(states, found, tmp_path / "figure.png", title="layer 1")
    pictures.check(tmp_path / "figure.png")
