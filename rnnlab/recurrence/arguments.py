"""What `unroll` is given, checked by shapes and dtypes alone: while a program is traced, at no cost
to the program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.types import Cell


def said(value: Any) -> str:
    """What an argument is, in a few words: "float32 [5, 2]", or the type of what is no array."""
    try:
        return f"{jnp.dtype(value.dtype).name} [{', '.join(map(str, value.shape))}]"
    except (AttributeError, TypeError):
        pass
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype} [{', '.join(map(str, value.shape))}]"
    return f"{type(value).__name__} {value!r}"[:60]


def is_array(value: Any) -> bool:
    """Whether it is an array of NumPy or JAX, or one that is traced."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def refuse(name: str, value: Any, wanted: str) -> None:
    """Raise UsageError: what the argument is, and what it must be."""
    raise UsageError(f"{name} is {said(value)}: it must be {wanted}")


def check(
    cell: Any,
    params: Any,
    x: Any,
    carry: Any,
    *,
    lengths: Any,
    mask: Any,
    reset: Any,
    key: Any,
) -> None:
    """Raise UsageError, which names the argument, unless they are what `unroll` takes."""
    if not isinstance(cell, Cell):
        refuse("cell", cell, "a Cell, such as cells.get('lstm', hidden=8)")
    check_x(x)
    time, batch = x.shape[:2]
    kinds = {
        "lengths": (lengths, jnp.integer, "integer", (batch,), "[B]"),
        "mask": (mask, jnp.bool_, "bool", (time, batch), "[T, B]"),
        "reset": (reset, jnp.bool_, "bool", (time, batch), "[T, B]"),
    }
    for name, (value, kind, kind_name, shape, letters) in kinds.items():
        wanted = f"{kind_name} {letters} = [{', '.join(map(str, shape))}]"
        if value is not None and not (
            is_array(value) and jnp.issubdtype(value.dtype, kind) and value.shape == shape
        ):
            refuse(name, value, wanted)
    if key is not None and not _is_key(key):
        refuse("key", key, "one PRNG key, such as jax.random.key(0)")
    _check_params(cell, params, x)
    if carry is not None:
        _check_carry(cell, carry, batch)


def check_x(x: Any) -> None:
    """Raise UsageError unless x is float [T, B, D] or int [T, B]."""
    wanted = "float [T, B, D], or integer [T, B] for one-hot inputs"
    if not is_array(x):
        refuse("x", x, wanted)
    rank = {jnp.floating: 3, jnp.integer: 2}
    if not any(jnp.issubdtype(x.dtype, kind) and x.ndim == n for kind, n in rank.items()):
        refuse("x", x, wanted)


def _is_key(key: Any) -> bool:
    if not isinstance(key, (jax.Array, np.ndarray)):
        return False
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.ndim == 0
    return key.dtype == jnp.uint32 and key.ndim == 1


@functools.lru_cache(maxsize=64)
def _starting(cell: Cell, size: int) -> Any:
    """The shapes of the parameters for inputs of that size; None where the cell makes none of it."""
    try:
        return jax.eval_shape(lambda: cell.init(jax.random.key(0), size, jnp.float32))
    except Exception:  # a cell of a user's own, or an initialiser that wants another size
        return None


def _named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_params(cell: Cell, params: Any, x: Any) -> None:
    """Names and shapes, against those that the cell starts with."""
    found = _named(params)
    for name, leaf in found.items():
        if not is_array(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            refuse(f"params '{name}'" if name else "params", leaf, "a tree of float arrays")
    size = x.shape[2] if x.ndim == 3 else _input_size(found)
    wanted = None if size is None else _starting(cell, size)
    if wanted is None:
        return
    wanted, units = _named(wanted), f"cell '{cell.name}' of {cell.hidden} units"
    if missing := wanted.keys() - found.keys():
        raise UsageError(
            f"params have no '{min(missing)}', which {units} has: they are those of another cell"
        )
    if extra := found.keys() - wanted.keys():
        raise UsageError(
            f"params have '{min(extra)}', which {units} lacks: they are those of another cell"
        )
    for name, leaf in wanted.items():
        if found[name].shape == leaf.shape:
            continue
        if x.ndim == 3 and name == "kernel_x" and found[name].shape[1:] == leaf.shape[1:]:
            refuse("x", x, f"float [T, B, D] with D = {found[name].shape[0]}, that of the params")
        shape = ", ".join(map(str, leaf.shape))
        refuse(f"params '{name}'", found[name], f"of shape [{shape}] for {units}")


def _input_size(found: dict[str, Any]) -> int | None:
    kernel = found.get("kernel_x")
    return kernel.shape[0] if kernel is not None and kernel.ndim == 2 else None


def _check_carry(cell: Cell, carry: Any, batch: Any) -> None:
    """Structure and shapes, against those of `cell.carry(B)`. Integers must be integers too."""
    like = jax.eval_shape(lambda: cell.carry(batch))
    parts = ", ".join(f"{name or 'h'} {said(leaf)}" for name, leaf in _named(like).items())
    wanted = f"what cell.carry({batch}) of cell '{cell.name}' makes: {parts}"
    if jax.tree.structure(carry) != jax.tree.structure(like):
        raise UsageError(
            f"carry is {type(carry).__name__} of another structure: it must be {wanted}"
        )
    for (name, leaf), want in zip(_named(carry).items(), jax.tree.leaves(like), strict=True):
        floats = jnp.issubdtype(want.dtype, jnp.floating)
        if not is_array(leaf) or leaf.shape != want.shape:
            refuse(f"carry '{name}'", leaf, wanted)
        kind = jnp.floating if floats else want.dtype
        if not jnp.issubdtype(leaf.dtype, kind):
            refuse(f"carry '{name}'", leaf, wanted)
