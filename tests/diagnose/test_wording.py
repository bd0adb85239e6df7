"""Numbers in words."""

import math

import numpy as np
import pytest

from rnnlab.diagnose import wording


@pytest.mark.parametrize(
    ("log10", "said"),
    [(-71.6, "2.5e-72"), (0.0, "1"), (2.0, "100"), (-2.0, "0.01"), (400.0, "1.0e400"),
     (4.9999, "1.0e5"), (-np.inf, "0"), (math.log10(0.973), "0.973")],
)  # fmt: skip
def test_a_number_from_its_logarithm(log10, said):
    assert wording.power_of_ten(log10) == said


def test_a_count_with_its_noun():
    assert wording.counted(1, "fixed point") == "1 fixed point"
    assert wording.counted(0, "fixed point") == "0 fixed points"
