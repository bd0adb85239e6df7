"""Pytrees as lists of leaves, some of which take part in a derivative and some of which do not.

A cotangent that is known to be zero is None.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.types import Array

Leaves = list[Any]  # of a pytree, in its order


def select(condition: Array, on_true: Any, on_false: Any) -> Any:
    """`jnp.where` over two pytrees of [B, ...] leaves, with a condition of shape [B]."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, on_true, on_false)


def zeros(tree: Any) -> Any:
    """Zeros of the same shapes and dtypes."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)


def inexact(leaf: Any) -> bool:
    """Whether it can vary: floating point, not integers or bools."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def chosen(tree: Any, on: Sequence[bool]) -> Leaves:
    """The leaves of a tree, or of a list of leaves with None among them, that are `on`."""
    leaves = tree if isinstance(tree, list) else jax.tree.leaves(tree)
    return [leaf for leaf, chosen in zip(leaves, on, strict=True) if chosen]


def spread(on: Sequence[bool], leaves: Leaves) -> Leaves:
    """The inverse of `chosen`, with None elsewhere."""
    rest = iter(leaves)
    return [next(rest) if chosen else None for chosen in on]


def filled(like: Any, on: Sequence[bool], leaves: Leaves, time: int | None = None) -> Any:
    """The tree `like` with these leaves, and zeros, which nothing reads, for the others."""
    rest = iter(leaves)
    lead = () if time is None else (time,)
    whole = [
        next(rest) if chosen else jnp.zeros(lead + leaf.shape, leaf.dtype)
        for leaf, chosen in zip(jax.tree.leaves(like), on, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), whole)


def plus(a: Leaves, b: Leaves) -> Leaves:
    """The sums of cotangents."""
    return [y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)]


def vjp(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Callable[[Leaves], Any]]:
    """`jax.vjp` with respect to the leaves that `function` reads and that can vary.

    The pullback takes the cotangents of the inexact leaves of the result, and returns for each
    argument the list of its leaves' cotangents, None where there is none.
    """
    leaves, tree = jax.tree.flatten(arguments)
    read = reads(function, *arguments)
    on = [reads and inexact(leaf) for reads, leaf in zip(read, leaves, strict=True)]
    result: list[Any] = []

    def varied(*chosen: Array) -> Leaves:
        rest = iter(chosen)
        whole = [next(rest) if use else leaf for use, leaf in zip(on, leaves, strict=True)]
        result[:] = [function(*jax.tree.unflatten(tree, whole))]
        return [leaf for leaf in jax.tree.leaves(result[0]) if inexact(leaf)]

    primal, pull = jax.vjp(varied, *chosen(leaves, on))
    structure = jax.tree.structure(result[0])
    # Nothing that is traced inside may leave: the values come from the primal, the rest is shape.
    outputs = iter(primal)
    value = [next(outputs) if inexact(a) else zeros(a) for a in jax.tree.leaves(result[0])]
    sizes = [len(jax.tree.leaves(argument)) for argument in arguments]

    def pullback(cotangents: Leaves) -> tuple[Leaves, ...]:
        found = iter(spread(on, list(pull(cotangents))))
        return tuple([next(found) for _ in range(size)] for size in sizes)

    return jax.tree.unflatten(structure, value), pullback


def reads(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """For each leaf of the arguments, whether a result of `function` depends on it."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    live = {id(v) for v in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(v) in live for v in equation.outvars):
            live |= {id(v) for v in equation.invars}
    return [id(v) in live for v in jaxpr.invars]
