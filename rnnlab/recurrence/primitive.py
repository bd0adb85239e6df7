"""A scan with a backward pass of its own, as JAX's transformations see it: a primitive.

`jax.custom_vjp` knows reverse mode alone. With a primitive each transformation finds its rule:
reverse mode the backward pass given, forward mode and higher orders JAX's own derivative of the
plain function, vmap the same scan of a whole population. The rules are those that JAX's tutorial
"How JAX primitives work" describes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from rnnlab.recurrence.leaves import Leaves, chosen, inexact
from rnnlab.types import Array


@dataclass(frozen=True, eq=False)
class Rules:
    """What the transformations of one scan do, on lists of leaves."""

    value: Callable[..., Leaves]  # arguments -> results
    plain: Callable[..., Leaves]  # the same, differentiable by JAX
    keeping: Callable[..., tuple[Leaves, Any]]  # arguments -> (results, residuals)
    # (residuals, cotangents of the inexact results) -> cotangents of the inexact arguments
    backward: Callable[[Any, Leaves], Leaves]


def _vmapped(rules: Rules, axes: Sequence[int | None], varies: Sequence[bool]) -> Rules:
    """The rules of the scan of a population, whose results have it on axis 0."""

    def over(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(function, in_axes=tuple(axes), out_axes=0)

    def backward(residuals: Any, cotangents: Leaves) -> Leaves:
        found = jax.vmap(rules.backward)(residuals, cotangents)
        own = [axis for axis, on in zip(axes, varies, strict=True) if on]
        return [
            d.sum(0) if axis is None else jnp.moveaxis(d, 0, axis)
            for d, axis in zip(found, own, strict=True)
        ]

    return Rules(over(rules.value), over(rules.plain), over(rules.keeping), backward)


def bind(rules: Rules, *arguments: Any) -> Leaves:
    """The results of `rules.value`, with the rules that go with them."""
    return _scan_p.bind(*arguments, rules=rules)


_scan_p = jax.extend.core.Primitive("rnn_scan")
_scan_p.multiple_results = True
# (arguments, residuals, tangents of the inexact arguments) -> tangents of the inexact results,
# linear in the tangents.
_tangent_p = jax.extend.core.Primitive("rnn_scan_tangent")
_tangent_p.multiple_results = True


def _scan_value(*leaves: Any, rules: Rules) -> Leaves:
    return rules.value(*leaves)


def _tangents(*leaves: Any, rules: Rules, count: int, kept: Any) -> Leaves:
    """Forward mode: by JAX's derivative of the plain scan."""
    arguments, tangents = leaves[:count], leaves[count + kept.num_leaves :]
    varies = [inexact(leaf) for leaf in arguments]

    def varied(*moving: Array) -> Leaves:
        rest = iter(moving)
        whole = [next(rest) if on else leaf for on, leaf in zip(varies, arguments, strict=True)]
        return [leaf for leaf in rules.plain(*whole) if inexact(leaf)]

    return jax.jvp(varied, tuple(chosen(list(arguments), varies)), tuple(tangents))[1]


def _shapes(function: Callable[..., Leaves], *leaves: Any, **how: Any) -> list[Any]:
    return list(jax.make_jaxpr(functools.partial(function, **how))(*leaves).out_avals)


def _scan_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, rules: Rules) -> Any:
    results, residuals = rules.keeping(*primals)
    kept, tree = jax.tree.flatten(residuals)
    moving = [
        ad.instantiate_zeros(tangent)
        for primal, tangent in zip(primals, tangents, strict=True)
        if inexact(primal)
    ]
    moved = iter(
        _tangent_p.bind(*primals, *kept, *moving, rules=rules, count=len(primals), kept=tree)
    )
    return results, [
        next(moved) if inexact(leaf) else ad.Zero(jax.typeof(leaf).to_tangent_aval())
        for leaf in results
    ]


def _scan_batch(leaves: Sequence[Any], axes: Sequence[Any], *, rules: Rules) -> Any:
    rules = _vmapped(rules, axes, [inexact(leaf) for leaf in leaves])
    results = _scan_p.bind(*leaves, rules=rules)
    return results, [0] * len(results)


def _tangent_transpose(cotangents: Sequence[Any], *leaves: Any, rules: Rules, count: int, kept):
    known = count + kept.num_leaves
    residuals = jax.tree.unflatten(kept, leaves[count:known])
    return [None] * known + rules.backward(residuals, [ad.instantiate_zeros(d) for d in cotangents])


def _tangent_jvp(primals: Sequence[Any], tangents: Sequence[Any], **how: Any) -> Any:
    moving = [
        np.zeros(np.shape(p), jax.dtypes.float0) if not inexact(p) else ad.instantiate_zeros(t)
        for p, t in zip(primals, tangents, strict=True)
    ]
    return jax.jvp(functools.partial(_tangents, **how), tuple(primals), tuple(moving))


def _tangent_batch(leaves: Sequence[Any], axes: Sequence[Any], **how: Any) -> Any:
    results = jax.vmap(functools.partial(_tangents, **how), in_axes=tuple(axes))(*leaves)
    return results, [0] * len(results)


for _primitive, _function in ((_scan_p, _scan_value), (_tangent_p, _tangents)):
    _primitive.def_impl(_function)
    _primitive.def_abstract_eval(functools.partial(_shapes, _function))
    mlir.register_lowering(_primitive, mlir.lower_fun(_function, multiple_results=True))
ad.primitive_jvps[_scan_p] = _scan_jvp
ad.primitive_jvps[_tangent_p] = _tangent_jvp
ad.primitive_transposes[_tangent_p] = _tangent_transpose
batching.primitive_batchers[_scan_p] = _scan_batch
batching.primitive_batchers[_tangent_p] = _tangent_batch
