"""The loss and the metrics of a network over sequences of known answers, each from a zero state."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.tasks.metrics import tokens
from rnnlab.types import Array, Model, Params

# Of arrays: inputs int [T, B] or float [T, B, D], targets int [T, B] or float [T, B, D], weights bool
# [T, B], where there is an answer, and lengths int [B] where they differ.
Batch = dict[str, Any]


def known_metrics(real: bool, more: tuple[tuple[str, Any], ...]) -> tokens.Metrics:
    """The metrics of real answers or of classes, and `more`, which take their place."""
    return {**(tokens.REAL_METRICS if real else tokens.TOKEN_METRICS), **dict(more)}


def inputs_of(batch: Batch) -> dict[str, Any]:
    """The arguments of `Model.apply` that a batch has."""
    return {"x": batch["inputs"], "lengths": batch.get("lengths")}


def outputs_of(net: Model, params: Params, batch: Batch, **options: Any) -> Array:
    """[T, B, V], from a zero state."""
    inputs = inputs_of(batch)
    dtype = params["readout"]["bias"].dtype
    if jnp.issubdtype(inputs["x"].dtype, jnp.floating):
        inputs["x"] = jnp.asarray(inputs["x"]).astype(dtype)
    return net.apply(params, net.carry(inputs["x"].shape[1], dtype), **inputs, **options)[1]


def _targets(batch: Batch, outputs: Array) -> Array:
    """Real ones in the outputs' dtype."""
    targets = jnp.asarray(batch["targets"])
    return targets if jnp.issubdtype(targets.dtype, jnp.integer) else targets.astype(outputs.dtype)


def loss(
    net: Model,
    metrics: tokens.Metrics,
    params: Params,
    carry: Any,
    batch: Batch,
    key: Array | None,
    taps: Any = None,
) -> tuple[Any, tokens.Sums]:
    """See `Task.loss`, of a network and metrics with a "loss" among them."""
    outputs = outputs_of(net, params, batch, key=key, taps=taps)
    return carry, tokens.sums(
        ("loss",), outputs, _targets(batch, outputs), batch["weights"], metrics
    )


def losses(metrics: tokens.Metrics, outputs: Array, batch: Batch) -> tuple[Array, Array]:
    """See `Probe.losses`."""
    weights = jnp.asarray(batch["weights"])
    values = metrics["loss"](outputs, _targets(batch, outputs))
    return jnp.where(weights, values, jnp.zeros_like(values)), weights.astype(values.dtype)


class Reader(NamedTuple):
    """A network that is only read from; both functions are jitted."""

    measure: Callable[[Params, Batch], tokens.Sums]  # the sums of all metrics, and of "error"
    outputs: Callable[[Params, Batch], Array]  # [T, B, V]


@functools.lru_cache(maxsize=16)
def reader(net: Model, real: bool, more: tuple[tuple[str, Any], ...]) -> Reader:
    """The reader of a network; the same one for all runs that share network and metrics, which are
    those of `known_metrics`."""
    metrics = known_metrics(real, more)

    @jax.jit
    def measure(params: Params, batch: Batch) -> tokens.Sums:
        outputs = outputs_of(net, params, batch)
        targets = _targets(batch, outputs)
        right = metrics["accuracy"](outputs, targets)
        found = tokens.sums(tuple(metrics), outputs, targets, batch["weights"], metrics)
        return {**found, "error": tokens.sequence_error(right, batch["weights"])}

    return Reader(measure, jax.jit(functools.partial(outputs_of, net)))
