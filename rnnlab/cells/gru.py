"""The gated recurrent unit of Cho et al. 2014 (arXiv 1406.1078).

    u = s(a_u + r_u)    the update gate, that keeps the old state
    q = s(a_q + r_q)    the reset gate
    n = tanh(a_n + q * r_n)              reset after the product (PyTorch, Flax, cuDNN, Keras)
    n = tanh(a_n + (q * h) W_n)          reset before it (the paper's eq. 8; ONNX's default)
    h' = u h + (1 - u) n

with a = x W_x + b and r = h W_h (+ b_h). Gate order in the kernels: q, u, n, as in PyTorch's r, z,
n. Layer norm takes the two gates together and the candidate by itself (Ba et al. 2016, supplement).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.cells.parts import named
from rnnlab.errors import UsageError
from rnnlab.types import Array, Cell

PRESETS = {
    "torch": {
        "kernel_x_init": "inverse_sqrt_hidden",
        "kernel_h_init": "inverse_sqrt_hidden",
        "bias_init": "inverse_sqrt_hidden",
        "hidden_bias": True,
        "gate_bias": 0.0,
    },
    # Flax and Keras draw each kernel with its gates fused.
    "flax": {
        "kernel_x_init": "lecun_normal",
        "kernel_h_init": "orthogonal",
        "init_per_gate": False,
        "gate_bias": 0.0,
    },
    "keras": {
        "kernel_x_init": "glorot_uniform",
        "kernel_h_init": "orthogonal",
        "init_per_gate": False,
        "hidden_bias": True,
        "gate_bias": 0.0,
    },
}


class Carry(NamedTuple):
    h: Array  # [B, H]


def make_cell(*, reset: str = "after", **common: Any) -> Cell:
    """A GRU cell; `reset` is "after" or "before" the candidate's recurrent product.

    Raises UsageError for another value of `reset`.
    """
    if reset not in ("after", "before"):
        raise UsageError(f"cell 'gru' takes reset 'after' or 'before', not '{reset}'")
    options = parts.Options(**common)
    hidden = options.hidden

    def recur_before(product, h, a):
        gates = product(h, slice(0, 2 * hidden))
        q = named(jax.nn.sigmoid(a[..., :hidden] + gates[..., :hidden]), "reset gate")
        return jnp.concatenate([gates, product(q * h, slice(2 * hidden, None))], axis=-1)

    def pointwise(params, carry, pre, drop):
        q, u, (a_n, r_n) = pre
        if reset == "after":
            r_n = named(jax.nn.sigmoid(q), "reset gate") * r_n
        keep = named(jax.nn.sigmoid(u), "update gate")
        candidate = named(jnp.tanh(a_n + r_n), "candidate")
        return Carry(h=keep * carry.h + (1.0 - keep) * drop(candidate))

    return parts.gated_cell(
        "gru",
        pointwise,
        Carry,
        gates=3,
        options=options,
        keeping_gate=1,
        apart=1,
        recur=recur_before if reset == "before" else None,
    )
