"""Metrics. A token metric is one function (outputs, targets) -> value per token; adding one is
adding it to TOKEN_METRICS. They are kept as (sum, count) and divided once, by the reader.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import optax

from rnnlab.types import Array


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """-log p(target) in nats; outputs [T, B, V] are logits, targets int [T, B]."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def accuracy(outputs: Array, targets: Array) -> Array:
    """1 where the most probable symbol is the target."""
    return (outputs.argmax(-1) == targets).astype(outputs.dtype)


TOKEN_METRICS: dict[str, Callable[[Array, Array], Array]] = {
    "loss": cross_entropy,
    "accuracy": accuracy,
}


def sums(
    names: tuple[str, ...], outputs: Array, targets: Array, weights: Array | None = None
) -> dict[str, tuple[Array, Array]]:
    """metric -> (sum, count) over the tokens whose weight is True (all, if weights is None).

    What stands at the others, NaN included, reaches neither the sum nor its gradient. Sums and
    counts are float32 at least: bfloat16 cannot count to 257.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    if weights is None:
        count = jnp.asarray(targets.size, outputs.dtype)
    else:
        outputs = jnp.where(weights[..., None], outputs, jnp.zeros((), outputs.dtype))
        targets = jnp.where(weights, targets, 0)
        count = weights.sum().astype(outputs.dtype)
    result = {}
    for name in names:
        values = TOKEN_METRICS[name](outputs, targets)
        if weights is not None:
            values = jnp.where(weights, values, jnp.zeros((), values.dtype))
        result[name] = (values.sum(), count)
    return result


def bits(loss: float) -> float:
    """nats to bits."""
    return loss / math.log(2.0)


def perplexity(loss: float) -> float:
    """exp of the nats; inf where that overflows."""
    return math.inf if loss > 700 else math.exp(loss)
