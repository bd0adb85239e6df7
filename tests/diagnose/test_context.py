"""The figure of how many characters a model uses."""

from typing import NamedTuple

import pytest
from matplotlib.image import imread

from rnnlab.diagnose.context import draw_context
from rnnlab.run.figure import BLUE, ORANGE


class Memory(NamedTuple):
    lengths: tuple[int, ...]
    losses: tuple[float, ...]
    errors: tuple[float, ...]
    full: float
    characters: int | None


@pytest.mark.parametrize("characters", [4, None])
def test_context_draws(characters, tmp_path):
    memory = Memory((1, 2, 4), (2.0, 1.5, 1.005), (0.1, 0.1, 0.0), 1.0, characters)
    path = tmp_path / "context.png"
    draw_context(memory, path, title="50$ and \\frac$, under 月", unit="byte")
    assert [each.name for each in tmp_path.iterdir()] == ["context.png"]
    image = imread(path)[..., :3]
    assert image.shape[1] > 900
    for colour in (BLUE, ORANGE):
        exact = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(image - exact).max(-1) < 0.01).sum() > 100
    # The dashed line is a column of grey from bottom to top, in the plot and not in the legend.
    grey = abs(image - 0x77 / 255).max(-1) < 0.06
    assert (grey.sum(axis=0).max() > 150) == (characters is not None)
