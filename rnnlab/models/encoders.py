"""Encoders: what stands before the stack of cells and makes vectors of pictures.

An `Encoder` is two pure functions; `stack.encoded` puts one in front of a model.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnlab.cells.parts import precision as precisions
from rnnlab.errors import UsageError
from rnnlab.types import Array, Params


class Encoder(NamedTuple):
    """Pictures to vectors; pure functions of a dict pytree. Hashable, so that programs are shared."""

    init: Callable[..., Params]  # (key, dtype) -> params
    # (params, pictures [..., h, w, c], uint8 of 0 to 255 or float) -> [..., E], or [..., S, E] of
    # S places where it keeps these apart
    apply: Callable[[Params, Array], Array]
    size: int  # E
    places: int  # S; 0 where a picture is one vector


class _Convolutions(nn.Module):
    """3 x 3 convolutions with stride 2, each a ReLU; then one dense layer over the flattened map."""

    channels: tuple[int, ...]
    features: int
    precision: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        how: dict[str, Any] = {"precision": self.precision, "param_dtype": self.dtype}
        for count in self.channels:
            x = nn.relu(nn.Conv(count, (3, 3), strides=2, **how)(x))
        if not self.features:
            return x.reshape(x.shape[0], -1, x.shape[-1])
        return nn.Dense(self.features, **how)(x.reshape(x.shape[0], -1))


@functools.lru_cache(maxsize=32)
def conv(
    *,
    shape: tuple[int, int, int],
    channels: tuple[int, ...],
    features: int,
    precision: str = "float32",
) -> Encoder:
    """A small convolutional encoder of pictures [h, w, c].

    channels: of each layer, a 3 x 3 convolution with stride 2 and a ReLU; a layer halves height and
        width, rounded up. features: E of the dense layer at the end; 0 for none, and then each place
        of the last map is a vector of channels[-1] (Xu et al. 2015), in reading order.
    precision: a name of `rnnlab.cells.parts.precision`; "float32" is strict everywhere, the others are
        what the device's convolutions do by default.

    Raises UsageError for counts below 1.
    """
    precisions.check(precision)
    if not channels or not all(isinstance(c, int) and c >= 1 for c in channels):
        raise UsageError(f"encoder.channels must be counts of at least 1, got {channels}")
    if features < 0:
        raise UsageError(f"encoder.features must be at least 0, got {features}")
    exact = jax.lax.Precision.HIGHEST if precision == "float32" else jax.lax.Precision.DEFAULT

    def network(dtype: Any) -> _Convolutions:
        return _Convolutions(tuple(channels), features, exact, dtype)

    def init(key: Array, dtype: Any = jnp.float32) -> Params:
        return network(dtype).init(key, jnp.zeros((1, *shape), dtype))["params"]

    def apply(params: Params, x: Array) -> Array:
        dtype = jax.tree.leaves(params)[0].dtype
        if x.shape[-3:] != shape:
            raise UsageError(f"the encoder reads pictures of {shape}, not of {x.shape[-3:]}")
        scale = 255 if jnp.issubdtype(x.dtype, jnp.integer) else 1
        flat = jnp.asarray(x).reshape(-1, *shape).astype(dtype) / scale
        y = network(dtype).apply({"params": params}, flat)
        assert isinstance(y, jax.Array)
        return y.reshape(*x.shape[:-3], *y.shape[1:])

    height, width = shape[:2]
    for _ in channels:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    places = 0 if features else height * width
    return Encoder(init, apply, features or channels[-1], places)


@functools.lru_cache(maxsize=32)
def dense(*, inputs: int, features: int, precision: str = "float32") -> Encoder:
    """One dense layer with a tanh, of vectors [..., D] computed beforehand, to [..., features].

    Raises UsageError for features below 1.
    """
    if features < 1:
        raise UsageError(f"encoder.features must be at least 1, got {features}")
    dot = precisions.matmul(precision)

    def init(key: Array, dtype: Any = jnp.float32) -> Params:
        kernel = jax.nn.initializers.glorot_uniform()(key, (inputs, features), dtype)
        return {"kernel": kernel, "bias": jnp.zeros(features, dtype)}

    def apply(params: Params, x: Array) -> Array:
        x = jnp.asarray(x).astype(params["kernel"].dtype)
        return jnp.tanh(dot(x, params["kernel"]) + params["bias"])

    return Encoder(init, apply, features, 0)
