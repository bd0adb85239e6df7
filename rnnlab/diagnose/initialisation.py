"""How the gradient survives k steps at initialisation, over the scale of W_h and that of the inputs.

The gradient of <v, s_k> by s_0 is P^T v, with P = J_{k-1} ... J_0 the product of the Jacobians of
the state (`trajectory`) from s_0 = 0 on, and v a random unit vector. Its norm has the same
distribution as |P v|, since P and P^T have the same singular values and v no preferred direction;
|P v| is what is computed, in one forward pass that yields it for every k and, normalised after each
step, leaves no float's range. The border between vanishing and exploding gradients (Bengio et al.
1994; Pascanu et al. 2013) is where its logarithm is 0.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab import cells
from rnnlab.diagnose.axes import (
    LEGEND,
    LINES,
    cell_edges,
    finite,
    label_logarithms,
    number_points,
    whole_numbers,
)
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.diagnose.trajectory import vector_step
from rnnlab.diagnose.wording import power_of_ten
from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.recurrence.leaves import inexact
from rnnlab.run.figure import MARKERS, plain, save
from rnnlab.types import Array, Cell, Params

SATURATED = 0.95  # |y| above which an output of tanh counts as saturated: its slope is below 0.1
# Specifications of kernel_h, and "preset:...": all that of a peer library.
SCHEMES = (
    "orthogonal",
    "glorot_uniform",
    "lecun_normal",
    "he_normal",
    "uniform:0.08",
    "identity:1.0",
    "spectral:1.1",
    "preset:torch",
)


class Scan(NamedTuple):
    """log10 of the norm of the gradient after k steps, over a grid of G scales of W_h, I of the inputs."""

    cell: str
    hidden: int
    steps: int  # k
    draws: int  # of weights, inputs and v, the same at every place of the grid
    scales_h: np.ndarray  # [G], of kernel_h as the cell draws it
    scales_x: np.ndarray  # [I], of unit Gaussian inputs through kernel_x as the cell draws it
    log10: np.ndarray  # [G, I] mean over draws
    spread: np.ndarray  # [G, I] standard deviation over draws
    saturated: np.ndarray  # [G, I] share of outputs with |y| > SATURATED, over units, steps, draws


class Curve(NamedTuple):
    """The same for one initialisation scheme, against the number of steps."""

    scheme: str
    log10: np.ndarray  # [K] mean over draws after k = 1 .. K steps
    spread: np.ndarray  # [K] standard deviation over draws
    # Root mean square of the entries of kernel_h, kernel_x over that of the scan's own: where the
    # scheme lies in its map, as far as two numbers tell
    scale_h: float
    scale_x: float


def _growth(cell: Cell, params: Params, x: Array, v: Array) -> tuple[Array, Array]:
    """(log10 |J_{k-1} ... J_0 v| for k = 1 .. K, the share of saturated outputs at each step), [K]."""

    def advance(state: Any, z: Any) -> tuple[Any, tuple[Array, Array]]:
        carry, u, total = state
        s, step = vector_step(cell, params, carry, z)
        _, u = jax.jvp(step, (s,), (u,))
        norm = jnp.linalg.norm(u)
        u = u / jnp.where(norm > 0, norm, 1)
        total = total + jnp.log10(norm)
        carry, y = cell.step(params, carry, z)
        return (carry, u, total), (total, jnp.mean(jnp.abs(y) > SATURATED))

    start = (cell.carry(1, x.dtype), v, jnp.zeros((), x.dtype))
    return lax.scan(advance, start, cell.project(params, x, None))[1]


class _Draws(NamedTuple):
    params: Params  # [draws, ...] each
    x: Array  # [draws, K, 1, D]
    v: Array  # [draws, n]


def _drawn(cell: Cell, input_size: int, steps: int, draws: int, seed: int, dtype: Any) -> _Draws:
    # Not under jit: an operation at a time, random numbers compile once for all schemes.
    key_p, key_x, key_v = jax.random.split(jax.random.key(seed), 3)
    carry = jax.eval_shape(lambda: cell.carry(1, dtype))
    size = sum(a.size for a in jax.tree.leaves(carry) if inexact(a))
    drawn = [cell.init(key, input_size, dtype) for key in jax.random.split(key_p, draws)]
    v = jax.random.normal(key_v, (draws, size), dtype)
    return _Draws(
        params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn),
        x=jax.random.normal(key_x, (draws, steps, 1, input_size), dtype),
        v=v / jnp.linalg.norm(v, axis=1, keepdims=True),
    )


def _running(cell: Cell) -> Cell:
    """The cell without its initial values: those that differ in them alone are one program."""
    return cell._replace(init=None)


@functools.partial(jax.jit, static_argnames="cell")
def _scanned(
    cell: Cell, drawn: _Draws, scales_h: Array, scales_x: Array
) -> tuple[Array, Array, Array]:
    def place(scales: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        scale_h, scale_x = scales

        def one(draw: _Draws) -> tuple[Array, Array]:
            params = draw.params | {"kernel_h": scale_h * draw.params["kernel_h"]}
            logs, saturated = _growth(cell, params, scale_x * draw.x, draw.v)
            return logs[-1], jnp.mean(saturated)

        logs, saturated = jax.vmap(one)(drawn)
        return jnp.mean(logs), jnp.std(logs), jnp.mean(saturated)

    grid = jnp.meshgrid(scales_h, scales_x, indexing="ij")
    found = lax.map(place, (grid[0].reshape(-1), grid[1].reshape(-1)))
    return jax.tree.map(lambda a: a.reshape(grid[0].shape), found)


@functools.partial(jax.jit, static_argnames="cell")
def _curve(cell: Cell, drawn: _Draws) -> tuple[Array, Array]:
    logs, _ = jax.vmap(lambda draw: _growth(cell, draw.params, draw.x, draw.v))(drawn)
    return jnp.mean(logs, axis=0), jnp.std(logs, axis=0)


def _kernels(params: Params) -> list[float]:
    return [float(jnp.sqrt(jnp.mean(params[name] ** 2))) for name in ("kernel_h", "kernel_x")]


def _sizes(cell: Cell, input_size: int, steps: int, draws: int) -> None:
    for name, value in (("input_size", input_size), ("steps", steps), ("draws", draws)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size, jnp.float32))
    for kernel in ("kernel_h", "kernel_x"):
        if kernel not in shapes:
            raise UsageError(
                f"cell '{cell.name}' has no parameter '{kernel}': there is nothing to scale"
            )


def measure(
    cell: Cell,
    *,
    input_size: int,
    scales_h: Sequence[float],
    scales_x: Sequence[float],
    steps: int = 50,
    draws: int = 8,
    seed: int = 0,
    dtype: Any = jnp.float32,
) -> Scan:
    """The norm of the gradient after `steps` steps, at each scale of W_h and each of the inputs.

    cell: drawn with its own initialisation, which at scale 1 is what it draws: with kernel_h_init
        "orthogonal" and init_per_gate, the block of each gate is orthogonal times the scale.
    input_size: D. The inputs are independent standard normal numbers times their scale.

    All of the grid is one compiled program. A gradient that is exactly 0 in a draw gives -inf.

    Raises UsageError for sizes below 1, scales that are not finite, or a cell without kernels by
    the names kernel_h and kernel_x.
    """
    _sizes(cell, input_size, steps, draws)
    axes = [np.asarray(scales, float).reshape(-1) for scales in (scales_h, scales_x)]
    for name, axis in zip(("scales_h", "scales_x"), axes, strict=True):
        if not (axis.size and np.isfinite(axis).all()):
            raise UsageError(f"{name} must be finite numbers, got {list(axis)}")
    drawn = _drawn(cell, input_size, steps, draws, seed, dtype)
    at = [jnp.asarray(axis, dtype) for axis in axes]
    found = [np.asarray(a, float) for a in _scanned(_running(cell), drawn, *at)]
    return Scan(cell.name, cell.hidden, steps, draws, axes[0], axes[1], *found)


def schemes(name: str, hidden: int, wanted: Sequence[str] | None = None) -> dict[str, Cell]:
    """The cell called `name` under each scheme: a specification of kernel_h
    (`rnnlab.cells.parts.initialisers`) with the cell's other defaults, or "preset:torch", say, for a
    preset of the cell.

    wanted: the schemes; None: those of SCHEMES, without a preset that the cell does not have.

    Raises UsageError for a scheme that is neither.
    """
    usual = cells.get(name, hidden=hidden)
    found = {}
    for scheme in SCHEMES if wanted is None else wanted:
        kind, _, rest = scheme.partition(":")
        try:
            if kind == "preset":
                found[scheme] = cells.get(name, hidden=hidden, preset=rest)
            else:
                drawn = cells.get(name, hidden=hidden, kernel_h_init=scheme)
                found[scheme] = usual._replace(init=drawn.init)
        except UsageError:
            if wanted is not None or kind != "preset":
                raise
    return found


def measure_schemes(
    cell: Cell,
    by_scheme: Mapping[str, Cell],
    *,
    input_size: int,
    steps: int = 50,
    draws: int = 8,
    seed: int = 0,
    dtype: Any = jnp.float32,
) -> list[Curve]:
    """For each scheme the norm of the gradient after k = 1 .. `steps` steps, at input scale 1.

    cell: that of the scan, by whose kernels the schemes' are measured.
    by_scheme: the same cell under other initialisations, as from `schemes`.

    Raises UsageError as `measure` does.
    """
    for each in (cell, *by_scheme.values()):
        _sizes(each, input_size, steps, draws)
    unit = _kernels(_drawn(cell, input_size, steps, draws, seed, dtype).params)
    found = []
    for scheme, each in by_scheme.items():
        drawn = _drawn(each, input_size, steps, draws, seed, dtype)
        logs, spread = (np.asarray(a, float) for a in _curve(_running(each), drawn))
        pairs = zip(_kernels(drawn.params), unit, strict=True)
        found.append(Curve(scheme, logs, spread, *(a / b if b else math.nan for a, b in pairs)))
    return found


def border(measured: Scan, scale_x: float) -> list[float]:
    """The scales of W_h, ascending, at which log10 crosses 0 at the grid's input scale nearest to
    `scale_x`, interpolated linearly between neighbours on the grid."""
    order = np.argsort(measured.scales_h)
    at, logs = measured.scales_h[order], measured.log10[order, nearest(measured, scale_x)]
    crossed = []
    for left, right, low, high in zip(at, at[1:], logs, logs[1:], strict=False):
        if low == 0.0:
            crossed.append(float(left))
        elif low * high < 0 and math.isfinite(low) and math.isfinite(high):
            crossed.append(float(left + (right - left) * low / (low - high)))
    return crossed + ([float(at[-1])] if logs[-1] == 0.0 else [])


def nearest(measured: Scan, scale_x: float) -> int:
    """The index of the grid's input scale nearest to `scale_x`."""
    return int(np.abs(measured.scales_x - scale_x).argmin())


def sentences(measured: Scan, by_scheme: Sequence[Curve]) -> list[str]:
    """What `measure` and `measure_schemes` say: where log10 crosses 0 at the input scale nearest to 1;
    and for each scheme, by descending log10 at its last step, how the gradient fares: it "explodes" if
    log10 > 1, "vanishes" if < -1, and else "keeps its size within a factor of ten".
    """
    scale = measured.scales_x[nearest(measured, 1.0)]
    places = " and ".join(f"{place:.3g}" for place in border(measured, 1.0))
    low, high = measured.scales_h.min(), measured.scales_h.max()
    begin = (
        f"A {measured.cell} of {measured.hidden} units, inputs of scale {scale:.3g}, "
        f"{measured.steps} steps: "
    )
    if places:
        said = [f"{begin}the gradient neither grows nor shrinks at a scale of W_h of {places}."]
    else:
        said = [
            f"{begin}the gradient crosses no border between vanishing and exploding for scales of W_h "
            f"from {low:.3g} to {high:.3g}."
        ]
    for curve in sorted(by_scheme, key=lambda curve: (-curve.log10[-1], curve.scheme)):
        end = float(curve.log10[-1])
        if end > 1:
            fate = "explodes"
        elif end < -1:
            fate = "vanishes"
        else:
            fate = "keeps its size within a factor of ten"
        said.append(
            f"With {curve.scheme} it {fate}: its norm is {power_of_ten(end)} after {len(curve.log10)} steps."
        )
    return said


def draw(measured: Scan, curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Left, the map of the gradient's norm after k steps over the scales, with its border (norm 1),
    where half of the outputs are saturated, and the schemes by number; right, a curve a scheme."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    order_h, order_x = np.argsort(measured.scales_h), np.argsort(measured.scales_x)
    axes = measured.scales_h[order_h], measured.scales_x[order_x]
    logs = finite(measured.log10)[order_h][:, order_x].T
    saturated = measured.saturated[order_h][:, order_x].T
    known = np.abs(logs[np.isfinite(logs)])
    limit = float(np.quantile(known, 0.9)) if known.size and known.max() > 0 else 1.0
    log = [bool((axis > 0).all() and axis[-1] > 4 * axis[0]) for axis in axes]
    left.set_facecolor("#dddddd")  # where the gradient is 0
    edges = [cell_edges(axis, on) for axis, on in zip(axes, log, strict=True)]
    mesh = left.pcolormesh(*edges, logs, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True)
    scales = zip((left.set_xscale, left.set_yscale), (left.xaxis, left.yaxis), log, strict=True)
    for set_scale, one, on in scales:
        if on:
            set_scale("log")
            one.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            one.set_major_formatter("{x:g}")
            one.set_minor_formatter(NullFormatter())
    marks = []
    if min(logs.shape) > 1:
        for values, level, style, label in (
            (logs, 0.0, "-", "border: norm 1"),
            (saturated, 0.5, ":", "half of the outputs beyond 0.95"),
        ):
            seen = values[np.isfinite(values)]
            if seen.size and seen.min() < level < seen.max():
                left.contour(
                    *axes, values, levels=[level], colors="black", linestyles=style, linewidths=2
                )
                marks.append(left.plot([], [], style, color="black", lw=2, label=label)[0])
    number_points(left, [(curve.scale_h, curve.scale_x) for curve in curves])
    if marks:
        left.legend(handles=marks, loc="lower right", **LEGEND)
    left.set(xlabel="scale of $W_h$", ylabel="scale of the inputs")
    left.set_title(f"gradient after {measured.steps} steps", fontsize=10)
    bar = figure.colorbar(mesh, ax=left, extend="both")
    bar.set_label("norm of the gradient, mean of the logarithm")
    label_logarithms(bar.ax)
    for number, curve in enumerate(curves):
        k = np.arange(1, len(curve.log10) + 1)
        colour, marker = LINES[number % 8], MARKERS[number % 8]
        label = f"{number + 1}  {curve.scheme}"
        every = (number % 4, max(1, len(k) // 8))
        right.plot(
            k, finite(curve.log10), color=colour, marker=marker, ms=5, lw=1.4,
            markevery=every if len(k) > 4 else 1, label=label,
        )  # fmt: skip
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="number of steps $k$", ylabel="norm of the gradient")
    right.set_title("each scheme, inputs of scale 1", fontsize=10)
    label_logarithms(right)
    whole_numbers(right)
    plain(right)
    if curves:
        right.legend(**LEGEND)
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: initialisation.png; None of a run, as it is about what a model starts from, and of
    a cell without kernels by the names kernel_h and kernel_x."""
    first = taps.units(subject.params)[0]
    if subject.is_run or not {"kernel_x", "kernel_h"} <= first.keys():
        return None
    cell, model = subject.probe.net.cell, subject.config.model
    size, steps = first["kernel_x"].shape[0], 50
    found = measure(
        cell,
        input_size=size,
        scales_h=np.linspace(0.1, 2.5, 21).tolist(),
        scales_x=np.geomspace(0.05, 10, 19).tolist(),
        steps=steps,
    )
    by_scheme = schemes(model.cell, model.hidden)
    curves = measure_schemes(cell, by_scheme, input_size=size, steps=steps)
    title = f"{model.cell}, {model.hidden} units"
    draw(found, curves, folder / "initialisation.png", title=title)
    caption = (
        "Left: log10 of the norm of the gradient after 50 steps over the scales of W_h and of Gaussian "
        "inputs, with the border between vanishing and exploding. Right: by initialisation scheme."
    )
    return Findings(sentences(found, curves), [("initialisation.png", caption)])


SECTION = Section(100, "Initialisations", examine)
