"""A cell over time: lengths, masks, resets, both directions, chunks.

The plain scan over `project` then `step`, differentiated by JAX, is BPTT and the definition; where
the cell allows it `bptt` computes the same, faster.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.errors import UsageError
from rnnlab.recurrence import arguments, bptt, cudnn
from rnnlab.recurrence.taps import Taps, recorded, tapped
from rnnlab.types import Array, Carry, Cell, Params

PATHS = ("auto", "plain", "cudnn")


def valid_steps(time: int, lengths: Array | None, mask: Array | None) -> Array | None:
    """bool [T, B]: which steps exist; None if all do. `lengths` [B] and `mask` [T, B] combine."""
    valid = mask
    if lengths is not None:
        within = jnp.arange(time)[:, None] < lengths[None, :]
        valid = within if valid is None else valid & within
    return valid


def leaving(reset: Array, valid: Array | None) -> Array:
    """`reset` for a run from right to left: True where the next valid step to the right begins a
    sequence, so that the step on its left starts afresh."""
    if valid is None:
        return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
    time = reset.shape[0]
    steps = jnp.where(valid, jnp.arange(time)[:, None], time)
    following = jnp.concatenate([steps[1:], jnp.full_like(steps[:1], time)])
    following = lax.cummin(following, axis=0, reverse=True)
    flags = jnp.concatenate([reset, jnp.zeros_like(reset[:1])])  # nothing is left at the far end
    return jnp.take_along_axis(flags, following, axis=0)


def unroll(
    cell: Cell,
    params: Params,
    x: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    key: Array | None = None,
    taps: Taps | None = None,
    record: bool = False,
    chunk: int = 0,
    path: str = "auto",
    keep: str = "preactivations",
) -> tuple[Carry, Array]:
    """Run `cell` over the sequences `x`.

    x: float [T, B, D], or int [T, B] for one-hot inputs.
    carry: the state before the first step; zeros if None.
    lengths: int [B]; mask: bool [T, B]. A step that does not exist leaves the carry as it was and
        puts out zeros, whatever `x` holds there (NaN included): the final carry is that of the last
        valid step, and the reversed direction starts at each sequence's last valid step.
    reset: bool [T, B], True where a new sequence starts: the state is zeroed before that step (in
        the reversed direction, when it has left that sequence). A flag on a step that does not
        exist counts for nothing.
    reverse: run from right to left; y[t] still belongs to x[t].
    key: PRNG key of the noise inside the cell; None in evaluation.
    taps: what to see of the gradient; see `taps`. The values stay the same.
    record: y comes with the states beside it, for `taps.parted`.
    chunk: > 0: rematerialise. Only the carry at every `chunk`-th step is kept for the backward
        pass, the rest is computed again; a chunk near sqrt(T) (`sqrt_chunk`) makes the memory of
        the backward pass grow as sqrt(T) beyond x and y themselves (Chen et al. 2016). With a
        symbolic T, of `jax.export`, it does nothing.
    path: "auto": the fast backward pass of `bptt` for cells that state their step in four
        parts, the plain scan for all others and for forward-mode differentiation. "plain": the
        plain scan. "cudnn": NVIDIA's LSTM, see `cudnn`; an error where it cannot be had.
        All give the same up to rounding.
    keep: what the fast path keeps for the backward pass beside z: "preactivations", or the "states"
        alone, from which one product over all steps makes the rest again: 5 H instead of 9 H
        numbers a step for an LSTM, one GEMM more.

    Returns the final carry and y [T, B, H]. Of no steps (T = 0) they are the carry given and an
    empty y.

    Raises UsageError, which names the argument, for shapes, dtypes and structures other than these,
    parameters of another cell, and another path or keep.
    """
    if path not in PATHS:
        raise UsageError(f"path must be one of {', '.join(PATHS)}, got '{path}'")
    if keep not in bptt.KEEP:
        raise UsageError(f"keep must be one of {', '.join(bptt.KEEP)}, got '{keep}'")
    arguments.check(cell, params, x, carry, lengths=lengths, mask=mask, reset=reset, key=key)
    if path == "cudnn":
        options = {"lengths": lengths, "mask": mask, "reset": reset, "reverse": reverse}
        if taps is not None or record:
            raise UsageError("cuDNN shows nothing of what is inside: set model.path to auto")
        return cudnn.run(cell, params, x, carry, chunk=chunk, **options)
    time, batch = x.shape[:2]
    if carry is None:
        carry = cell.carry(batch, jax.tree.leaves(params)[0].dtype)
    valid = valid_steps(time, lengths, mask)
    if valid is not None:
        # Before the projection, so that padding reaches no product: 0 * NaN is NaN in a gradient.
        x = jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))
    if reset is not None and reverse:
        reset = leaving(reset, valid)
    # Drawn here and not in `window`, so that chunks see what the whole window sees.
    noise = None if key is None else cell.noise(key, time, batch)
    given: Any = x
    if taps is not None:
        cell, given = tapped(cell, taps), (x, taps._replace(whole=None))
    if record:  # of what the taps made of it
        cell = recorded(cell)
    steps = (given, valid, reset, noise)
    fast = path == "auto" and bptt.separate(cell)

    def window(carry: Carry, inputs: Any) -> tuple[Carry, Array]:
        x, valid, reset, noise = inputs
        steps = bptt.Steps(cell.project(params, x, noise), valid, reset)
        if fast:
            return bptt.scan(cell, params, carry, steps, reverse=reverse, keep=keep)
        return bptt.plain(cell, params, carry, steps, reverse=reverse)

    # A symbolic T, of `jax.export`, cannot be cut: how many steps would be left over is not known.
    if chunk <= 0 or not isinstance(time, int) or chunk >= time:
        return window(carry, steps)
    # Equal chunks in one scan, and what is left over as a window of its own, last in running order.
    count, rest = divmod(time, chunk)
    first = rest if reverse else 0  # where the equal chunks begin
    tail = slice(0, rest) if reverse else slice(time - rest, time)
    window = jax.checkpoint(window)

    def cut(array: Array) -> Array:
        return array[first : first + count * chunk].reshape(count, chunk, *array.shape[1:])

    carry, y = lax.scan(window, carry, jax.tree.map(cut, steps), reverse=reverse)
    y = y.reshape(count * chunk, *y.shape[2:])
    if rest:
        carry, y_tail = window(carry, jax.tree.map(lambda a: a[tail], steps))
        y = jnp.concatenate([y_tail, y] if reverse else [y, y_tail])
    return carry, y


def sqrt_chunk(time: int) -> int:
    """The chunk for which kept carries and recomputed steps are in balance: ceil(sqrt(T)).

    0, no chunks, for a symbolic T of `jax.export`.
    """
    if not isinstance(time, int):
        return 0
    return math.isqrt(max(time - 1, 0)) + 1
