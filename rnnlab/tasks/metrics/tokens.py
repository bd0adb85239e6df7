"""Metrics. A token metric is one function (outputs, targets) -> value per token; adding one is
adding it to TOKEN_METRICS, or to REAL_METRICS where outputs are real values. They are kept as
(sum, count) and divided once, by the reader.
"""

import math
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.types import Array


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """-log p(target) in nats; outputs [T, B, V] are logits, targets int [T, B]."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def accuracy(outputs: Array, targets: Array) -> Array:
    """1 where the most probable symbol is the target."""
    return (outputs.argmax(-1) == targets).astype(outputs.dtype)


def squared_error(outputs: Array, targets: Array) -> Array:
    """The mean over D of (output - target)^2; both are [T, B, D]."""
    return ((outputs - targets) ** 2).mean(-1)


def closeness(outputs: Array, targets: Array) -> Array:
    """1 where no |output - target| of the D exceeds TOLERANCE."""
    return (jnp.abs(outputs - targets) <= TOLERANCE).all(-1).astype(outputs.dtype)


Metrics = dict[str, Callable[[Array, Array], Array]]
Sums = dict[str, tuple[Array, Array]]  # metric -> (sum, count)
TOLERANCE = 0.04  # Hochreiter and Schmidhuber 1997, experiments 4 and 5
TOKEN_METRICS: Metrics = {"loss": cross_entropy, "accuracy": accuracy}
REAL_METRICS: Metrics = {"loss": squared_error, "accuracy": closeness}


def sums(
    names: tuple[str, ...],
    outputs: Array,
    targets: Array,
    weights: Array | None = None,
    known: Metrics = TOKEN_METRICS,
) -> Sums:
    """metric -> (sum, count) over the tokens whose weight is True (all, if weights is None).

    known: the metrics that have these names; targets are int [T, B], for REAL_METRICS [T, B, D].

    What stands at the others, NaN included, reaches neither the sum nor its gradient. Sums and
    counts are float32 at least: bfloat16 cannot count to 257.
    """
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    if weights is None:
        count = jnp.asarray(outputs.shape[0] * outputs.shape[1], outputs.dtype)
    else:
        outputs = jnp.where(weights[..., None], outputs, jnp.zeros((), outputs.dtype))
        there = weights.reshape(weights.shape + (1,) * (targets.ndim - weights.ndim))
        targets = jnp.where(there, targets, jnp.zeros((), targets.dtype))
        count = weights.sum().astype(outputs.dtype)
    result = {}
    for name in names:
        values = known[name](outputs, targets)
        if weights is not None:
            values = jnp.where(weights, values, jnp.zeros((), values.dtype))
        result[name] = (values.sum(), count)
    return result


def means(found: Iterable[Sums], names: Iterable[str] = ()) -> dict[str, float]:
    """metric -> its mean over all batches, whose sums are added in float64. names: the metrics in their
    order; without them all, as the first batch has them."""
    totals = {name: np.zeros(2) for name in names}
    for sums_of_batch in found:
        for name, pair in sums_of_batch.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.array([float(v) for v in pair])
    return {name: float(total / count) for name, (total, count) in totals.items()}


def sequence_error(right: Array, weights: Array) -> tuple[Array, Array]:
    """(sequences with a wrong answer, sequences with an answer). right: [T, B], 1 for a right one;
    weights: bool [T, B], where there is one."""
    wrong = (weights & (right < 1)).any(0)
    return wrong.sum().astype(right.dtype), weights.any(0).sum().astype(right.dtype)


def bits(loss: float) -> float:
    """nats to bits."""
    return loss / math.log(2.0)


def perplexity(loss: float) -> float:
    """exp of the nats; inf where that overflows."""
    return math.inf if loss > 700 else math.exp(loss)
