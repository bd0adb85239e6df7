"""The precision of matrix products: one setting, carried by each product and by both of its gradients.

    float32   the full precision of the operands, on a GPU or TPU too (there JAX's own default is less)
    tf32      products of float32 operands may use TF32 (GPU) or three bfloat16 passes (TPU)
    bf16      both operands of every product rounded to bfloat16, its sums and its result in float32

Sums, state, pointwise parts and parameters keep their dtype under all three. On a CPU tf32 is
float32. Under bf16 the cotangent too is rounded where a gradient multiplies it, but a gradient's
sum over batch and time is float32 and stays so: through a plain cast JAX would round it to 8 bits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnnlab.errors import UsageError, nearest
from rnnlab.types import Array

NAMES = ("float32", "tf32", "bf16")
_LAX = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH}

# As lax.dot_general takes them: ((lhs, rhs) contracted axes, (lhs, rhs) batch axes).
Axes = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]


def check(name: Any) -> None:
    """Raise UsageError, with the nearest name, unless `name` is one of NAMES."""
    if name not in NAMES:
        alike = {"bfloat16": "bf16", "highest": "float32", "high": "tf32"} | {n: n for n in NAMES}
        hint = nearest(str(name).lower(), alike)
        raise UsageError(
            f"unknown precision {name!r}: {hint}there are {', '.join(NAMES)} (model.precision)"
        )


def matmul(name: str) -> Callable[[Array, Array], Array]:
    """`x [..., D] @ w [D, H]` -> [..., H] in the given precision.

    It works under jit, vmap, scan, forward mode and gradients of any order; bf16, and on a CPU all
    three, not under explicit sharding, and in jax.shard_map with check_vma=False alone.

    Raises UsageError for an unknown name.
    """
    check(name)

    def dot(x: Array, w: Array) -> Array:
        if name == "bf16":
            x = x.astype(w.dtype)
        elif jax.default_backend() != "cpu":
            return jnp.matmul(x, w, precision=_LAX[name])
        dtype = jnp.result_type(x, w)
        axes = (((x.ndim - 1,), (0,)), ((), ()))
        return _product_p.bind(x.astype(dtype), w.astype(dtype), axes=_plain(axes), name=name)

    return dot


# The product is a primitive of its own. Under bf16 that alone gives its gradients the same form
# (bfloat16 operands, float32 result) and keeps forward mode: custom_vjp would lose the latter, and
# what custom_jvp gives, lax.dot_general transposes, rounding what it sums to bfloat16. On a CPU it
# gives each product, gradients included, the arrangement that XLA has a fast kernel for.

_product_p = Primitive("precise_dot_general")
FEW_ROWS, WIDE = 128, 2**18  # rows of one operand, elements of the other: see `_on_cpu`


def _plain(axes: Axes) -> Axes:
    """The same as tuples of ints: parameters of a primitive must be hashable."""
    return tuple(tuple(tuple(map(int, side)) for side in pair) for pair in axes)  # type: ignore


def _product(x: Array, w: Array, *, axes: Axes, name: str) -> Array:
    if name != "bf16":
        return lax.dot_general(x, w, axes, precision=_LAX[name])
    low = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    # The precision too is said: a process-wide flag would else ask for passes over what is not there.
    asked = {"precision": lax.Precision.DEFAULT, "preferred_element_type": jnp.float32}
    return lax.dot_general(*low, axes, **asked).astype(x.dtype)


def _on_cpu(x: Array, w: Array, *, axes: Axes, name: str) -> Array:
    if name == "bf16":
        # The same values: a product of two bfloat16 is exact in float32. XLA's CPU compiler refuses
        # some products of bfloat16 with a float32 result, and the others are no faster there.
        x, w = lax.reduce_precision(x, 8, 7), lax.reduce_precision(w, 8, 7)
    (of_x, of_w), (batch, _) = axes
    exact, lie = _LAX["float32"], lax.optimization_barrier
    rows = tuple(range(x.ndim - 1))
    if rows and of_x == of_w == rows and w.ndim == x.ndim:
        # A sum over all rows, the gradient of a weight. XLA multiplies x^T [D, TB] by [TB, H] twice
        # as fast if x^T lies in memory, and by itself leaves it where it is.
        lying = lie(x.reshape(-1, x.shape[-1]).T)
        return jnp.matmul(lying, w.reshape(-1, w.shape[-1]), precision=exact)
    if not batch and x.ndim == w.ndim == 2 and of_x == (1,):
        # Rows times a matrix, the product inside a loop. What is done to w alone does not depend
        # on the step, and XLA moves it out of the loop.
        # A symbolic number of rows, of `jax.export`, cannot be compared: the program is for any.
        if isinstance(x.shape[0], int) and x.shape[0] <= FEW_ROWS and w.size >= WIDE:
            # Faster as (w^T x^T)^T, by up to a half; x itself is best left as it lies.
            turned = w if of_w == (1,) else lie(w.T)
            return lie(lax.dot_general(turned, x, (((1,), (1,)), ((), ())), precision=exact)).T
        if of_w == (1,):  # the gradient of the state: else XLA would turn w at every step
            return jnp.matmul(x, lie(w.T), precision=exact)
    return lax.dot_general(x, w, axes, precision=exact)


def _shape(x: Any, w: Any, *, axes: Axes, name: str) -> Any:
    contracted, batch = axes
    free = (
        [n for axis, n in enumerate(a.shape) if axis not in (*c, *b)]
        for a, c, b in zip((x, w), contracted, batch, strict=True)
    )
    shape = [x.shape[axis] for axis in batch[0]] + [n for sizes in free for n in sizes]
    return x.update(shape=tuple(shape))


def _gradient(g: Array, other: Array, wanted: Any, axes: Axes, name: str, *, first: bool) -> Array:
    """The cotangent of the operand `wanted`, from that of the product and the other operand."""
    (c_wanted, c_other), (b_wanted, b_other) = axes if first else [pair[::-1] for pair in axes]
    free = [a for a in range(wanted.aval.ndim) if a not in (*c_wanted, *b_wanted)]
    free_other = [a for a in range(other.ndim) if a not in (*c_other, *b_other)]
    count = len(b_other)
    # Axes of g: the batch, what is free in the first operand, what is free in the second.
    start = count + (len(free) if first else 0)
    of_g, of_other = tuple(range(start, start + len(free_other))), tuple(free_other)
    held = [c_wanted[i] for i in np.argsort(c_other)]
    if first:
        pairs = (of_g, of_other), (tuple(range(count)), b_other)
        result = _product_p.bind(g, other, axes=_plain(pairs), name=name)
        order = [*b_wanted, *free, *held]
    else:
        pairs = (of_other, of_g), (b_other, tuple(range(count)))
        result = _product_p.bind(other, g, axes=_plain(pairs), name=name)
        order = [*b_wanted, *held, *free]
    return lax.transpose(result, np.argsort(order))


def _batched(operands: Any, mapped: Any, *, axes: Axes, name: str) -> tuple[Array, int]:
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
        axes, at = _plain((contracted, batch)), 0  # pyright: ignore[reportArgumentType]
        return _product_p.bind(*moved, axes=axes, name=name), at
    # One operand alone is mapped: its new axis is a free one, the first of its own.
    free = operands[0].ndim - len(contracted[0]) - len(batch[0])
    at = len(batch[0]) + (0 if shift[0] else free)
    axes = _plain((contracted, batch))  # pyright: ignore[reportArgumentType]
    return _product_p.bind(*moved, axes=axes, name=name), at


def _anywhere(x: Array, w: Array, *, axes: Axes, name: str) -> Array:
    """The product of arrays that are there, by what it is made of: not by `bind`, which would come
    back here for ever where `jax.disable_jit` or `jax.debug_nans` takes the compiled form apart."""
    here, elsewhere = (
        functools.partial(form, axes=axes, name=name) for form in (_on_cpu, _product)
    )
    return lax.platform_dependent(x, w, cpu=here, default=elsewhere)


_product_p.def_impl(jax.jit(_anywhere, static_argnames=("axes", "name")))
_product_p.def_abstract_eval(_shape)
for _function, _platform in ((_product, None), (_on_cpu, "cpu")):
    _lowering = mlir.lower_fun(_function, multiple_results=False)
    mlir.register_lowering(_product_p, _lowering, platform=_platform)
batching.primitive_batchers[_product_p] = _batched
ad.defbilinear(
    _product_p,
    lambda g, x, w, *, axes, name: _gradient(g, w, x, axes, name, first=True),
    lambda g, x, w, *, axes, name: _gradient(g, x, w, axes, name, first=False),
)
