"""The precision of matrix products: one setting, carried by each product and by both of its gradients.

    float32   the full precision of the operands, on a GPU or TPU too (there JAX's own default is less)
    tf32      products of float32 operands may use TF32 (GPU) or three bfloat16 passes (TPU)
    bf16      both operands of every product rounded to bfloat16, its sums and its result in float32

Sums, state, pointwise parts and parameters keep their dtype under all three. On a CPU tf32 is
float32. Under bf16 the cotangent too is rounded where a gradient multiplies it, but a gradient's
sum over batch and time is float32 and stays so: through a plain cast JAX would round it to 8 bits.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnlab.types import Array, UsageError

NAMES = ("float32", "tf32", "bf16")
_LAX = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH}

# As lax.dot_general takes them: ((lhs, rhs) contracted axes, (lhs, rhs) batch axes).
Axes = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]


def check(name: Any) -> None:
    """Raise UsageError, with the nearest name, unless `name` is one of NAMES."""
    if name not in NAMES:
        alike = {"bfloat16": "bf16", "highest": "float32", "high": "tf32"} | {n: n for n in NAMES}
        near = difflib.get_close_matches(str(name).lower(), alike, n=1)
        hint = f"did you mean '{alike[near[0]]}'? " if near else ""
        raise UsageError(
            f"unknown precision {name!r}: {hint}there are {', '.join(NAMES)} (model.precision)"
        )


def matmul(name: str) -> Callable[[Array, Array], Array]:
    """`x [..., D] @ w [D, H]` -> [..., H] in the given precision.

    It works under jit, vmap, scan, forward mode and gradients of any order; bf16 not under explicit
    sharding, and in jax.shard_map with check_vma=False alone.

    Raises UsageError for an unknown name.
    """
    check(name)

    def product(x: Array, w: Array) -> Array:
        if name != "bf16":
            return jnp.matmul(x, w, precision=_LAX[name])
        axes = (((x.ndim - 1,), (0,)), ((), ()))
        return _bf16_p.bind(x.astype(w.dtype), w, axes=_plain(axes))

    @jax.custom_jvp
    def of_rows(x: Array, w: Array) -> Array:
        return product(x, w)

    def tangent(primals: Any, tangents: Any) -> tuple[Array, Array]:
        (x, w), (dx, dw) = primals, tangents
        result = product(x, w)
        if _still(dw):
            return result, product(dx, w)
        moved = product(lax.optimization_barrier(x.T).T, dw)
        return result, moved if _still(dx) else moved + product(dx, w)

    of_rows.defjvp(tangent, symbolic_zeros=True)

    def dot(x: Array, w: Array) -> Array:
        # On a CPU the gradient of w, a sum over all rows, is worth a transposition of x beforehand:
        # XLA has a fast product for x^T [D, TB] @ g [TB, H] where x^T lies in memory, and by itself
        # takes another at half that speed.
        if x.ndim < 3 or jax.default_backend() != "cpu":
            return product(x, w)
        return of_rows(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])

    return dot


def _still(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


# The product of bf16 is a primitive of its own, since that alone gives its gradients the same form
# (bfloat16 operands, float32 result) and keeps forward mode: custom_vjp would lose the latter, and
# what custom_jvp gives, lax.dot_general transposes, rounding what it sums to bfloat16.

_bf16_p = Primitive("bf16_dot_general")


def _plain(axes: Axes) -> Axes:
    """The same as tuples of ints: parameters of a primitive must be hashable."""
    return tuple(tuple(tuple(map(int, side)) for side in pair) for pair in axes)  # type: ignore


def _product(x: Array, w: Array, *, axes: Axes) -> Array:
    low = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return lax.dot_general(*low, axes, preferred_element_type=jnp.float32).astype(x.dtype)


def _product_on_cpu(x: Array, w: Array, *, axes: Axes) -> Array:
    # The same values: a product of two bfloat16 is exact in float32. XLA's CPU compiler refuses some
    # products of bfloat16 with a float32 result, and the others are no faster there.
    low = lax.reduce_precision(x, 8, 7), lax.reduce_precision(w, 8, 7)
    return lax.dot_general(*low, axes, precision=_LAX["float32"])


def _shape(x: Any, w: Any, *, axes: Axes) -> Any:
    contracted, batch = axes
    free = (
        [n for axis, n in enumerate(a.shape) if axis not in (*c, *b)]
        for a, c, b in zip((x, w), contracted, batch, strict=True)
    )
    shape = [x.shape[axis] for axis in batch[0]] + [n for sizes in free for n in sizes]
    return x.update(shape=tuple(shape))


def _gradient(g: Array, other: Array, wanted: Any, axes: Axes, *, first: bool) -> Array:
    """The cotangent of the operand `wanted`, from that of the product and the other operand."""
    (c_wanted, c_other), (b_wanted, b_other) = axes if first else [pair[::-1] for pair in axes]
    free = [a for a in range(wanted.aval.ndim) if a not in (*c_wanted, *b_wanted)]
    free_other = [a for a in range(other.ndim) if a not in (*c_other, *b_other)]
    count = len(b_other)
    # Axes of g: the batch, what is free in the first operand, what is free in the second.
    start = count + (len(free) if first else 0)
    summed = range(start, start + len(free_other))
    result = _bf16_p.bind(
        g, other, axes=_plain(((tuple(summed), tuple(free_other)), (tuple(range(count)), b_other)))
    )
    order = [*b_wanted, *free, *(c_wanted[i] for i in np.argsort(c_other))]
    return lax.transpose(result, np.argsort(order))


def _batched(operands: Any, mapped: Any, *, axes: Axes) -> tuple[Array, int]:
    contracted, batch = axes
    # The mapped axis is moved to the front of its operand, and the others count from there.
    moved = [
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(operands, mapped, strict=True)
    ]
    shift = [0 if axis is None else 1 for axis in mapped]
    contracted, batch = (
        [[axis + s for axis in side] for side, s in zip(pair, shift, strict=True)]
        for pair in (contracted, batch)
    )
    if all(shift):
        batch = [[0, *side] for side in batch]
        return _bf16_p.bind(*moved, axes=_plain((contracted, batch))), 0  # type: ignore
    # One operand alone is mapped: its new axis is a free one, the first of its own.
    free = operands[0].ndim - len(contracted[0]) - len(batch[0])
    at = len(batch[0]) + (0 if shift[0] else free)
    return _bf16_p.bind(*moved, axes=_plain((contracted, batch))), at  # type: ignore


_bf16_p.def_impl(jax.jit(_bf16_p.bind, static_argnames="axes"))
_bf16_p.def_abstract_eval(_shape)
for _function, _platform in ((_product, None), (_product_on_cpu, "cpu")):
    _lowering = mlir.lower_fun(_function, multiple_results=False)
    mlir.register_lowering(_bf16_p, _lowering, platform=_platform)
batching.primitive_batchers[_bf16_p] = _batched
ad.defbilinear(
    _bf16_p,
    lambda g, x, w, *, axes: _gradient(g, w, x, axes, first=True),
    lambda g, x, w, *, axes: _gradient(g, x, w, axes, first=False),
)
