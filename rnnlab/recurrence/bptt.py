"""Backpropagation through time, fast, for any cell that states its step in four parts.

The gradient of a plain scan adds a matrix of the recurrent kernel's size at every step. Here the
backward scan carries nothing but the cotangent of the state. It stacks the cotangents of the
recurrent product over time, and one product over [T B] rows after the loop makes the kernel's
gradient of them:

    r_t = product(params, operand(s_{t-1}, z_t))    s_t, y_t = gates(params, s_{t-1}, merge(z_t, r_t))
    backward:  ds_{t-1}, dr_t  from the VJPs of gates, merge, product and operand at step t
    after it:  dparams = sum over t of the VJP of product at (operand_t, dr_t), one GEMM

JAX takes every one of these derivatives from the cell's own functions; none is written by hand.
What depends on the input alone, `project`, is no part of this: its gradient is a GEMM as it is.

The scan is a primitive of its own, so that every transformation finds the rule that suits it:
reverse mode the above, forward mode (jvp, jacfwd) and higher orders the plain scan's, vmap the scan
of the whole population.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.errors import UsageError
from rnnlab.recurrence import primitive
from rnnlab.recurrence.leaves import (
    Leaves,
    chosen,
    filled,
    inexact,
    plus,
    reads,
    select,
    spread,
    vjp,
    zeros,
)
from rnnlab.types import Array, Carry, Cell, Params

KEEP = ("preactivations", "states")


class Steps(NamedTuple):
    """What a step reads, each leaf with a leading [T]."""

    z: Any  # of the cell's `project`
    valid: Array | None  # bool [T, B]
    reset: Array | None  # bool [T, B]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Plan:
    """Which leaves the backward pass reads, found by tracing one step of it."""

    start: tuple[bool, ...]  # of the carry before a step
    z: tuple[bool, ...]
    u: tuple[bool, ...]
    handed: tuple[int, ...]  # for each leaf of u the leaf of z that it is, -1 if it is computed
    shapes: tuple[tuple[tuple[int, ...], Any], ...]  # of the leaves of (start, z, u) at one step
    tree: Any  # their structure

    @property
    def computed(self) -> list[bool]:
        """The leaves of u that are read and are none of z."""
        return [on and place < 0 for on, place in zip(self.u, self.handed, strict=True)]

    @property
    def likes(self) -> tuple[Any, Any, Any]:
        """(start, z, u) as shapes."""
        leaves = [jax.ShapeDtypeStruct(*shape) for shape in self.shapes]
        return jax.tree.unflatten(self.tree, leaves)


def separate(cell: Cell) -> bool:
    """Whether the cell states its step in four parts, as the fast path needs it."""
    return None not in (cell.operand, cell.product, cell.merge, cell.gates)


def scan(
    cell: Cell, params: Params, carry: Carry, steps: Steps, *, reverse: bool, keep: str
) -> tuple[Carry, Array]:
    """The scan of `cell.step` over `steps`; the final carry and y [T, B, H].

    keep: what the backward pass finds ready: "preactivations" (r and z merged, and the states), or
        the "states" alone, from which one product over all steps makes the rest again.

    Values and derivatives are those of the plain scan up to rounding.
    """
    leaves, tree = jax.tree.flatten((params, carry, steps))
    *final, y = primitive.bind(_rules(cell, reverse, keep, tree), *leaves)
    return jax.tree.unflatten(jax.tree.structure(carry), final), y


def plain(
    cell: Cell, params: Params, carry: Carry, steps: Steps, *, reverse: bool
) -> tuple[Carry, Array]:
    """The definition: the scan of `cell.step`, differentiated by JAX."""

    def advance(carry: Carry, inputs: Steps) -> tuple[Carry, Array]:
        z, valid, reset = inputs
        start = carry if reset is None else select(reset, zeros(carry), carry)
        new, y = cell.step(params, start, z)
        if valid is not None:
            new, y = select(valid, new, carry), select(valid, y, zeros(y))
        return new, y

    return lax.scan(advance, carry, steps, reverse=reverse)


def _forward(
    cell: Cell, reverse: bool, params: Params, carry: Carry, steps: Steps, plan: Plan | None
) -> tuple[Carry, Array, tuple[Leaves, Leaves]]:
    """(final carry, y, what the plan says to keep: leaves of the starts and of u)."""

    def advance(state: tuple[Carry, Array], inputs: Steps) -> Any:
        (carry, t), (z, valid, reset) = state, inputs
        start = carry if reset is None else select(reset, zeros(carry), carry)
        u = _merged(cell, z, cell.product(params, cell.operand(start, z)), t)
        new, y = cell.gates(params, start, u)
        kept = [], []
        if plan is not None:
            kept = chosen(start, plan.start), chosen(u, plan.computed)
        if valid is not None:
            new, y = select(valid, new, carry), select(valid, y, zeros(y))
        return (new, t + 1), (y, kept)

    state = carry, jnp.zeros((), jnp.int32)
    (final, _), (y, kept) = lax.scan(advance, state, steps, reverse=reverse)
    return final, y, kept


def _merged(cell: Cell, z: Any, r: Any, t: Array) -> Any:
    """merge(z, r), on a CPU as a buffer of its own."""
    merge = cell.merge
    handed = {id(leaf) for leaf in jax.tree.leaves((z, r))}
    leaves, tree = jax.tree.flatten(merge(z, r))
    own = [index for index, leaf in enumerate(leaves) if id(leaf) not in handed]

    def computed(z: Any, r: Any, t: Array) -> Leaves:
        whole = jax.tree.leaves(merge(z, r))
        return [whole[index] for index in own]

    def apart(z: Any, r: Any, t: Array) -> Leaves:
        return lax.cond(t >= 0, computed, lambda *of: zeros(jax.eval_shape(computed, *of)), z, r, t)

    # XLA:CPU would fuse the slice of z at step t into the gates, whose loop then reads the index
    # again for every element, since its output may alias it, and so is not vectorised: the gates
    # take five times as long. A condition that is always true keeps the two apart. On a GPU it
    # would cost a round trip to the host.
    for index, leaf in zip(
        own, lax.platform_dependent(z, r, t, cpu=apart, default=computed), strict=True
    ):
        leaves[index] = leaf
    return jax.tree.unflatten(tree, leaves)


def _keeping(cell, reverse, keep, params, carry, steps):
    """((final carry, y), what `_backward` needs)."""
    plan = _plan(cell, params, carry, steps.z)
    if keep == "states":
        plan = replace(plan, z=(True,) * len(plan.z))  # for `merge`; it exists anyway
    final, y, (starts, us) = _forward(cell, reverse, params, carry, steps, plan)
    kept = starts, chosen(steps.z, plan.z), us if keep == "preactivations" else None
    return (final, y), (plan, params, kept, steps.valid, steps.reset)


def _backward(cell, reverse, residuals, cotangents):
    """The cotangents of (params, carry, steps)."""
    plan, params, (starts, zs, us), valid, reset = residuals
    start_like, z_like, u_like = plan.likes
    *d_final, d_y = cotangents  # of the inexact leaves
    time = d_y.shape[0]
    whole_starts = filled(start_like, plan.start, starts, time)
    whole_z = filled(z_like, plan.z, zs, time)
    operands = jax.vmap(cell.operand)(whole_starts, whole_z)

    def products(params: Params) -> Any:
        return cell.product(params, operands)

    r, pull_products = jax.vjp(products, params)
    if us is None:
        us = chosen(jax.vmap(cell.merge)(whole_z, r), plan.computed)
    varies = [inexact(leaf) for leaf in jax.tree.leaves(start_like)]
    of_gates = reads(cell.gates, params, start_like, u_like)[: len(jax.tree.leaves(params))]
    where: list[int | None] = []

    def retreat(state: Any, inputs: Any) -> Any:
        (d_carry, d_params), (start, z, u, valid, reset, d_y) = state, inputs
        d_new = d_carry
        if valid is not None:
            d_new, d_y = select(valid, (d_carry, d_y), zeros((d_carry, d_y)))
        z = filled(z_like, plan.z, z)
        start = filled(start_like, plan.start, start)
        u = _refilled(plan, u_like, z, u)
        by_params, d_start, d_z, d_r = _step_vjp(cell, params, start, z, u, [*d_new, d_y])
        before = [
            zeros(d) if found is None else found
            for d, found in zip(d_carry, chosen(d_start, varies), strict=True)
        ]
        if reset is not None:
            before = select(reset, zeros(before), before)
        if valid is not None:
            passed = select(valid, zeros(d_carry), d_carry)
            before = [a + b for a, b in zip(before, passed, strict=True)]
        d_params = [
            total + d for total, d in zip(d_params, chosen(by_params, of_gates), strict=True)
        ]
        # The cotangents of z and of r are often one and the same array, stacked once then.
        distinct: Leaves = []
        where.clear()
        for d in [*d_z, *d_r]:
            if d is not None and not any(d is other for other in distinct):
                distinct.append(d)
            where.append(next((i for i, other in enumerate(distinct) if other is d), None))
        return (before, d_params), distinct

    first = d_final, zeros(chosen(params, of_gates))
    inputs = starts, zs, us, valid, reset, d_y
    (d_carry, by_gates), stacked = lax.scan(retreat, first, inputs, reverse=not reverse)
    found = [None if place is None else stacked[place] for place in where]
    d_z, d_r = found[: len(plan.z)], found[len(plan.z) :]
    (d_params,) = pull_products(jax.tree.unflatten(jax.tree.structure(r), d_r))
    by_product = jax.tree.leaves(d_params)
    d_params = plus(by_product, spread(of_gates, by_gates))
    d_z = [
        jnp.zeros((time, *like.shape), like.dtype) if d is None else d
        for like, d in zip(jax.tree.leaves(z_like), d_z, strict=True)
        if inexact(like)
    ]
    return [d for d in d_params if inexact(d)] + d_carry + d_z


def _step_vjp(
    cell: Cell, params: Params, start: Carry, z: Any, u: Any, d_outputs: Leaves
) -> tuple[Leaves, Leaves, Leaves, Leaves]:
    """Cotangents of (params through the gates, the carry before the step, z, r) by one step.

    d_outputs: those of the inexact leaves of (the carry after it, y).
    """
    merge, product = cell.merge, cell.product
    _, pull = vjp(cell.gates, params, start, u)
    by_params, d_start, d_u = pull(d_outputs)

    h, pull_operand = vjp(cell.operand, start, z)
    r, pull_product = vjp(lambda h: product(params, h), h)
    # merge is linear: its transpose needs no values, and a merge that is not linear raises here.
    z_leaves, z_tree = jax.tree.flatten(z)
    r_leaves, r_tree = jax.tree.flatten(r)
    movable = [inexact(leaf) for leaf in z_leaves]

    def linear(*leaves: Array) -> Leaves:
        moving = iter(leaves[: sum(movable)])
        whole = [next(moving) if on else leaf for on, leaf in zip(movable, z_leaves, strict=True)]
        rest = jax.tree.unflatten(r_tree, leaves[sum(movable) :])
        merged = jax.tree.leaves(merge(jax.tree.unflatten(z_tree, whole), rest))
        return [leaf for leaf in merged if inexact(leaf)]

    arguments = [leaf for leaf, on in zip(z_leaves, movable, strict=True) if on] + r_leaves
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in arguments]
    d_merged = [
        jnp.zeros(leaf.shape, leaf.dtype) if d is None else d
        for leaf, d in zip(jax.tree.leaves(u), d_u, strict=True)
        if inexact(leaf)
    ]
    try:
        back = list(jax.linear_transpose(linear, *like)(d_merged))
    except (AssertionError, TypeError, NotImplementedError) as error:
        raise UsageError(f"cell '{cell.name}': merge must be linear in z and r together") from error
    d_z, d_r = spread(movable, back[: sum(movable)]), back[sum(movable) :]

    (d_h,) = pull_product(d_r)
    more_start, more_z = pull_operand(d_h)
    return by_params, plus(d_start, more_start), plus(d_z, more_z), d_r


def _rules(cell: Cell, reverse: bool, keep: str, tree: Any) -> primitive.Rules:
    def trees(leaves: Sequence[Any]) -> Any:
        return jax.tree.unflatten(tree, leaves)

    def value(*leaves: Array) -> Leaves:
        params, carry, steps = trees(leaves)
        return jax.tree.leaves(_forward(cell, reverse, params, carry, steps, None)[:2])

    def definition(*leaves: Array) -> Leaves:
        return jax.tree.leaves(plain(cell, *trees(leaves), reverse=reverse))

    def keeping(*leaves: Array) -> tuple[Leaves, Any]:
        outputs, residuals = _keeping(cell, reverse, keep, *trees(leaves))
        return jax.tree.leaves(outputs), residuals

    def backward(residuals: Any, cotangents: Leaves) -> Leaves:
        return _backward(cell, reverse, residuals, cotangents)

    return primitive.Rules(value, definition, keeping, backward)


# What is read, and what is kept


def _plan(cell: Cell, params: Params, carry: Carry, zs: Any) -> Plan:
    def like(tree: Any, lead: int) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[lead:], a.dtype), tree)

    params, start, z = like(params, 0), like(carry, 0), like(zs, 1)
    handed: list[int] = []

    def merged(params: Params, start: Carry, z: Any) -> Any:
        u = cell.merge(z, cell.product(params, cell.operand(start, z)))
        places = {id(leaf): index for index, leaf in enumerate(jax.tree.leaves(z))}
        handed[:] = [places.get(id(leaf), -1) for leaf in jax.tree.leaves(u)]
        return u

    def backward(params: Params, start: Carry, z: Any, u: Any) -> Leaves:
        outputs = jax.tree.leaves(cell.gates(params, start, u))
        d_outputs = zeros([leaf for leaf in outputs if inexact(leaf)])
        found = _step_vjp(cell, params, start, z, u, d_outputs)
        return [leaf for leaves in found for leaf in leaves if leaf is not None]

    u = jax.eval_shape(merged, params, start, z)
    sizes = [len(jax.tree.leaves(tree)) for tree in (params, start, z)]
    ends = list(itertools.accumulate(sizes))
    read = reads(backward, params, start, z, u)
    of_start, of_z, of_u = read[ends[0] : ends[1]], read[ends[1] : ends[2]], read[ends[2] :]
    for place, on in zip(handed, of_u, strict=True):
        if place >= 0:
            of_z[place] |= on
    again = reads(cell.operand, start, z)  # once more, after the loop
    leaves, tree = jax.tree.flatten((start, z, u))
    return Plan(
        start=tuple(a or b for a, b in zip(of_start, again[: sizes[1]], strict=True)),
        z=tuple(a or b for a, b in zip(of_z, again[sizes[1] :], strict=True)),
        handed=tuple(handed),
        u=tuple(of_u),
        shapes=tuple((leaf.shape, leaf.dtype) for leaf in leaves),
        tree=tree,
    )


def _refilled(plan: Plan, u_like: Any, z: Any, computed: Leaves) -> Any:
    """u of what was computed, and of what z handed through."""
    of_z, rest = jax.tree.leaves(z), iter(computed)
    whole = [
        of_z[place] if place >= 0 else next(rest) if on else zeros(leaf)
        for place, on, leaf in zip(plan.handed, plan.u, jax.tree.leaves(u_like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(u_like), whole)
