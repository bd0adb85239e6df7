"""A layer as a dynamical system along a real trajectory: Jacobians, their products, Lyapunov exponents.

The state of one row is the vector s of its n numbers: all parts of the carry that can vary, side by
side (n = H for the vanilla cell, GRU and UGRNN; 2H for the LSTM, whose c and h belong together). The
step is s_{t+1} = F(s_t, x_t), with x_t given, and J_t = ds_{t+1}/ds_t is found by differentiating the
cell's own `step`. What a loss gets back from a state k steps earlier is multiplied by
(J_{t+k-1} ... J_t)^T (Bengio et al. 1994; Pascanu et al. 2013, eq. 5).

All of it is computed in float64, on a trajectory that may be of lower precision. The matrices are
small for LAPACK: with OPENBLAS_NUM_THREADS=1 in the environment it is faster, and on cores that
others use too up to twenty times as fast, since OpenBLAS's threads wait for each other spinning.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnnlab.errors import UsageError
from rnnlab.recurrence.leaves import chosen, inexact
from rnnlab.recurrence.taps import Seen
from rnnlab.types import Array, Carry, Cell, Params

# |F(s_t) - s_{t+1}| over 1 + |s_{t+1}|, largest component: above what bf16 products leave.
MISFIT = 0.05


def double(tree: Any) -> Any:
    """The leaves that can vary as float64, the others as they are; inside `jax.enable_x64` alone."""

    def convert(leaf: Any) -> Array:
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf, jnp.float64 if inexact(leaf) else leaf.dtype)

    return jax.tree.map(convert, tree)


def joined(carry: Carry, lead: int) -> np.ndarray:
    """The parts of a carry that can vary, side by side: [..., n] in float64, `lead` axes first."""
    parts = [np.asarray(leaf) for leaf in jax.tree.leaves(carry) if inexact(leaf)]
    parts = [part.astype(np.float64).reshape(*part.shape[:lead], -1) for part in parts]
    return np.concatenate(parts, axis=-1)


def vector_step(
    cell: Cell, params: Params, carry: Carry, z: Any
) -> tuple[Array, Callable[[Array], Array]]:
    """(s [n], F: s [n] -> s' [n]) of a carry of one row, [1, ...], and the z of one step of that row.

    A part of the carry that cannot vary (integers) is held at its value.
    """
    leaves, tree = jax.tree.flatten(carry)
    on = [inexact(leaf) for leaf in leaves]
    s, unravel = ravel_pytree(chosen(leaves, on))

    def step(s: Array) -> Array:
        rest = iter(unravel(s))
        whole = [next(rest) if use else leaf for use, leaf in zip(on, leaves, strict=True)]
        new, _ = cell.step(params, jax.tree.unflatten(tree, whole), z)
        return ravel_pytree(chosen(new, on))[0].astype(s.dtype)

    return s, step


class Window(NamedTuple):
    """Some rows over some steps, a row at a time: [R, T, 1, ...]."""

    x: Any
    before: Carry  # the state before each step
    joined: np.ndarray  # [R, T, n], the same as vectors
    after: np.ndarray  # [R, T, n]


def window_of(seen: Seen, rows: int, first: int, steps: int | None) -> Window:
    """The first `rows` rows of what a layer did, `steps` steps from step `first` on; None: to the end.

    Raises UsageError for rows or steps that were not recorded.
    """
    time, batch = np.shape(seen.x)[:2]
    if not 1 <= rows <= batch:
        raise UsageError(f"rows must be from 1 to {batch}, the sequences recorded; got {rows}")
    if not 0 <= first < time:
        raise UsageError(
            f"first must be from 0 to {time - 1}, of {time} steps recorded; got {first}"
        )
    count = time - first if steps is None else steps
    if not 1 <= count <= time - first:
        raise UsageError(
            f"steps must be from 1 to {time - first}, of {time} steps recorded; got {count}"
        )

    def cut(leaf: Any) -> np.ndarray:
        return np.swapaxes(leaf[first : first + count, :rows], 0, 1)

    before, after = (
        jax.tree.map(lambda leaf: cut(np.asarray(leaf)), part)
        for part in (seen.before, seen.states)
    )
    return Window(
        x=cut(np.asarray(seen.x))[:, :, None],
        before=jax.tree.map(lambda leaf: leaf[:, :, None], before),
        joined=joined(before, 2),
        after=joined(after, 2),
    )


def check_trajectory(found: Any, before: np.ndarray, after: np.ndarray, first: int) -> None:
    """Raise UsageError unless the cell's step leads from each recorded state to the next one, and the
    next step starts from there: [..., T, n] each."""
    found = np.asarray(found)
    off = np.abs(found - after) / (1.0 + np.abs(after).max(axis=-1, keepdims=True))
    bad = ~(off.max(axis=-1) < MISFIT)  # NaN counts
    bad[..., :-1] |= (before[..., 1:, :] != after[..., :-1, :]).any(axis=-1)
    if bad.any():
        step = first + int(np.argwhere(bad)[0][-1])
        raise UsageError(
            f"the state recorded after step {step} is not what the cell makes of the one before it: "
            "take sequences without reset, padding or dropout, in running order, and finite"
        )


@functools.partial(jax.jit, static_argnames="cell")
def _jacobians(cell: Cell, params: Params, x: Array, before: Carry) -> tuple[Array, Array]:
    def at(inputs: Any) -> tuple[Array, Array]:
        s, step = vector_step(cell, params, *inputs)
        return jax.jacfwd(step)(s), step(s)

    return lax.map(at, (before, cell.project(params, x, None)))


def step_jacobians(
    cell: Cell,
    params: Params,
    seen: Seen,
    *,
    row: int = 0,
    first: int = 0,
    steps: int | None = None,
) -> np.ndarray:
    """J_t = ds_{t+1}/ds_t of one row, [steps, n, n] in float64, from step `first` on; None: to the end.

    Entry [t, i, j] is the derivative of component i of the new state by component j of the old one.
    They take 8 steps n^2 bytes.

    Raises UsageError where the row or the steps are not there, or the recorded states are not a
    trajectory of this cell on this input.
    """
    window = window_of(seen, row + 1, first, steps)
    with jax.enable_x64(True):
        x, before = double((window.x[row], jax.tree.map(lambda leaf: leaf[row], window.before)))
        found, new = _jacobians(cell, double(params), x, before)
    check_trajectory(new, window.joined[row], window.after[row], first)
    return np.asarray(found)
