"""Drawn objects: what leaves on one side comes back, and nothing is lost between cells."""

import numpy as np

from rnnlab.data import sprites

SIDE = 16


def test_what_leaves_a_torus_on_one_side_comes_back_on_the_other():
    sizes = np.full((1, 1), 7.0)
    looks = np.array([4])

    def ink(y, x):
        return sprites.rendered(looks, np.array([[[y, x]]]), sizes, SIDE, torus=True)[0, 0]

    np.testing.assert_allclose(np.roll(ink(8.5, 8.5), (9, -7), (0, 1)), ink(1.5, 1.5), atol=1e-12)
    # At a size of 7 and on a pixel's centre, a cell is a pixel.
    np.testing.assert_allclose(ink(8.5, 8.5)[5:12, 5:12], sprites.LOOKS[4], atol=1e-12)
    halfway = (ink(8.5, 8.5) + ink(8.5, 9.5)) / 2
    np.testing.assert_allclose(ink(8.5, 9.0), halfway, atol=1e-12)
