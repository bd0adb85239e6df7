"""How well boxes agree, by hand."""

import jax.numpy as jnp
import numpy as np

from rnnlab.tasks.metrics.boxes import iou


def test_iou_of_boxes_by_hand():
    first = np.array([[1.0, 1, 2, 2]] * 6)
    second = np.array(
        [[1, 1, 2, 2], [2, 1, 2, 2], [2, 2, 2, 2], [1, 1, 1, 1], [4, 1, 2, 2], [1, 1, -1, 2]]
    )
    expected = [1, 2 / 6, 1 / 7, 1 / 4, 0, 0]
    np.testing.assert_allclose(iou(first, second), expected)
    np.testing.assert_allclose(iou(second, first), expected)
    np.testing.assert_allclose(iou(jnp.asarray(first), jnp.asarray(second)), expected, 1e-6)
    assert iou(np.zeros(4), np.zeros(4)) == 0
