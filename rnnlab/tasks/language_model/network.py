"""The network of a language model: symbols in, the logits of the next symbol out."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.models import configured
from rnnlab.recurrence.leaves import select
from rnnlab.tasks.language_model.batches import Batch
from rnnlab.tasks.metrics import tokens
from rnnlab.types import Array, Config, Model, Params


def build(config: Config, size: int, values: dict[str, Any] | None = None) -> Model:
    """The model of the config for a vocabulary of that size: one-hot or embedded symbols in, logits
    out. `values` take the place of the config's own, by dotted key."""
    return configured.model_of(config, input_size=size, output_size=size, values=values)


def loss(
    net: Model, params: Params, carry: Any, batch: Batch, key: Array | None, taps: Any = None
) -> tuple[Any, tokens.Sums]:
    """See `Task.loss`: the rows that are `fresh` begin from a zero state, the others go on."""
    carry = select(batch["fresh"], jax.tree.map(jnp.zeros_like, carry), carry)
    carry, logits = net.apply(params, carry, batch["inputs"], key=key, taps=taps)
    return carry, tokens.sums(("loss",), logits, batch["targets"])


def losses(logits: Array, batch: Batch) -> tuple[Array, Array]:
    """See `Probe.losses`."""
    values = tokens.cross_entropy(logits, batch["targets"])
    return values, jnp.ones_like(values)


class Reader(NamedTuple):
    """The model where it is only read from: its initial values and dropout do not matter."""

    net: Model
    measure: Callable[..., Any]  # (params, carry, batch) -> (carry, sums of TOKEN_METRICS), jitted


def reader(config: Config, size: int) -> Reader:
    """The reader of a config; the same one for all configs whose programs are the same: see
    `configured.model_to_read`."""
    return _reader(configured.model_to_read(config, input_size=size, output_size=size))


@functools.lru_cache(maxsize=16)
def _reader(net: Model) -> Reader:
    @jax.jit
    def measure(params: Params, carry: Any, batch: Batch) -> tuple[Any, tokens.Sums]:
        carry, logits = net.apply(params, carry, batch["inputs"])
        names = tuple(tokens.TOKEN_METRICS)
        return carry, tokens.sums(names, logits, batch["targets"], batch.get("weights"))

    return Reader(net, measure)
