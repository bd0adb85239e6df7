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
import math
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

CHUNK_BYTES = 2**28  # of Jacobians held at once
# |F(s_t) - s_{t+1}| over 1 + |s_{t+1}|, largest component: above what bf16 products leave.
MISFIT = 0.05


class Spectra(NamedTuple):
    """The Jacobians of R rows over T steps, and their products from the first step on."""

    first: int  # the step t of the first Jacobian
    every: int  # the spectral radius is known at every so many steps
    singular: np.ndarray  # [R, T, n] singular values of J_t, descending
    radius: np.ndarray  # [R, ceil(T/every)] largest |eigenvalue| of J_t
    log10_largest: np.ndarray  # [R, T] largest singular value of the product of the first k = 1..T
    log10_mean: np.ndarray  # [R, T] geometric mean of that product's singular values

    @property
    def condition(self) -> np.ndarray:
        """[R, T] the largest singular value of J_t over the smallest; infinite if that is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.singular[..., 0] / self.singular[..., -1]

    @property
    def log10_rate(self) -> float:
        """log10 of a, the geometric mean of the spectral radii: the linear case grows as a^k."""
        with np.errstate(divide="ignore"):
            return float(np.mean(np.log10(self.radius)))


class Lyapunov(NamedTuple):
    """Lyapunov exponents in nats a step: the m leading ones of n."""

    exponents: np.ndarray  # [m] mean over rows, descending
    error: np.ndarray  # [m] standard error of that mean; NaN for one row
    rows: np.ndarray  # [R, m] of each row, descending
    size: int  # n
    transient: int  # steps left out at the start
    steps: int  # steps counted


# ---- the state as a vector


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


def flow(
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


class _Window(NamedTuple):
    """Some rows over some steps, a row at a time: [R, T, 1, ...]."""

    x: Any
    before: Carry  # the state before each step
    joined: np.ndarray  # [R, T, n], the same as vectors
    after: np.ndarray  # [R, T, n]


def _window(seen: Seen, rows: int, first: int, steps: int | None) -> _Window:
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
    return _Window(
        x=cut(np.asarray(seen.x))[:, :, None],
        before=jax.tree.map(lambda leaf: leaf[:, :, None], before),
        joined=joined(before, 2),
        after=joined(after, 2),
    )


def _check(found: Any, before: np.ndarray, after: np.ndarray, first: int) -> None:
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


# ---- Jacobians and their products


@functools.partial(jax.jit, static_argnames="cell")
def _jacobians(cell: Cell, params: Params, x: Array, before: Carry) -> tuple[Array, Array]:
    def at(inputs: Any) -> tuple[Array, Array]:
        s, step = flow(cell, params, *inputs)
        return jax.jacfwd(step)(s), step(s)

    return lax.map(at, (before, cell.project(params, x, None)))


def jacobians(
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
    window = _window(seen, row + 1, first, steps)
    with jax.enable_x64(True):
        x, before = double((window.x[row], jax.tree.map(lambda leaf: leaf[row], window.before)))
        found, new = _jacobians(cell, double(params), x, before)
    _check(new, window.joined[row], window.after[row], first)
    return np.asarray(found)


def spectra(
    cell: Cell,
    params: Params,
    seen: Seen,
    *,
    rows: int = 4,
    first: int = 0,
    steps: int | None = None,
    every: int = 4,
) -> Spectra:
    """The singular values and spectral radii of J_t along the first `rows` sequences, and the
    products J_{first+k-1} ... J_first for k = 1 .. steps.

    The product is divided by its norm after each factor and the logarithms of these norms are
    added, so that nothing leaves float64's range. Its largest singular value is exact up to
    rounding; the geometric mean of its n singular values is |det|^(1/n), from the LU factors of
    each J_t.

    every: the eigenvalues, by far the dearest part (0.1 s for n = 256), are computed at every so
        many steps.

    Raises UsageError as `jacobians` does.
    """
    if every < 1:
        raise UsageError(f"every must be at least 1, got {every}")
    time, size = _window(seen, rows, first, steps).after.shape[1:]
    singular, radius = np.empty((rows, time, size)), np.empty((rows, -(-time // every)))
    largest, determinant = np.empty((rows, time)), np.empty((rows, time))
    chunk = max(1, CHUNK_BYTES // (8 * size**2))
    for row in range(rows):
        product, scale = np.eye(size), 0.0
        for begin in range(0, time, chunk):
            end = min(time, begin + chunk)
            found = jacobians(cell, params, seen, row=row, first=first + begin, steps=end - begin)
            singular[row, begin:end] = np.linalg.svd(found, compute_uv=False)
            determinant[row, begin:end] = np.linalg.slogdet(found)[1]
            for t in range(begin, end):
                if t % every == 0:
                    radius[row, t // every] = np.abs(np.linalg.eigvals(found[t - begin])).max()
                product = found[t - begin] @ product
                norm = float(np.linalg.norm(product))
                if norm > 0.0:
                    product, scale = product / norm, scale + math.log10(norm)
                with np.errstate(divide="ignore"):
                    largest[row, t] = scale + np.log10(np.linalg.norm(product, 2))
    mean = np.cumsum(determinant, axis=1) / (size * math.log(10.0))
    return Spectra(first, every, singular, radius, largest, mean)


# ---- Lyapunov exponents


@functools.partial(jax.jit, static_argnames="cell")
def _exponents(
    cell: Cell, params: Params, x: Array, before: Carry, frame: Array, transient: Array
) -> tuple[Array, Array]:
    def row(inputs: Any) -> tuple[Array, Array]:
        x, before = inputs
        z = cell.project(params, x, None)

        def advance(state: Any, inputs: Any) -> tuple[Any, Array]:
            frame, total, t = state
            s, step = flow(cell, params, *inputs)
            new, push = jax.linearize(step, s)
            frame, upper = jnp.linalg.qr(jax.vmap(push, 1, 1)(frame))
            logs = jnp.log(jnp.abs(jnp.diagonal(upper)))
            return (frame, total + jnp.where(t < transient, 0.0, logs), t + 1), new

        start = (frame, jnp.zeros(frame.shape[1], frame.dtype), jnp.zeros_like(transient))
        (_, total, _), new = lax.scan(advance, start, (before, z))
        return total, new

    return lax.map(row, (x, before))


def lyapunov(
    cell: Cell,
    params: Params,
    seen: Seen,
    *,
    count: int | None = None,
    rows: int = 4,
    first: int = 0,
    steps: int | None = None,
    transient: int = 20,
    seed: int = 0,
) -> Lyapunov:
    """The Lyapunov exponents along the first `rows` sequences, in nats a step.

    An orthonormal frame of `count` vectors, drawn by `seed`, is pushed through the Jacobians and made
    orthonormal again after each step; an exponent is the mean of log |r_ii| of these QR
    decompositions (Benettin et al. 1980; for recurrent networks Engelken et al. 2020, arXiv
    2006.02427, and Vogt et al. 2022, arXiv 2006.14123, which drives them by real inputs as here). No
    Jacobian is formed. These are exponents of a finite time, which approach the true ones as the steps
    grow. Each row's are sorted before the mean over rows.

    count: m, how many leading exponents; None: all n.
    transient: steps over which the frame turns to its directions and that are left out.

    Raises UsageError as `jacobians` does, or where the transient leaves no step.
    """
    window = _window(seen, rows, first, steps)
    time, size = window.after.shape[1:]
    leading = size if count is None else count
    if not 1 <= leading <= size:
        raise UsageError(f"count must be from 1 to {size}, the size of the state; got {leading}")
    if not 0 <= transient < time:
        raise UsageError(f"transient must be from 0 to {time - 1} of {time} steps, got {transient}")
    frame = np.random.default_rng(seed).normal(size=(size, size))[:, :leading]
    frame = np.linalg.qr(frame)[0]
    with jax.enable_x64(True):
        x, before, params, frame = double((window.x, window.before, params, frame))
        total, new = _exponents(cell, params, x, before, frame, jnp.asarray(transient))
    _check(new, window.joined, window.after, first)
    found = -np.sort(-np.asarray(total) / (time - transient), axis=1)
    error = np.full(leading, math.nan)
    if rows > 1:
        with np.errstate(invalid="ignore"):  # -inf, of a singular Jacobian
            error = found.std(axis=0, ddof=1) / math.sqrt(rows)
    return Lyapunov(found.mean(axis=0), error, found, size, transient, time - transient)


# ---- in words


def power_of_ten(log10: float) -> str:
    """A number that float may not hold, from its logarithm: "2.5e-71", "0"."""
    if not math.isfinite(log10):
        return "0" if log10 < 0 else str(log10)
    exponent = math.floor(log10)
    digits = f"{10 ** (log10 - exponent):.1f}"
    if digits == "10.0":
        digits, exponent = "1.0", exponent + 1
    return f"{10**log10:.3g}" if -3 <= exponent <= 2 else f"{digits}e{exponent}"


def spectra_sentences(found: Spectra, name: str) -> list[str]:
    """What `spectra` says of the layer called `name`: medians over rows and steps of the largest
    singular value, the spectral radius and the condition number; then, with K the most factors, the
    mean over rows of the product's two logarithms beside those of a^K.
    """
    rows, steps = found.log10_largest.shape
    largest = float(np.median(found.singular[..., 0]))
    radius, condition = float(np.median(found.radius)), float(np.median(found.condition))
    top, mean = (
        power_of_ten(float(np.mean(each[:, -1])))
        for each in (found.log10_largest, found.log10_mean)
    )
    rate = found.log10_rate
    over = f"{rows} sequence{'s' * (rows != 1)} and {steps} steps"
    return [
        f"In {name} the median over {over} is {largest:.3g} for the largest singular value of the "
        f"Jacobian, {radius:.3g} for its spectral radius and {condition:.3g} for its condition number.",
        f"A product of {steps} Jacobians stretches a perturbation of the state by at most {top}, and "
        f"by {mean} in the geometric mean of its singular values (geometric means over sequences "
        f"too); the linear case of spectral radius {power_of_ten(rate)} would give "
        f"{power_of_ten(rate * steps)}.",
    ]


def lyapunov_sentences(found: Lyapunov, name: str) -> list[str]:
    """What `lyapunov` says of the layer called `name`.

    The largest exponent L, with standard error e: "converge" if L + 2e < 0, "diverge" if L - 2e > 0,
    neither in between; distances halve or double every log 2 / |L| steps. For one row e counts as
    0, and the sentence says so. Then the number of exponents above 0.
    """
    top, error = float(found.exponents[0]), float(found.error[0])
    known = math.isfinite(error)
    margin = 2 * error if known else 0.0
    size = f"{top:.3g} +- {error:.1g}" if known else f"{top:.3g}"
    begin = f"The largest Lyapunov exponent of {name} is {size} nats a step: "
    if top + margin < 0:
        said = f"neighbouring states converge, halving their distance every {_steps(top)}."
    elif top - margin > 0:
        said = f"neighbouring states diverge, doubling their distance every {_steps(top)}."
    else:
        said = "within two standard errors of 0, so neither convergence nor divergence is shown."
    if not known:
        said = said.removesuffix(".") + " (one sequence, no standard error)."
    positive = int((found.exponents > 0).sum())
    counted = len(found.exponents)
    of = f"{counted} exponents" if counted == found.size else f"{counted} leading exponents"
    verb = "is" if positive == 1 else "are"
    return [
        begin + said,
        f"Of its {of} (the state has {found.size} numbers), {positive} {verb} above 0.",
    ]


def _steps(rate: float) -> str:
    steps = math.log(2.0) / abs(rate)
    return "step" if steps == 1 else f"{steps:.2g} steps" if steps < 1000 else f"{steps:.1e} steps"
