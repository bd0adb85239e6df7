"""What can be seen inside a cell while it runs over time, by wrapping the cell.

A wrapped cell computes the same values. What is asked of it rides along with its input z:

    nudge   a zero state for each step, added to the state; its gradient is dL/ds_t
    cut     where no gradient passes into the state before the step
    shares  for each step and parameter two zeros; their "gradients" are the norm of what that step
            adds to the parameter's gradient, and its inner product with the whole

dL/ds_t is the total derivative: through all later steps, and through the output y_t where y_t is that
very part of the state (h in the built-in cells). So one backward pass tells how the gradient flows
(Pascanu et al. 2013, eq. 3-5), by either path of `unroll`, and for any cell.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.recurrence.leaves import select
from rnnlab.types import Array, Carry, Cell, Params


class Taps(NamedTuple):
    """What is asked of a cell; every leaf but those of `whole` has a leading [T]."""

    nudge: Any = None  # zeros of the state's own shapes, [T, B, H]
    cut: Array | None = None  # bool [T, B]
    shares: Any = None  # the cell's parameters, of float [T, 2]
    whole: Params = None  # with `shares`: the gradient of all steps together; it has no [T]


class Seen(NamedTuple):
    """What one layer did over a window."""

    x: Any  # [T, B, D] or int [T, B], its input
    before: Carry  # [T, B, H] each, the state that every step started from, after a reset
    states: Carry  # [T, B, H] each, the state after it; zeros, both, at a step that does not exist


def nudge(cell: Cell, time: int, batch: int, dtype: Any = jnp.float32) -> Taps:
    """Taps whose gradient is dL/ds_t: a carry of [T, B, H]."""
    like = jax.eval_shape(lambda: cell.carry(batch, dtype))
    return Taps(nudge=jax.tree.map(lambda leaf: jnp.zeros((time, *leaf.shape), leaf.dtype), like))


def norms(gradient: Any) -> Any:
    """|dL/ds_t| [T, B] of dL/ds_t [T, B, H], for each part of the state.

    Scaled: the squares of a gradient that vanishes, or explodes, leave float32 at 1e-23 and 1e19.
    """

    def norm(leaf: Array) -> Array:
        rows = leaf.reshape(*leaf.shape[:2], -1)
        largest = jnp.max(jnp.abs(rows), axis=2, keepdims=True)
        scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return scale[..., 0] * jnp.sqrt(jnp.sum((rows / scale) ** 2, axis=2))

    return jax.tree.map(norm, gradient)


@jax.custom_vjp
def _nudged(state: Array, nudge: Array) -> Array:
    """`state` + `nudge`, which is zero: what is left of the sum is that both have its cotangent."""
    return state


_nudged.defvjp(lambda state, nudge: (state, None), lambda _, d_state: (d_state, d_state))


@jax.custom_vjp
def _ledger(param: Array, slot: Array, whole: Array) -> Array:
    """`param`; the cotangent of `slot` [2] is the norm of that of `param`, and its product with
    `whole`."""
    return param


def _ledger_forward(param: Array, slot: Array, whole: Array) -> tuple[Array, Array]:
    return param, whole


def _ledger_backward(whole: Array, d_param: Array) -> tuple[Array, Array, Array]:
    found = jnp.stack([jnp.sqrt(jnp.sum(d_param**2)), jnp.sum(d_param * whole)])
    return d_param, found, jnp.zeros_like(whole)


_ledger.defvjp(_ledger_forward, _ledger_backward)


def untied(function: Callable[..., Any], params: Params, taps: Taps | None, x: Array) -> Any:
    """function(params, x) [T, ...] of x [T, ...]; with the `shares` of taps each step has its own copy
    of the parameters."""
    if taps is None:
        return function(params, x)

    def one(inputs: Any) -> Any:
        part, slots = inputs
        return function(jax.tree.map(_ledger, params, slots, taps.whole), part)

    return jax.lax.map(one, (x, taps.shares))


def tapped(cell: Cell, taps: Taps) -> Cell:
    """The cell whose `project` takes (x, taps) for x, and whose z is (z, taps)."""
    by_step = taps.shares is not None  # each step projects its own input then
    whole = taps.whole

    def before(carry: Carry, taps: Taps) -> Carry:
        if taps.cut is None:
            return carry
        return select(taps.cut, jax.lax.stop_gradient(carry), carry)

    def after(new: Carry, y: Array, taps: Taps) -> tuple[Carry, Array]:
        marked = new
        if taps.nudge is not None:
            marked = jax.tree.map(_nudged, marked, taps.nudge)
        pairs = zip(jax.tree.leaves(new), jax.tree.leaves(marked), strict=True)
        return marked, next((leaf for old, leaf in pairs if old is y), y)

    def project(params: Params, inputs: Any, noise: Any = None) -> Any:
        x, taps = inputs
        return ((x, noise) if by_step else cell.project(params, x, noise)), taps

    def step(params: Params, carry: Carry, inputs: Any) -> tuple[Carry, Array]:
        z, taps = inputs
        if by_step:
            params = jax.tree.map(_ledger, params, taps.shares, whole)
            x, noise = jax.tree.map(lambda leaf: leaf[None], z)
            z = jax.tree.map(lambda leaf: leaf[0], cell.project(params, x, noise))
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

    if by_step or cell.gates is None:
        parts = dict.fromkeys(("operand", "product", "merge", "gates"))
    else:
        parts = {"operand": operand, "merge": merge, "gates": gates}
    return cell._replace(project=project, step=step, **parts)


def recorded(cell: Cell) -> Cell:
    """The cell whose output is [B, H + ...]: y, and beside it the state before the step and the one
    after it, part by part."""

    def joined(before: Carry, new: Carry, y: Array) -> tuple[Carry, Array]:
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves((before, new))]
        return new, jnp.concatenate([y, *flat], axis=-1)

    def step(params: Params, carry: Carry, z: Any) -> tuple[Carry, Array]:
        return joined(carry, *cell.step(params, carry, z))

    def gates(params: Params, carry: Carry, u: Any) -> tuple[Carry, Array]:
        return joined(carry, *cell.gates(params, carry, u))

    return cell._replace(step=step, gates=None if cell.gates is None else gates)


def parted(cell: Cell, x: Any, joined: Array) -> tuple[Array, Seen]:
    """(y [T, B, H], what the layer did) of what `recorded(cell)` put out over time for x."""
    time, batch = joined.shape[:2]
    carry = jax.eval_shape(lambda: cell.carry(batch, joined.dtype))
    leaves, tree = jax.tree.flatten((carry, carry))
    sizes = [cell.hidden, *(leaf.size // batch for leaf in leaves)]
    y, *rest = jnp.split(joined, list(itertools.accumulate(sizes[:-1])), axis=-1)
    parts = [part.reshape(time, *leaf.shape) for part, leaf in zip(rest, leaves, strict=True)]
    return y, Seen(x, *jax.tree.unflatten(tree, parts))


def together(tree: Any) -> Any:
    """[T, B, ...] -> [T B, ...]: with the state before each step known no step needs another."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def units(params: Params) -> list[Params]:
    """The parameters of every unroll of a `Model`, in the order of its `names`."""
    found = []
    for layer in params["layers"]:
        found += [layer["forward"], layer["backward"]] if "forward" in layer else [layer]
    return found


def part_names(cell: Cell) -> tuple[str, ...]:
    """The names of the parts of a cell's state: ("c", "h") for an LSTM."""
    like = jax.eval_shape(lambda: cell.carry(1))
    return tuple(
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(like)
    )
