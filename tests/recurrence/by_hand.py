"""An LSTM over a window, gate by gate."""

import jax
import jax.numpy as jnp

from rnnlab.recurrence import taps
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell

T, B, D, H = 7, 3, 4, 5


def window(cell: Cell, scale: float = 3.0):
    """(params, Seen) of random inputs, large ones, so that something is saturated."""
    params = cell.init(jax.random.key(0), D, jnp.float32)
    x = scale * jax.random.normal(jax.random.key(1), (T, B, D))
    start = jax.tree.map(lambda a: a + 0.1, cell.carry(B, jnp.float32))
    _, joined = unroll(cell, params, x, start, record=True)
    return params, taps.parted(cell, x, joined)[1]


def lstm_by_hand(params, seen):
    pre = seen.x @ params["kernel_x"] + params["bias"]
    i, f, g, o = jnp.split(pre + seen.before.h @ params["kernel_h"], 4, axis=-1)
    return {
        "forget gate": jax.nn.sigmoid(f),
        "input gate": jax.nn.sigmoid(i),
        "candidate": jnp.tanh(g),
        "output gate": jax.nn.sigmoid(o),
        "tanh(c)": jnp.tanh(seen.states.c),
    }
