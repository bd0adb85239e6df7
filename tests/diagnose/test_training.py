"""The figure of what training saw of its own gradients."""

import numpy as np
import pytest

from rnnlab.diagnose import training
from rnnlab.diagnose.axes import FLOOR
from rnnlab.run.figure import COLOURS
from tests.diagnose import pictures


def look(step, *, layers=("layer 1", "layer 2"), saturated=("candidate", "gate"), norm=1.0):
    """A row of diagnosis.jsonl."""
    return {
        "step": step,
        "flow": {
            layer: {"c": [0.0] * 6, "h": (norm * 0.5 ** np.arange(6)).tolist()} for layer in layers
        },
        "saturated": {layer: dict.fromkeys(saturated, 0.1 * step / 20) for layer in layers},
    }


def test_the_shares_are_in_the_picture(tmp_path):
    looks = [look(20), look(40), look(60)]
    training.draw(looks, tmp_path / "figure.png")
    pictures.check_colours(tmp_path / "figure.png", COLOURS[1:2])


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([look(20)], id="one look"),
        pytest.param([look(20, saturated=()), look(40)], id="saturation from later on"),
        pytest.param([look(20, norm=FLOOR / 10), look(40, norm=0.0)], id="no gradient"),
        pytest.param([look(20, layers=("layer 1",))], id="one layer"),
    ],
)
def test_odd_looks_are_drawn(looks, tmp_path):
    training.draw(looks, tmp_path / "figure.png")
    pictures.check(tmp_path / "figure.png", wide=450 * len(looks[0]["flow"]))
