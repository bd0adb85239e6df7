"""What can be seen inside a cell while it runs over time, by wrapping the cell.

A wrapped cell computes the same values. What is asked of it rides along with its input z:

    norms   a zero for each row, step and part of the state; its "gradient" is |dL/ds_t|
    nudge   a zero state for each step, added to the state; its gradient is dL/ds_t
    cut     where no gradient passes into the state before the step

dL/ds_t is the total derivative: through all later steps, and through the output y_t where y_t is that
very part of the state (h in the built-in cells). So one backward pass tells how the gradient flows
(Pascanu et al. 2013, eq. 3-5), by either path of `unroll`, and for any cell.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.leaves import select
from rnnlab.types import Array, Carry, Cell, Params


class Taps(NamedTuple):
    """What is asked of a cell; every leaf has a leading [T]."""

    norms: Any = None  # a carry of float [T, B]
    nudge: Any = None  # a carry of the state's own shapes, [T, B, H]
    cut: Array | None = None  # bool [T, B]


class Seen(NamedTuple):
    """What one layer did over a window."""

    x: Array  # [T, B, D] or int [T, B], its input
    start: Carry  # [B, H], the state before the first step
    states: Carry  # [T, B, H] each, the state after every step


def norms(cell: Cell, time: int, batch: int, dtype: Any = jnp.float32) -> Taps:
    """Taps whose gradient is the norm of dL/ds_t of each row: a carry of [T, B]."""
    like = jax.eval_shape(lambda: cell.carry(batch, dtype))
    return Taps(norms=jax.tree.map(lambda leaf: jnp.zeros((time, batch), leaf.dtype), like))


def nudge(cell: Cell, time: int, batch: int, dtype: Any = jnp.float32) -> Taps:
    """Taps whose gradient is dL/ds_t: a carry of [T, B, H]."""
    like = jax.eval_shape(lambda: cell.carry(batch, dtype))
    return Taps(nudge=jax.tree.map(lambda leaf: jnp.zeros((time, *leaf.shape), leaf.dtype), like))


@jax.custom_vjp
def _meter(state: Array, slot: Array) -> Array:
    """`state`; the cotangent of `slot` [B] is, by definition, the norm of that of `state` [B, ...]."""
    return state


def _meter_forward(state: Array, slot: Array) -> tuple[Array, Array]:
    return state, slot


def _meter_backward(slot: Array, d_state: Array) -> tuple[Array, Array]:
    # Scaled: the squares of a gradient that vanishes, or explodes, leave float32 at 1e-23 and 1e19.
    rows = d_state.reshape(d_state.shape[0], -1)
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    norm = scale[:, 0] * jnp.sqrt(jnp.sum((rows / scale) ** 2, axis=1))
    return d_state, norm.astype(slot.dtype)


_meter.defvjp(_meter_forward, _meter_backward)


def tapped(cell: Cell) -> Cell:
    """The cell that takes (z, taps) for z, taps being those of a step."""

    def before(carry: Carry, taps: Taps) -> Carry:
        if taps.cut is None:
            return carry
        return select(taps.cut, jax.lax.stop_gradient(carry), carry)

    def after(new: Carry, y: Array, taps: Taps) -> tuple[Carry, Array]:
        whole = new
        if taps.nudge is not None:
            whole = jax.tree.map(jnp.add, whole, taps.nudge)
        if taps.norms is not None:
            whole = jax.tree.map(_meter, whole, taps.norms)
        pairs = zip(jax.tree.leaves(new), jax.tree.leaves(whole), strict=True)
        return whole, next((leaf for old, leaf in pairs if old is y), y)

    def step(params: Params, carry: Carry, inputs: Any) -> tuple[Carry, Array]:
        z, taps = inputs
        return after(*cell.step(params, before(carry, taps), z), taps)

    def operand(carry: Carry, inputs: Any) -> Any:
        z, taps = inputs
        return cell.operand(before(carry, taps), z)

    def merge(inputs: Any, r: Any) -> Any:
        z, taps = inputs
        return cell.merge(z, r), taps

    def gates(params: Params, carry: Carry, merged: Any) -> tuple[Carry, Array]:
        u, taps = merged
        new, y = cell.gates(params, before(carry, taps), u)
        return after(new, y, taps)

    parts = {"operand": operand, "merge": merge, "gates": gates}
    if cell.gates is None:
        parts = {}
    return cell._replace(step=step, **parts)


def recorded(cell: Cell) -> Cell:
    """The cell whose output is [B, H + ...]: y, and beside it the new state, part by part."""

    def joined(new: Carry, y: Array) -> tuple[Carry, Array]:
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(new)]
        return new, jnp.concatenate([y, *flat], axis=-1)

    def step(params: Params, carry: Carry, z: Any) -> tuple[Carry, Array]:
        return joined(*cell.step(params, carry, z))

    def gates(params: Params, carry: Carry, u: Any) -> tuple[Carry, Array]:
        return joined(*cell.gates(params, carry, u))

    return cell._replace(step=step, gates=None if cell.gates is None else gates)


def parted(cell: Cell, joined: Array) -> tuple[Array, Carry]:
    """(y [T, B, H], the states [T, B, ...]) of what `recorded(cell)` put out over time."""
    time, batch = joined.shape[:2]
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda: cell.carry(batch, joined.dtype)))
    sizes = [cell.hidden, *(leaf.size // batch for leaf in leaves)]
    y, *rest = jnp.split(joined, list(itertools.accumulate(sizes[:-1])), axis=-1)
    states = [part.reshape(time, *leaf.shape) for part, leaf in zip(rest, leaves, strict=True)]
    return y, jax.tree.unflatten(tree, states)
