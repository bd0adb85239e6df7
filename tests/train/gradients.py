"""Gradients in the form of a model's, and how two of them are compared."""

import math

import jax
import numpy as np

INF = float("inf")


def tree(seed=0, scale=1.0, dtype=np.float64):
    """A gradient, or parameters, in the form of a model's."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (scale * rng.normal(size=shape)).astype(dtype)

    return {
        "layers": [{"kernel": draw(3, 8)}, {"kernel": draw(2, 8), "bias": draw(8)}],
        "readout": {"kernel": draw(2, 5)},
    }


def norm_of(part):
    return math.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(part)))


def times(part, factor):
    return jax.tree.map(lambda leaf: leaf * factor, part)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


def assert_close(a, b, rtol):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=0)
