"""Initial values of kernels and biases, chosen by a short string.

A specification is `name` or `name:argument`: `"orthogonal"`, `"uniform:0.08"`. `from_spec` turns
it into a function `(key, shape [D, H], dtype) -> array`. Sources: Glorot and Bengio 2010; Saxe et
al. 2014 (orthogonal); Le et al. 2015 (identity); Jaeger 2001 (spectral radius).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers as jax_init

from rnnlab.errors import UsageError, nearest
from rnnlab.types import Array

Initialiser = Callable[..., Array]  # (key, shape, dtype) -> array


def _uniform(limit: float) -> Initialiser:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def _identity(scale: float) -> Initialiser:
    return lambda key, shape, dtype: scale * jnp.eye(shape[0], shape[1], dtype=dtype)


def _radius(matrix: np.ndarray) -> np.ndarray:
    return np.max(np.abs(np.linalg.eigvals(matrix))).astype(matrix.dtype)


def _spectral(radius: float) -> Initialiser:
    """Gaussian entries scaled so that the largest |eigenvalue| is `radius`; square kernels only."""

    def init(key, shape, dtype):
        if shape[0] != shape[1]:
            raise UsageError(
                f"'spectral' needs a square kernel, this one is {shape}: use it for kernel_h"
            )
        matrix = jax.random.normal(key, shape, dtype) / math.sqrt(shape[0])
        # The eigenvalues of a general matrix exist on the CPU alone; a callback works everywhere.
        found = jax.pure_callback(
            _radius, jax.ShapeDtypeStruct((), dtype), matrix, vmap_method="sequential"
        )
        return matrix * (radius / found)

    return init


# name -> (maker taking the argument, default argument or None where one must be given)
_WITH_ARGUMENT: dict[str, tuple[Callable[[float], Initialiser], float | None]] = {
    "orthogonal": (jax_init.orthogonal, 1.0),
    "identity": (_identity, 1.0),
    "uniform": (_uniform, None),
    "normal": (jax_init.normal, None),
    "constant": (jax_init.constant, None),
    "spectral": (_spectral, 1.0),
}
_NOT_NEGATIVE = ("uniform", "normal", "spectral")
_PLAIN: dict[str, Initialiser] = {
    "glorot_uniform": jax_init.glorot_uniform(),
    "glorot_normal": jax_init.glorot_normal(),
    "lecun_normal": jax_init.lecun_normal(),
    "lecun_uniform": jax_init.lecun_uniform(),
    "he_normal": jax_init.he_normal(),
    "zeros": jax_init.zeros,
    "ones": jax_init.ones,
}


def check(name: str, spec: str, hidden: int | None = None) -> None:
    """Raise the UsageError of `from_spec`, with the `name` of the key that `spec` is the value of."""
    try:
        from_spec(spec, hidden)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def from_spec(spec: str, hidden: int | None = None) -> Initialiser:
    """The initialiser that `spec` names. In 16 bits or fewer it draws in float32 and rounds: a QR
    decomposition has no lower precision.

    hidden: H, read by "inverse_sqrt_hidden" alone: U(-1/sqrt(H), 1/sqrt(H)), PyTorch's convention.

    Raises UsageError for an unknown name (with the nearest one) or a bad argument.
    """
    draw = _from_spec(spec, hidden)

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        low = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
        return draw(key, shape, jnp.float32).astype(dtype) if low else draw(key, shape, dtype)

    return init


def _from_spec(spec: str, hidden: int | None) -> Initialiser:
    name, colon, argument = spec.partition(":")
    known = [*_WITH_ARGUMENT, *_PLAIN, "inverse_sqrt_hidden"]
    if name not in known:
        raise UsageError(
            f"unknown initialisation '{name}': {nearest(name, known)}there are {', '.join(known)}"
        )
    if name not in _WITH_ARGUMENT:
        if colon:
            raise UsageError(f"initialisation '{spec}': '{name}' takes no number")
        if name in _PLAIN:
            return _PLAIN[name]
        if hidden is None:
            raise UsageError(f"initialisation '{name}' is for the parameters of a cell")
        return _uniform(1.0 / math.sqrt(hidden))
    maker, default = _WITH_ARGUMENT[name]
    if not argument and default is None:
        raise UsageError(f"initialisation '{name}' needs a number: write '{name}:0.08', say")
    try:
        value = float(argument) if argument else default
    except ValueError:
        raise UsageError(f"initialisation '{spec}': '{argument}' is not a number") from None
    if value is None or not math.isfinite(value):
        raise UsageError(f"initialisation '{spec}': the number must be finite")
    if value < 0.0 and name in _NOT_NEGATIVE:
        raise UsageError(f"initialisation '{spec}': the number must not be negative")
    return maker(value)
