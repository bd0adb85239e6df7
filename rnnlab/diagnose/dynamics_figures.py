"""Figures of `dynamics`, `fixed_points` and `initialisation`.

Each takes what the analysis returned, and a path that it replaces at once, never half-written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rnnlab.diagnose.dynamics import Lyapunov, Spectra
from rnnlab.diagnose.fixed_points import FixedPoints
from rnnlab.diagnose.initialisation import Curve, Scan
from rnnlab.run.figure import BLUE, COLOURS, GREY, MARKERS, ORANGE, plain, save

LEGEND: dict[str, Any] = {"fontsize": 8, "framealpha": 0.85, "edgecolor": "none"}
KINDS = 7  # shown apart, the others together
LINES = (*COLOURS[:7], GREY)  # a line of the eighth, yellow, is hardly seen in print


def _finite(values: Any) -> np.ndarray:
    values = np.asarray(values, float)
    return np.where(np.isfinite(values), values, np.nan)


def _powers(axis: Axes) -> None:
    """A y axis of logarithms, labelled with the numbers: powers of ten, or 1, 2 and 5 times these."""
    low, high = axis.get_ylim()
    if high - low > 2.5:
        axis.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"$10^{{{v:.0f}}}$"))
        return
    powers = np.arange(np.floor(low), np.ceil(high))
    places = (powers[:, None] + np.log10([1, 2, 5])).reshape(-1)
    if ((places >= low) & (places <= high)).sum() > 1:
        axis.yaxis.set_major_locator(FixedLocator(places.tolist()))
    # Rounded first: :.3g alone would write 5000 as 5e+03.
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{float(f'{10**v:.3g}'):g}"))


def _whole(axis: Axes) -> None:
    """Whole numbers along the x axis."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def jacobians(found: Spectra, path: Path, *, title: str) -> None:
    """Singular values and spectral radius of J_t against t, and below them its condition number.

    Lines and bands are geometric means over the rows of each quantile.
    """
    with np.errstate(divide="ignore"):
        logs = np.log10(found.singular)
        condition = np.log10(found.condition)
        radius = np.log10(found.radius)
    # -inf where a value is 0: it has no place on the axis
    levels = _finite(np.quantile(logs, (0, 0.25, 0.5, 0.75, 1), axis=-1, method="nearest").mean(1))
    steps = found.first + np.arange(levels.shape[1])
    at = found.first + found.every * np.arange(radius.shape[1])
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    upper.fill_between(
        steps, levels[0], levels[4], color=BLUE, alpha=0.15, lw=0, label="all singular values"
    )
    upper.fill_between(
        steps, levels[1], levels[3], color=BLUE, alpha=0.3, lw=0, label="their middle half"
    )
    upper.plot(steps, levels[4], color=BLUE, lw=1.5, label="largest singular value")
    upper.plot(steps, levels[2], color=BLUE, lw=1.2, ls="--", label="median singular value")
    upper.plot(
        at, _finite(radius.mean(0)), "s-", ms=3.5, lw=1, color=ORANGE, label="spectral radius"
    )
    upper.axhline(0, color="black", lw=0.8)
    upper.set(ylabel="singular value, spectral radius of $J_t$", title=title)
    _powers(upper)
    figure.legend(loc="outside lower center", ncols=3, **LEGEND)
    lower.plot(steps, _finite(condition.mean(0)), color=GREY, lw=1.3)
    lower.set(ylabel="condition number", xlabel="time step $t$")
    _whole(lower)
    _powers(lower)
    for axis in (upper, lower):
        plain(axis)
    save(figure, path)


def products(found: Spectra, path: Path, *, title: str) -> None:
    """Largest and geometric mean singular value of the product of k Jacobians against k, beside a^k,
    with a the geometric mean of their spectral radii. Thin lines: each row; thick: geometric mean.
    """
    k = np.arange(1, found.log10_largest.shape[1] + 1)
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    axis = figure.subplots()
    shown = (
        (found.log10_largest, COLOURS[0], MARKERS[0], "largest singular value"),
        (found.log10_mean, COLOURS[1], MARKERS[1], "geometric mean of the singular values"),
    )
    for logs, colour, marker, label in shown:
        if len(logs) > 1:
            axis.plot(k, _finite(logs).T, color=colour, lw=0.6, alpha=0.45)
        every = max(1, len(k) // 10)
        mean = _finite(logs.mean(0))
        gone = np.flatnonzero(np.isnan(mean))
        if len(gone):
            label += f" (0 from k = {k[gone[0]]} on)"
        axis.plot(k, mean, color=colour, marker=marker, ms=4, lw=1.8, markevery=every, label=label)
    rate = found.log10_rate
    if np.isfinite(rate):
        label = f"linear case $a^k$, a = {10**rate:.3g}"
        axis.plot(k, rate * k, "--", color="black", lw=1.3, label=label)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(
        xlabel="number of steps $k$",
        ylabel=f"singular value of $J_{{t+k-1}} \\cdots J_t$,  t = {found.first}",
        title=title,
    )
    _powers(axis)
    _whole(axis)
    plain(axis)
    axis.legend(**LEGEND)
    save(figure, path)


def lyapunov(found: Lyapunov, path: Path, *, title: str) -> None:
    """The Lyapunov exponents against their index, with the standard error of the mean over rows."""
    index = np.arange(1, len(found.exponents) + 1)
    values, error = _finite(found.exponents), np.nan_to_num(_finite(found.error))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axis = figure.subplots()
    known = np.isfinite(found.error).any()
    label = f"mean of {len(found.rows)} sequences, standard error" if known else "one sequence"
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
        xlabel=f"index (the state has {found.size} numbers)",
        ylabel="Lyapunov exponent, nats a step",
        title=title,
    )
    _whole(axis)
    plain(axis)
    axis.legend(**LEGEND)
    save(figure, path)


def _by_kind(points: FixedPoints) -> dict[str, list[int]]:
    """The points by kind, the most frequent first; those beyond KINDS together as "other"."""
    groups: dict[str, list[int]] = {}
    for index, kind in enumerate(points.kinds):
        groups.setdefault(kind, []).append(index)
    order = sorted(groups, key=lambda kind: -len(groups[kind]))
    shown = {kind: groups[kind] for kind in order[:KINDS]}
    rest = [index for kind in order[KINDS:] for index in groups[kind]]
    return shown | ({"of another kind": rest} if rest else {})


def eigenvalues(points: FixedPoints, path: Path, *, title: str) -> None:
    """The eigenvalues of the Jacobian at every point, in the complex plane with the unit circle."""
    figure = Figure(figsize=(6.8, 6.2), layout="constrained")
    axis = figure.subplots()
    axis.add_patch(Circle((0, 0), 1, fill=False, color="black", lw=1))
    axis.axhline(0, color=GREY, lw=0.6)
    axis.axvline(0, color=GREY, lw=0.6)
    for number, (kind, group) in enumerate(_by_kind(points).items()):
        values = points.eigenvalues[group].reshape(-1)
        axis.plot(
            np.real(values),
            np.imag(values),
            ls="",
            marker=MARKERS[number],
            ms=5,
            mfc="none",
            mew=1,
            color=LINES[number],
            label=f"{len(group)} x {kind}",
        )
    sizes = np.abs([np.real(points.eigenvalues), np.imag(points.eigenvalues)])
    limit = 1.08 * max(1.05, float(sizes[np.isfinite(sizes)].max(initial=0)))
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    axis.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$")
    plain(axis)
    if len(points.kinds):
        figure.legend(loc="outside lower center", ncols=1, **LEGEND)
    else:
        axis.text(0, 0, "no point found", ha="center", va="center", color=GREY)
    save(figure, path)


def portrait(states: np.ndarray, points: FixedPoints, path: Path, *, title: str) -> None:
    """Trajectories and fixed points in the first two principal components of the trajectories.

    states: [T, B, n], as `dynamics.joined(seen.states, 2)`.
    """
    flat = states.reshape(-1, states.shape[-1])
    flat = flat[np.isfinite(flat).all(axis=1)]
    centre = flat.mean(axis=0)
    _, sizes, basis = np.linalg.svd(flat - centre, full_matrices=False)
    share = sizes**2 / max((sizes**2).sum(), np.finfo(float).tiny)
    plane = np.zeros((states.shape[-1], 2))  # a state of one number has no second component
    plane[:, : min(2, len(basis))] = basis[:2].T
    share = [*share, 0.0][:2]

    def place(s: np.ndarray) -> np.ndarray:
        return (s - centre) @ plane

    figure = Figure(figsize=(6.8, 5.8), layout="constrained")
    axis = figure.subplots()
    for row in range(states.shape[1]):
        label = "trajectories" if row == 0 else None
        axis.plot(*place(states[:, row]).T, color=GREY, lw=0.6, alpha=0.4, label=label)
    for number, line in enumerate(points.lines):
        at = place(points.states[list(line.members)])
        along = np.linalg.svd(at - at.mean(axis=0))[2][0]
        label = "candidate line attractor" if number == 0 else None
        order = np.argsort(at @ along)
        axis.plot(*at[order].T, color="black", lw=2.2, alpha=0.7, zorder=2.5, label=label)
    for number, (kind, group) in enumerate(_by_kind(points).items()):
        axis.plot(
            *place(points.states[group]).T,
            ls="",
            marker=MARKERS[number],
            ms=7,
            mec="white",
            mew=0.8,
            color=LINES[number],
            zorder=3,
            label=f"{len(group)} x {kind}",
        )
    axis.set(
        xlabel=f"first principal component ({100 * share[0]:.0f}% of the variance)",
        ylabel=f"second principal component ({100 * share[1]:.0f}%)",
        title=title,
    )
    plain(axis)
    figure.legend(loc="outside lower center", ncols=1, **LEGEND)
    save(figure, path)


# ---- initialisation


def _edges(values: np.ndarray, log: bool) -> np.ndarray:
    """The borders between neighbours on an axis, and one beyond each end."""
    at = np.log(values) if log else values
    if len(at) == 1:
        edges = np.array([at[0] - 0.1, at[0] + 0.1])
    else:
        middle = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
    return np.exp(edges) if log else edges


def _labelled(axis: Axes, curves: Sequence[Curve]) -> None:
    """A mark for each scheme where it lies in the map, with its number; numbers that would lie upon
    each other stand side by side."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    groups: list[tuple[np.ndarray, list[int]]] = []
    for number, curve in enumerate(curves, start=1):
        x, y = curve.scale_h, curve.scale_x
        if not (left <= x <= right and bottom <= y <= top):
            continue
        at = axis.transAxes.inverted().transform(axis.transData.transform((x, y)))
        near = next((g for g in groups if np.abs(g[0] - at).max() < 0.035), None)
        if near:
            near[1].append(number)
        else:
            groups.append((at, [number]))
        axis.plot(x, y, "o", ms=6, color="white", mec="black", mew=1)
    for index, (at, numbers) in enumerate(groups):
        beside = [other for other, _ in groups[:index] if (np.abs(other - at) < (0.16, 0.06)).all()]
        axis.annotate(
            ", ".join(map(str, numbers)),
            tuple(at),
            (0, 8 + 12 * len(beside)),  # above the text of those beside it
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        )


def initialisation(found: Scan, curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Left, the map of the gradient's norm after k steps over the scales, with its border (norm 1),
    where half of the outputs are saturated, and the schemes by number; right, a curve a scheme."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    order_h, order_x = np.argsort(found.scales_h), np.argsort(found.scales_x)
    axes = found.scales_h[order_h], found.scales_x[order_x]
    logs = _finite(found.log10)[order_h][:, order_x].T
    saturated = found.saturated[order_h][:, order_x].T
    known = np.abs(logs[np.isfinite(logs)])
    limit = float(np.quantile(known, 0.9)) if known.size and known.max() > 0 else 1.0
    log = [bool((axis > 0).all() and axis[-1] > 4 * axis[0]) for axis in axes]
    left.set_facecolor("#dddddd")  # where the gradient is 0
    edges = [_edges(axis, on) for axis, on in zip(axes, log, strict=True)]
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
    _labelled(left, curves)
    if marks:
        left.legend(handles=marks, loc="lower right", **LEGEND)
    left.set(xlabel="scale of $W_h$", ylabel="scale of the inputs")
    left.set_title(f"gradient after {found.steps} steps", fontsize=10)
    bar = figure.colorbar(mesh, ax=left, extend="both")
    bar.set_label("norm of the gradient, mean of the logarithm")
    _powers(bar.ax)
    for number, curve in enumerate(curves):
        k = np.arange(1, len(curve.log10) + 1)
        colour, marker = LINES[number % 8], MARKERS[number % 8]
        label = f"{number + 1}  {curve.scheme}"
        every = (number % 4, max(1, len(k) // 8))
        right.plot(
            k, _finite(curve.log10), color=colour, marker=marker, ms=5, lw=1.4,
            markevery=every if len(k) > 4 else 1, label=label,
        )  # fmt: skip
    right.axhline(0, color="black", lw=0.8)
    right.set(xlabel="number of steps $k$", ylabel="norm of the gradient")
    right.set_title("each scheme, inputs of scale 1", fontsize=10)
    _powers(right)
    _whole(right)
    plain(right)
    if curves:
        right.legend(**LEGEND)
    figure.suptitle(title, parse_math=False)
    save(figure, path)
