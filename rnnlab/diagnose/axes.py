"""What the figures of several sections share: lines, legends, and how an axis is labelled."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from rnnlab.run.figure import COLOURS, GREY

FLOOR = 1e-30  # below it a curve on a logarithmic axis ends
LEGEND: dict[str, Any] = {"fontsize": 8, "framealpha": 0.85, "edgecolor": "none"}
LINES = (*COLOURS[:7], GREY)  # a line of the eighth, yellow, is hardly seen in print


def finite(values: Any) -> np.ndarray:
    """The values as floats, NaN where one is not finite: nothing is drawn there."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values), values, np.nan)


def log_y(axis: Axes, values: Sequence[np.ndarray]) -> None:
    """A logarithmic y axis over what is drawn, of at least two powers of ten."""
    positive = np.concatenate([np.ravel(v)[np.ravel(v) > FLOOR] for v in values] or [np.ones(1)])
    axis.set_yscale("log", nonpositive="mask")
    if positive.size:
        low, high = float(positive.min()), float(positive.max())
        if high < 100 * low:
            middle = math.sqrt(low * high)
            low, high = middle / 10, middle * 10
        axis.set_ylim(low / 1.6, high * 1.6)


def label_logarithms(axis: Axes) -> None:
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


def whole_numbers(axis: Axes) -> None:
    """Whole numbers along the x axis."""
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def cell_edges(values: np.ndarray, log: bool) -> np.ndarray:
    """[n + 1]: the borders between n neighbours on an axis, and one beyond each end; with `log` midway
    between their logarithms."""
    at = np.log(values) if log else values
    if len(at) == 1:
        edges = np.array([at[0] - 0.1, at[0] + 0.1])
    else:
        middle = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])
    return np.exp(edges) if log else edges


def number_points(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    """A mark at each (x, y) inside the axis, with its number from 1 on; numbers that would lie upon
    each other stand side by side."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    groups: list[tuple[np.ndarray, list[int]]] = []
    for number, (x, y) in enumerate(points, start=1):
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
