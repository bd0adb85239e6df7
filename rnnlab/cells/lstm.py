"""Long short-term memory: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000.

    i, f, g, o = x W_x + h W_h + b
    c' = s(f) c + s(i) tanh(g)        h' = s(o) tanh(c')

Peepholes (Gers and Schmidhuber 2000) add p_i * c to i, p_f * c to f and p_o * c' to o. With layer
norm, h' = s(o) tanh(LN(c')) (Ba et al. 2016, eq. 22). Gate order in the kernels: i, f, g, o.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.cells.parts import named
from rnnlab.types import Array, Cell

PRESETS = {
    "torch": {
        "kernel_x_init": "inverse_sqrt_hidden",
        "kernel_h_init": "inverse_sqrt_hidden",
        "bias_init": "inverse_sqrt_hidden",
        "hidden_bias": True,
        "gate_bias": 0.0,
    },
    "flax": {"kernel_x_init": "lecun_normal", "kernel_h_init": "orthogonal", "gate_bias": 0.0},
    # Keras draws each kernel with its gates fused, and starts the forget bias at 1.
    "keras": {
        "kernel_x_init": "glorot_uniform",
        "kernel_h_init": "orthogonal",
        "init_per_gate": False,
        "gate_bias": 1.0,
    },
}


class Carry(NamedTuple):
    c: Array  # [B, H] the inner state
    h: Array  # [B, H] the output


def make_cell(*, peepholes: bool = False, **common: Any) -> Cell:
    """An LSTM cell; the other options are those of `parts.Options`."""
    options = parts.Options(**common)

    def extra(key, dtype):
        params = {}
        if peepholes:
            params["peepholes"] = jnp.zeros((3, options.hidden), dtype)  # rows i, f, o
        if options.layer_norm:
            params["norm_c"] = jnp.ones(options.hidden, dtype)
            params["bias_c"] = jnp.zeros(options.hidden, dtype)
        return params

    def pointwise(params, carry, pre, drop):
        i, f, g, o = pre
        if peepholes:
            i = i + params["peepholes"][0] * carry.c
            f = f + params["peepholes"][1] * carry.c
        forget, write = (
            named(jax.nn.sigmoid(f), "forget gate"),
            named(jax.nn.sigmoid(i), "input gate"),
        )
        c = forget * carry.c + write * drop(named(jnp.tanh(g), "candidate"))
        if peepholes:
            o = o + params["peepholes"][2] * c
        read = c
        if options.layer_norm:
            read = parts.layer_norm(c, params["norm_c"]) + params["bias_c"]
        return Carry(
            c=c, h=named(jax.nn.sigmoid(o), "output gate") * named(jnp.tanh(read), "tanh(c)")
        )

    return parts.gated_cell(
        "lstm", pointwise, Carry, gates=4, options=options, keeping_gate=1, extra=extra
    )
