"""curves.png: the loss, the gradient norm, the clipping and the size of the updates of one run."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rnnlab.run.figure import BLUE, GREEN, GREY, ORANGE, RED, columns, log_scale, plain, save


def draw_curves(
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
        plain(axis)
        for line in axis.lines:
            if len(line.get_xdata()) == 1 and line.get_marker() == "None":
                line.set(marker="o", markersize=4)  # a line through one point shows nothing
    for axis in (loss, norm):
        axis.legend(loc="upper right", fontsize=8, framealpha=0.85, edgecolor="none")
    figure.suptitle(title, parse_math=False)
    save(figure, path)
