"""The vanilla recurrent network of Elman 1990: h' = act(x W_x + h W_h + b)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.errors import UsageError
from rnnlab.types import Array, Cell

PRESETS = {
    "torch": {
        "kernel_x_init": "inverse_sqrt_hidden",
        "kernel_h_init": "inverse_sqrt_hidden",
        "bias_init": "inverse_sqrt_hidden",
        "hidden_bias": True,
    },
    "flax": {"kernel_x_init": "lecun_normal", "kernel_h_init": "orthogonal"},
    "keras": {"kernel_x_init": "glorot_uniform", "kernel_h_init": "orthogonal"},
}


class Carry(NamedTuple):
    h: Array  # [B, H]


def make_cell(*, activation: str = "tanh", **common: Any) -> Cell:
    """A vanilla cell; `activation` is "tanh" or "relu" (Le et al. 2015: with an identity W_h).

    Raises UsageError for another activation, or for recurrent dropout on the candidate: the state
    is the candidate here, so that dropping it would erase memory; use it on the "state".
    """
    common.setdefault("recurrent_dropout_on", "state")
    options = parts.Options(**common)
    if options.recurrent_dropout_on != "state":
        raise UsageError("cell 'rnn' has no gated candidate: set recurrent_dropout_on to 'state'")
    activations = {"tanh": jnp.tanh, "relu": jax.nn.relu}
    if activation not in activations:
        raise UsageError(f"cell 'rnn' has activation 'tanh' or 'relu', not '{activation}'")
    act = activations[activation]

    def pointwise(params, carry, pre, drop):
        return Carry(h=parts.named(act(pre[0]), "state"))

    return parts.gated_cell("rnn", pointwise, Carry, gates=1, options=options, keeping_gate=None)
