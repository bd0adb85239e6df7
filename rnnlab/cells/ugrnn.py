"""UGRNN, the update gate RNN of Collins, Sohl-Dickstein and Sussillo 2017 (arXiv 1611.09913).

    g, c = x W_x + h W_h + b        h' = s(g) h + (1 - s(g)) tanh(c)

One gate mixes the old state with the tanh candidate. The paper adds 1 to g inside the gate; here
that is the initial value of the gate's bias (`gate_bias`), the same function at the start.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.cells.parts import named
from rnnlab.types import Array, Cell


class Carry(NamedTuple):
    h: Array  # [B, H]


def make_cell(**common: Any) -> Cell:
    """A UGRNN cell; the options are those of `parts.Options`. Gate order: g, c."""
    options = parts.Options(**common)

    def pointwise(params, carry, pre, drop):
        gate, candidate = pre
        keep = named(jax.nn.sigmoid(gate), "update gate")
        new = named(jnp.tanh(candidate), "candidate")
        return Carry(h=keep * carry.h + (1.0 - keep) * drop(new))

    return parts.gated_cell("ugrnn", pointwise, Carry, gates=2, options=options, keeping_gate=0)
