"""The mean loss of a batch as a function of the parameters: what the sections differentiate."""

from collections.abc import Callable
from typing import Any

import jax

from rnnlab.types import Array, Carry, Params, Probe


def sizes_of(probe: Probe, params: Params, batch: Any) -> tuple[int, int, Any]:
    """(time steps T, rows B, dtype of the parameters)."""
    time, rows = probe.inputs(batch)["x"].shape[:2]
    return time, rows, jax.tree.leaves(params)[0].dtype


def mean_loss(probe: Probe, carry: Carry, batch: Any) -> Callable[..., Array]:
    """(params, taps, outer) -> the mean loss of a batch, without noise.

    taps, outer: as of `Model.apply`, or None.
    """

    def loss(params: Params, seen: Any = None, outer: Any = None) -> Array:
        start = probe.begin(carry, batch, sizes_of(probe, params, batch)[2])
        how = {"taps": seen, "outer": outer, **probe.inputs(batch)}
        _, outputs = probe.net.apply(params, start, **how)
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum()

    return loss
