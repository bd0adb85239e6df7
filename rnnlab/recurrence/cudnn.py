"""cuDNN's LSTM through jax.experimental.rnn: the same function as the plain scan, for CUDA GPUs alone.

Untested on hardware: what is tested is everything around cuDNN's two calls (the layout of the
weights, lengths, directions), against JAX's own reference of them, and their shapes.

Our parameters are differentiated through `pack`, so that gradients arrive in the tree they came
from, by the backward pass of cuDNN. It has no forward mode, no second order and no vmap.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn

from rnnlab.errors import UsageError
from rnnlab.types import Array, Carry, Cell, Params

_LAX = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}


def _obstacle(dtypes: Sequence[Any], precision: str) -> str:
    if jax.default_backend() != "gpu":
        return f"it needs a CUDA GPU, and JAX runs on the {jax.default_backend()} here"
    if precision not in _LAX:
        return f"it has no precision '{precision}', only {' and '.join(_LAX)}"
    other = {jnp.dtype(d).name for d in dtypes} - {"float32"}
    return f"it takes float32 alone, not {min(other)}" if other else ""


def supports(
    cell: Cell,
    params: Params,
    x: Array,
    carry: Carry | None = None,
    *,
    mask: Array | None = None,
    reset: Array | None = None,
    chunk: int = 0,
) -> str:
    """Why cuDNN cannot run `cell` like this, in a few words; "" if it can.

    The arguments are those of `unroll`. Noise (recurrent dropout, zoneout) is a
    property of the cell: one made with it is refused in evaluation too.
    """
    if cell.name != "lstm":
        return f"it runs the cell lstm, not {cell.name}"
    names = {"norm_x": "layer norm", "peepholes": "peepholes"}
    for name, what in names.items():
        if name in params:
            return f"its LSTM has no {what}"
    if params.keys() - {"kernel_x", "kernel_h", "bias", "bias_h"}:
        return "its LSTM has kernel_x, kernel_h, bias and bias_h, and no other parameter"
    if jax.tree.leaves(jax.eval_shape(lambda key: cell.noise(key, 1, 1), jax.random.key(0))):
        return "its LSTM has no recurrent dropout and no zoneout"
    if reset is not None:
        return "it cannot reset the state inside a window"
    if mask is not None:
        return "it takes lengths, not a mask"
    if chunk > 0:
        return "it cannot rematerialise in chunks"
    floats = [a for a in (x, *jax.tree.leaves(carry)) if jnp.issubdtype(a.dtype, jnp.floating)]
    dtypes = [a.dtype for a in (*jax.tree.leaves(params), *floats)]
    return _obstacle(dtypes, cell.precision)


def _directions(layer: Params) -> list[Params]:
    return [layer["forward"], layer["backward"]] if "forward" in layer else [layer]


def pack(layers: Sequence[Params]) -> Array:
    """The parameters of LSTM layers as cuDNN's one vector; linear, hence differentiable.

    layers: as `params["layers"]` of a model: kernel_x [D, 4H], kernel_h [H, 4H], bias [4H] and
        perhaps bias_h [4H] (zeros if there is none), or {"forward": ..., "backward": ...} of these.

    The layout is that of `jax.experimental.rnn`: all kernels, transposed, then all biases, layer by
    layer and in it direction by direction. Its gates are in our order, i, f, g, o.
    """
    flat = [params for layer in layers for params in _directions(layer)]
    kernels = [p[name].T.reshape(-1) for p in flat for name in ("kernel_x", "kernel_h")]
    biases = [b for p in flat for b in (p["bias"], p.get("bias_h", jnp.zeros_like(p["bias"])))]
    return jnp.concatenate(kernels + biases)


def unpack(
    weights: Array,
    *,
    input_size: int,
    hidden: int,
    layers: int,
    bidirectional: bool = False,
    hidden_bias: bool = True,
) -> list[Params]:
    """The inverse of `pack`. `hidden_bias` False: one bias, the sum of the two.

    Raises UsageError if the vector has another length than these sizes give.
    """
    sizes = (input_size, hidden, layers, bidirectional)
    expected = rnn.get_num_params_in_lstm(*sizes)
    if weights.shape != (expected,):
        raise UsageError(
            f"cuDNN's weights have shape {list(weights.shape)}, expected [{expected}] for {layers} "
            f"layers of {hidden} units on {input_size} inputs"
        )
    flat = []
    kernels_x, kernels_h, biases, biases_h = rnn.unpack_lstm_weights(weights, *sizes)
    for k in kernels_x:
        w_x, w_h, b_x, b_h = kernels_x[k], kernels_h[k], biases[k], biases_h[k]
        params = {"kernel_x": w_x.T, "kernel_h": w_h.T}
        flat.append(params | ({"bias": b_x, "bias_h": b_h} if hidden_bias else {"bias": b_x + b_h}))
    if not bidirectional:
        return flat
    return [{"forward": f, "backward": b} for f, b in zip(flat[::2], flat[1::2], strict=True)]


def flip(x: Array, lengths: Array) -> Array:
    """x [T, B, ...] with the first `lengths` [B] steps of each sequence in reverse order."""
    t = jnp.arange(x.shape[0])[:, None]
    source = jnp.where(t < lengths, lengths - 1 - t, t)
    return jnp.take_along_axis(x, source.reshape(source.shape + (1,) * (x.ndim - 2)), axis=0)


def lstm(
    layers: Sequence[Params],
    x: Array,
    carry: Carry,
    *,
    lengths: Array | None = None,
    precision: str = "float32",
) -> tuple[Carry, Array]:
    """A stack of LSTM layers in one call of cuDNN, with nothing between them (no dropout).

    layers: as for `pack`; bidirectional if they are {"forward": ..., "backward": ...}.
    x: float [T, B, D]. carry: as a model has it, a tuple a layer of one (c, h) a direction, each
        [B, H]. lengths: int [B], as in `unroll`.
    precision: "float32", or "tf32" to let cuDNN use TF32.

    Returns the final carry and y [T, B, H], or [T, B, 2H] with the forward direction first.

    Raises UsageError without a CUDA GPU, or for what is not float32.
    """
    leaves = jax.tree.leaves((layers, x, carry))
    if why := _obstacle([leaf.dtype for leaf in leaves], precision):
        raise UsageError(f"cuDNN cannot run this LSTM: {why}: use unroll with path 'auto'")
    time, batch, size = x.shape
    states = [state for layer in carry for state in layer]
    steps = jnp.full(batch, time) if lengths is None else lengths
    valid = (jnp.arange(time)[:, None] < steps)[..., None]
    if lengths is not None:
        x = jnp.where(valid, x, jnp.zeros((), x.dtype))
    bidirectional = "forward" in layers[0]
    results: Any = rnn.lstm(
        x.swapaxes(0, 1),
        jnp.stack([state.h for state in states]),
        jnp.stack([state.c for state in states]),
        pack(layers),
        # cuDNN may ask for at least 1 step: one is run where there is none, and dropped again.
        jnp.clip(steps, 1, time).astype(jnp.int32),
        size,
        states[0].h.shape[-1],
        len(layers),
        0.0,
        bidirectional,
        _LAX[precision],
    )
    y, h, c = results
    y = y.swapaxes(0, 1)
    ends = [old._replace(c=c[k], h=h[k]) for k, old in enumerate(states)]
    if lengths is not None:
        y = jnp.where(valid, y, jnp.zeros((), y.dtype))
        some = (steps > 0)[:, None]
        ends = jax.tree.map(lambda new, old: jnp.where(some, new, old), ends, states)
    width = 2 if bidirectional else 1
    return tuple(tuple(ends[k : k + width]) for k in range(0, len(ends), width)), y


def run(
    cell: Cell,
    params: Params,
    x: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    chunk: int = 0,
) -> tuple[Carry, Array]:
    """One layer in one direction, as `unroll` runs it.

    An integer x [T, B] becomes one-hot rows [T, B, D], which are materialised: cuDNN cannot gather.

    Raises UsageError, which says why, for what `supports` refuses.
    """
    if why := supports(cell, params, x, carry, mask=mask, reset=reset, chunk=chunk):
        raise UsageError(f"path 'cudnn' cannot run this cell: {why}: use path 'auto'")
    kernel = params["kernel_x"]
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = jax.nn.one_hot(x, kernel.shape[0], dtype=kernel.dtype)
    if carry is None:
        carry = cell.carry(x.shape[1], kernel.dtype)
    ends = jnp.full(x.shape[1], x.shape[0]) if lengths is None else jnp.clip(lengths, 0, x.shape[0])
    inside = flip(x, ends) if reverse else x
    ((carry,),), y = lstm([params], inside, ((carry,),), lengths=lengths, precision=cell.precision)
    return carry, flip(y, ends) if reverse else y
