"""Figures of a run."""

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

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3a923a", "#c03d3e", "#777777"


def _columns(rows: list[dict[str, Any]], split: str, name: str) -> tuple[list[int], list[float]]:
    pairs = [(r["step"], float(r[name])) for r in rows if r.get("split") == split and name in r]
    pairs = [(s, v) for s, v in pairs if math.isfinite(v)]
    return [s for s, _ in pairs], [v for _, v in pairs]


def _log_scale(axis: Axes) -> None:
    """A logarithmic y axis with plain numbers, also where it spans less than a power of ten."""
    if not any(value > 0 for line in axis.lines for value in np.asarray(line.get_ydata())):
        return
    axis.set_yscale("log", nonpositive="mask")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def curves(
    rows: list[dict[str, Any]], path: Path, *, title: str, clip_norm: float, unit: str
) -> None:
    """Loss, gradient norm with the threshold, share of clipped steps, and size of the updates.

    rows: those of metrics.jsonl. The figure replaces `path` at once, never half-written.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    loss, norm, clipped, ratio = axes.flat
    train = _columns(rows, "train", "loss")
    steps, values = _columns(rows, "valid", "loss")
    loss.plot(*train, color=BLUE, lw=1, alpha=0.8, label="training")
    if values:
        loss.plot(steps, values, "o-", ms=3, color=ORANGE, label="validation, whole held-out text")
    extra = _columns(rows, "valid", "loss_random_windows")
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
            label=f"best {values[best]:.4f} at step {steps[best]}",
        )
        # The first steps, near log V, would flatten all that follows.
        seen = values + train[1] + extra[1]
        low, top = min(seen), 2 * values[best]
        if max(seen) > top > low:
            loss.set_ylim(low - 0.05 * (top - low), top)
    loss.set(ylabel=f"nats per {unit}", title="loss")

    norm.plot(
        *_columns(rows, "train", "grad_norm_max"), color=BLUE, lw=0.7, alpha=0.5, label="largest"
    )
    norm.plot(*_columns(rows, "train", "grad_norm"), color=BLUE, lw=1.3, label="mean")
    if math.isfinite(clip_norm):
        norm.axhline(clip_norm, color=RED, ls="--", lw=1, label=f"threshold T = {clip_norm:g}")
    norm.set(ylabel="norm before clipping", title="gradient norm")
    _log_scale(norm)

    steps, values = _columns(rows, "train", "clipped")
    clipped.plot(steps, [100 * v for v in values], color=GREEN, lw=1)
    clipped.set(ylabel="% of steps", xlabel="step", title="steps clipped", ylim=(-3, 103))

    ratio.plot(*_columns(rows, "train", "update_ratio"), color=GREY, lw=1)
    ratio.set(ylabel="|update| / |parameters|", xlabel="step", title="relative size of the updates")
    _log_scale(ratio)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        for line in axis.lines:
            if len(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set(marker="o", markersize=4)  # a line through one point shows nothing
    for axis in (loss, norm):
        axis.legend(loc="upper right", fontsize=8, framealpha=0.85, edgecolor="none")
    figure.suptitle(title, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a folder's name may have any letter
        figure.savefig(part, dpi=150, format="png")
    os.replace(part, path)
