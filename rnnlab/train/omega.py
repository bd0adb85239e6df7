"""Pascanu's regulariser: it keeps the gradient's norm as it goes back through the steps.

    Omega = mean over steps k and rows of (|dE/ds_{k+1} J_k| / |dE/ds_{k+1}| - 1)^2,
    J_k = ds_{k+1}/ds_k

Pascanu et al. 2013, eq. 9, with the mean over the steps that their published code takes (which has
the ratio of the squared norms). It asks for no norm of J_k itself, only that the error, in the
direction in which it does go back, neither vanishes nor explodes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.recurrence import taps
from rnnlab.recurrence.unrolling import valid_steps
from rnnlab.types import Array, Carry, Params, Probe

# Of |dE/ds_{k+1}|, as in their code, whose `bound` of 1e-20 is of its square: steps at which less than
# this has arrived are left alone. E is the mean over the batch, so that the bound depends on B.
BOUND = 1e-10


def penalty(probe: Probe, params: Params, carry: Carry, batch: Any) -> Array:
    """Omega of a batch, summed over the layers (and directions); without noise inside the cell.

    For any cell, by one `vjp` of its step; s is the whole state, (c, h) for an LSTM. As in eq. 10
    the states, the inputs' share and dE/ds are held: the derivative is by what the parameters of
    the step itself do to J_k. Steps that do not exist, and those at which the state is reset, do not
    count, nor does a row whose |dE/ds_{k+1}| is below BOUND.
    """
    net, inputs = probe.net, probe.inputs(batch)
    held = jax.lax.stop_gradient(params)
    time, rows = inputs["x"].shape[:2]
    dtype = jax.tree.leaves(params)[0].dtype
    carry = probe.begin(carry, batch, dtype)

    def error(slots: Any) -> tuple[Array, Any]:
        _, outputs, seen = net.watch(held, carry, **inputs, taps=slots)
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum(), seen

    slots = [taps.nudge(net.cell, time, rows, dtype) for _ in net.names]
    slots, seen = jax.lax.stop_gradient(jax.grad(error, has_aux=True)(slots))
    counted = valid_steps(time, inputs.get("lengths"), inputs.get("mask"))
    counted = jnp.ones((time, rows), bool) if counted is None else counted
    if inputs.get("reset") is not None:
        counted &= ~inputs["reset"]
    total = jnp.zeros((), dtype)
    for layer, each, slot in zip(taps.units(params), seen, slots, strict=True):
        total = total + _of_layer(net.cell, layer, each, slot.nudge, counted)
    return total


def _of_layer(cell: Any, params: Params, seen: taps.Seen, d_states: Any, counted: Array) -> Array:
    """Omega of one layer. d_states: dE/ds of the state after each step, a carry of [T, B, H];
    counted: bool [T, B]."""
    z = jax.lax.stop_gradient(cell.project(params, seen.x, None))
    first, z, d_states = taps.together((seen.before, z, d_states))
    size = _norm(d_states)
    counts = (size > BOUND) & counted.reshape(-1)
    safe = jnp.where(counts, size, 1)
    direction = jax.tree.map(
        lambda d: d / safe.reshape(-1, *[1] * (d.ndim - 1)), d_states
    )  # of unit length, so that no square leaves float32
    _, pull = jax.vjp(lambda state: cell.step(params, state, z)[0], first)
    ratio = _norm(pull(direction)[0])
    terms = jnp.where(counts, (ratio - 1) ** 2, 0)
    return terms.sum() / jnp.maximum(counts.sum(), 1).astype(terms.dtype)


def _norm(tree: Any) -> Array:
    """The norm of each row, [N]; its derivative at 0 is 0."""
    total = sum(
        jnp.sum(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1) for leaf in jax.tree.leaves(tree)
    )
    positive = total > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1)), 0)
