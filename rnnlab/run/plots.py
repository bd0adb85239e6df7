"""Figures of a run: colours, axes, and the curves of training."""

import contextlib
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

# Not pyplot, whose backend and list of open figures belong to whoever imports this.
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.errors import StorageError

# Okabe and Ito's, which the colour-blind tell apart; with a marker each for print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
MARKERS = "osD^vPX*"
BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3a923a", "#c03d3e", "#777777"


def columns(rows: list[dict[str, Any]], split: str, name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of a metric in the rows of a split, where it is finite."""
    pairs = [(r["step"], float(r[name])) for r in rows if r.get("split") == split and name in r]
    pairs = [(s, v) for s, v in pairs if math.isfinite(v)]
    return [s for s, _ in pairs], [v for _, v in pairs]


def log_scale(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers, also where it spans less than a power of ten."""
    if not any(value > 0 for line in axis.lines for value in np.asarray(line.get_ydata())):
        return
    axis.set_yscale("log", nonpositive="mask")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def curves(
    rows: list[dict[str, Any]],
    path: Path,
    *,
    title: str,
    clip_norm: float,
    unit: str,
    measure: str = "nats",
    baseline: tuple[str, float] | None = None,
) -> None:
    """Loss, gradient norm with the threshold, share of clipped steps, and size of the updates.

    rows: those of metrics.jsonl. measure: what the loss counts, a unit. baseline: (name, loss), a
    line beside the loss. The figure replaces `path` at once, never half-written.
    """
    # Fixed margins: to find them by drawing would take as long again, for each member of a sweep.
    figure = Figure(figsize=(10, 6.4))
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.08, top=0.9, wspace=0.2, hspace=0.2)
    axes = figure.subplots(2, 2, sharex=True)
    loss, norm, clipped, ratio = axes.flat
    train = columns(rows, "train", "loss")
    steps, values = columns(rows, "valid", "loss")
    extra = columns(rows, "valid", "loss_random_windows")
    loss.plot(*train, color=BLUE, lw=1, alpha=0.8, label="training")
    if values:
        whole = ", whole held-out text" if extra[0] else ""
        loss.plot(steps, values, "o-", ms=3, color=ORANGE, label=f"validation{whole}")
    if extra[0]:
        loss.plot(*extra, "--", lw=1, color=ORANGE, alpha=0.7, label="validation, random windows")
    if values:
        best = min(range(len(values)), key=values.__getitem__)
        loss.plot(
            steps[best],
            values[best],
            "*",
            ms=11,
            mec="white",
            color=RED,
            ls="",
            label=f"best {values[best]:.4g} at step {steps[best]}",
        )
        # The first steps, near log V, would flatten all that follows.
        seen = values + train[1] + extra[1]
        low, top = min(seen), 2 * values[best]
        if baseline is not None:
            low, top = min(low, baseline[1]), max(top, 1.5 * baseline[1])
        if max(seen) > top > low:
            loss.set_ylim(low - 0.05 * (top - low), top)
    if baseline is not None:
        name, value = baseline
        loss.axhline(value, color=GREY, ls="--", lw=1, label=f"{name}: {value:.4g}")
    loss.set(ylabel=f"{measure} per {unit}", title="loss")

    norm.plot(
        *columns(rows, "train", "grad_norm_max"), color=BLUE, lw=0.7, alpha=0.5, label="largest"
    )
    norm.plot(*columns(rows, "train", "grad_norm"), color=BLUE, lw=1.3, label="mean")
    if math.isfinite(clip_norm):
        norm.axhline(clip_norm, color=RED, ls="--", lw=1, label=f"threshold T = {clip_norm:g}")
    norm.set(ylabel="norm before clipping", title="gradient norm")
    log_scale(norm)

    steps, values = columns(rows, "train", "clipped")
    clipped.plot(steps, [100 * v for v in values], color=GREEN, lw=1)
    clipped.set(ylabel="% of steps", xlabel="step", title="steps clipped", ylim=(-3, 103))

    ratio.plot(*columns(rows, "train", "update_ratio"), color=GREY, lw=1)
    ratio.set(ylabel="|update| / |parameters|", xlabel="step", title="relative size of the updates")
    log_scale(ratio)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        for line in axis.lines:
            if len(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set(marker="o", markersize=4)  # a line through one point shows nothing
    for axis in (loss, norm):
        axis.legend(loc="upper right", fontsize=8, framealpha=0.85, edgecolor="none")
    figure.suptitle(title, parse_math=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; it replaces `path` at once, never half-written. Raises StorageError if
    the disk refuses."""
    part = path.with_name(f".{path.name}.part")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Glyph"
            )  # a folder's name may have any letter
            figure.savefig(part, dpi=150, format="png")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


# ---- of a sweep: each takes the lines of `report.lines_of`


def plain(axis: Axes) -> None:
    """A light grid, and no frame on the right and at the top."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def context(memory: Any, path: Path, *, title: str, unit: str) -> None:
    """The loss against the number of characters the model sees, beside that with all of the text.

    memory: a `reading.Memory`. The bars are two standard errors of the difference from the latter.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.axhline(memory.full, color=ORANGE, lw=1.3, label=f"all before: {memory.full:.3f}")
    spread = [2 * error for error in memory.errors]
    axis.errorbar(
        memory.lengths, memory.losses, spread,
        fmt="o-", ms=4, lw=1.2, color=BLUE, elinewidth=1, label="the last n alone",
    )  # fmt: skip
    if memory.characters is not None:
        label = f"within 1% from n = {memory.characters} on"
        axis.axvline(memory.characters, color=GREY, ls="--", lw=1, label=label)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"n, the {unit}s the model sees", ylabel=f"nats per {unit}")
    axis.legend(fontsize=9, framealpha=0.85, edgecolor="none")
    axis.set_title(title, parse_math=False, fontsize=10)
    plain(axis)
    save(figure, path)
