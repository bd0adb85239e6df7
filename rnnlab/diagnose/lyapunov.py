"""The Lyapunov exponents of a layer along real sequences: whether neighbouring states come together."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure

from rnnlab.diagnose.axes import LEGEND, finite, whole_numbers
from rnnlab.diagnose.subject import Findings, Section, Subject, whole_layers
from rnnlab.diagnose.trajectory import check_trajectory, double, joined, vector_step, window_of
from rnnlab.errors import UsageError
from rnnlab.recurrence.taps import Seen
from rnnlab.run.figure import BLUE, ORANGE, plain, save
from rnnlab.types import Array, Carry, Cell, Params

LARGEST = 512  # numbers in a state, up to which all exponents are computed
LEADING = 8  # of a larger one


class Lyapunov(NamedTuple):
    """Lyapunov exponents in nats a step: the m leading ones of n."""

    exponents: np.ndarray  # [m] mean over rows, descending
    error: np.ndarray  # [m] standard error of that mean; NaN for one row
    rows: np.ndarray  # [R, m] of each row, descending
    size: int  # n
    transient: int  # steps left out at the start
    steps: int  # steps counted


@functools.partial(jax.jit, static_argnames="cell")
def _exponents(
    cell: Cell, params: Params, x: Array, before: Carry, frame: Array, transient: Array
) -> tuple[Array, Array]:
    def row(inputs: Any) -> tuple[Array, Array]:
        x, before = inputs
        z = cell.project(params, x, None)

        def advance(state: Any, inputs: Any) -> tuple[Any, Array]:
            frame, total, t = state
            s, step = vector_step(cell, params, *inputs)
            new, push = jax.linearize(step, s)
            frame, upper = jnp.linalg.qr(jax.vmap(push, 1, 1)(frame))
            logs = jnp.log(jnp.abs(jnp.diagonal(upper)))
            return (frame, total + jnp.where(t < transient, 0.0, logs), t + 1), new

        start = (frame, jnp.zeros(frame.shape[1], frame.dtype), jnp.zeros_like(transient))
        (_, total, _), new = lax.scan(advance, start, (before, z))
        return total, new

    return lax.map(row, (x, before))


def measure(
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

    Raises UsageError as `step_jacobians` does, or where the transient leaves no step.
    """
    window = window_of(seen, rows, first, steps)
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
    check_trajectory(new, window.joined, window.after, first)
    found = -np.sort(-np.asarray(total) / (time - transient), axis=1)
    error = np.full(leading, math.nan)
    if rows > 1:
        with np.errstate(invalid="ignore"):  # -inf, of a singular Jacobian
            error = found.std(axis=0, ddof=1) / math.sqrt(rows)
    return Lyapunov(found.mean(axis=0), error, found, size, transient, time - transient)


def sentences(measured: Lyapunov, name: str) -> list[str]:
    """What `measure` says of the layer called `name`.

    The largest exponent L, with standard error e: "converge" if L + 2e < 0, "diverge" if L - 2e > 0,
    neither in between; distances halve or double every log 2 / |L| steps. For one row e counts as
    0, and the sentence says so. Then the number of exponents above 0.
    """
    top, error = float(measured.exponents[0]), float(measured.error[0])
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
    positive = int((measured.exponents > 0).sum())
    counted = len(measured.exponents)
    of = f"{counted} exponents" if counted == measured.size else f"{counted} leading exponents"
    verb = "is" if positive == 1 else "are"
    return [
        begin + said,
        f"Of its {of} (the state has {measured.size} numbers), {positive} {verb} above 0.",
    ]


def _steps(rate: float) -> str:
    steps = math.log(2.0) / abs(rate)
    return "step" if steps == 1 else f"{steps:.2g} steps" if steps < 1000 else f"{steps:.1e} steps"


def draw(measured: Lyapunov, path: Path, *, title: str) -> None:
    """The Lyapunov exponents against their index, with the standard error of the mean over rows."""
    index = np.arange(1, len(measured.exponents) + 1)
    values, error = finite(measured.exponents), np.nan_to_num(finite(measured.error))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axis = figure.subplots()
    known = np.isfinite(measured.error).any()
    label = f"mean of {len(measured.rows)} sequences, standard error" if known else "one sequence"
    few = len(index) <= 64
    axis.errorbar(
        index,
        values,
        yerr=error if known else None,
        fmt="o-" if few else ".",
        ms=4 if few else 3,
        lw=0.7,
        elinewidth=1,
        capsize=2 if few else 0,
        color=BLUE,
        ecolor=ORANGE,
        label=label,
    )
    axis.axhline(0, color="black", lw=1)
    axis.set(
        xlabel=f"index (the state has {measured.size} numbers)",
        ylabel="Lyapunov exponent, nats a step",
        title=title,
    )
    whole_numbers(axis)
    plain(axis)
    axis.legend(**LEGEND)
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: a figure a layer, lyapunov_LAYER.png, after a transient of a quarter of the steps,
    20 at most; None where no layer has two steps without padding."""
    cell, said, figures = subject.probe.net.cell, [], []
    for layer in whole_layers(subject):
        if layer.steps < 2:
            continue
        size = joined(layer.seen.states, 2).shape[-1]
        found = measure(
            cell,
            layer.params,
            layer.seen,
            count=None if size <= LARGEST else LEADING,
            rows=layer.rows,
            transient=min(20, layer.steps // 4),
        )
        said += sentences(found, layer.name)
        file = f"lyapunov_{layer.file}.png"
        draw(found, folder / file, title=layer.name)
        caption = (
            f"{layer.name}: the Lyapunov exponents along real sequences (Benettin et al. 1980)."
        )
        figures.append((file, caption))
    return Findings(said, figures) if figures else None


SECTION = Section(80, "Lyapunov exponents", examine)
