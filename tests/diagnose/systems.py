"""Cells whose dynamics are known: linear ones, one that stands still, driven ones."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.recurrence.taps import Seen, parted, recorded
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell

every_cell = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("rnn", "lstm") else pytest.mark.slow)
        for n in cells.names()
    ],
)


def linear(size: int) -> Cell:
    """h' = h A + x, as a user would write it: its state is a dict, its parameter is A alone."""

    def step(params, carry, z):
        h = carry["h"] @ params["A"] + z
        return {"h": h}, h

    return Cell(
        name="linear",
        hidden=size,
        init=lambda key, width, dtype=jnp.float32: {"A": jnp.eye(size, dtype=dtype)},
        carry=lambda batch, dtype=jnp.float32: {"h": jnp.zeros((batch, size), dtype)},
        noise=lambda key, time, batch: None,
        project=lambda params, x, noise=None: x,
        step=step,
    )


def watch(cell: Cell, params: Any, x: Any, start: Any = None) -> Seen:
    dtype = jax.tree.leaves(params)[0].dtype
    start = cell.carry(x.shape[1], dtype) if start is None else start
    _, y = unroll(recorded(cell), params, x, start, path="plain")
    return parted(cell, x, y)[1]


def driven(name: str, *, time=6, rows=3, width=3, hidden=4, **options: Any):
    """(cell, params, seen) of random inputs, in float64."""
    cell = cells.get(name, hidden=hidden, **options)
    params = cell.init(jax.random.key(0), width, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (time, rows, width), jnp.float64)
    return cell, params, watch(cell, params, x)


def still(matrix: np.ndarray, time: int, rows: int = 1):
    """(cell, params, seen) of the linear cell, whose state stays finite since it stays 0."""
    size = len(matrix)
    cell, params = linear(size), {"A": jnp.asarray(matrix, jnp.float64)}
    return cell, params, watch(cell, params, jnp.zeros((time, rows, size), jnp.float64))


def matrix(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(size, size)) / math.sqrt(size)
