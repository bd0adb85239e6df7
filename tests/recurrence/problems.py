"""Small problems of a gradient: shapes, values and flags."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

T, B, D, H = 6, 3, 4, 5


def random(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.asarray(rng.integers(0, 3, leaf.shape), leaf.dtype)
        return jnp.asarray(0.6 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(draw, tree)


def flags_of(which: str) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    found = {
        "lengths": np.array([6, 2, 0]),
        "mask": rng.random((T, B)) < 0.7,
        "reset": rng.random((T, B)) < 0.3,
    }
    return found if which == "all" else {k: v for k, v in found.items() if k == which}
