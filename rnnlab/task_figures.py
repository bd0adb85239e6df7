"""Figures of what a task's model answers, for the verb show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from rnnlab.media import evenly, gif
from rnnlab.plots import save


def attention(
    weights: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], path: Path
) -> None:
    """Where a decoder looked, [T, S]: a row for each symbol it said, a column for each it read."""
    size = (2.0 + 0.24 * len(columns), 1.6 + 0.24 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    shown = [text.replace("▁", "_") for text in columns], [t.replace("▁", "_") for t in rows]
    upright = max(map(len, columns)) < 3
    axis.set_xticks(range(len(columns)), shown[0], rotation=0 if upright else 90, parse_math=False)
    axis.set_yticks(range(len(rows)), shown[1], parse_math=False)
    axis.tick_params(length=0)
    axis.set(xlabel="source", ylabel="said")
    axis.set_title("Weight of attention", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8, label="weight")
    save(figure, path)


def confusion(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix, [true, answered]: of each true class the share of each answer, in percent."""
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    shares = 100 * counts / totals
    side = 2.6 + 0.5 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            colour = "white" if share > 60 else "black"
            text = f"{share:.0f}" if share >= 0.5 else "<1"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)
    axis.set_yticks(range(len(classes)), classes, parse_math=False)
    axis.tick_params(length=0)
    axis.set(xlabel="answered", ylabel="true")
    right = 100 * np.trace(counts) / max(counts.sum(), 1)
    axis.set_title(f"{right:.1f}% of {counts.sum():,} are right", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8, label="% of the true class")
    save(figure, path)


TRUE, FOUND = "#009e73", "#d55e00"  # of Okabe and Ito's colours; the second is drawn dashed


def tracks(frames: np.ndarray, boxes: np.ndarray, found: np.ndarray, folder: Path) -> list[Path]:
    """tracking.gif and tracking.png of videos, uint8 [T, B, side, side], with the true boxes and those
    found, (cx, cy, w, h) in shares of the side, [T, B, 4]: all frames, and 8 of them side by side."""
    time, rows, side = frames.shape[:3]

    def panel(axis: Any, t: int, row: int) -> None:
        axis.imshow(frames[t, row], cmap="gray", vmin=0, vmax=255, extent=(0, side, side, 0))
        for kind, colour, line in ((boxes, TRUE, "-"), (found, FOUND, "--")):
            x, y, w, h = kind[t, row] * side
            w, h = max(w, 0.0), max(h, 0.0)
            place = (x - w / 2, y - h / 2)
            axis.add_patch(Rectangle(place, w, h, fill=False, ec=colour, ls=line, lw=1.8))
        axis.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))

    handles = [
        Line2D([], [], color=TRUE, ls="-", label="true"),
        Line2D([], [], color=FOUND, ls="--", label="found"),
    ]

    def drawn(columns: list[tuple[int, int]], shape: tuple[int, int], titles: bool) -> Figure:
        figure = Figure(figsize=(1.5 * shape[1] + 0.2, 1.6 * shape[0] + 0.6), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False).ravel()
        for axis, (t, row) in zip(axes, columns, strict=True):
            panel(axis, t, row)
            if titles and row == 0:
                axis.set_title(f"frame {t + 1}", fontsize=9)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        return figure

    pictures = []
    for t in range(time):
        figure = drawn([(t, row) for row in range(rows)], (1, rows), titles=False)
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(f"frame {t + 1} of {time}", fontsize=9)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3])
    written = [folder / "tracking.gif", folder / "tracking.png"]
    gif(np.stack(pictures), written[0], milliseconds=200)
    chosen = evenly(time, 8)
    places = [(int(t), row) for row in range(rows) for t in chosen]
    save(drawn(places, (rows, len(chosen)), titles=True), written[1])
    return written
