"""The figure of a classifier of clips: its confusion matrix, for the verb show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnnlab.run.figure import save


def confusion(counts: np.ndarray, *, names: Sequence[str], path: Path) -> None:
    """A confusion matrix: counts int [K, K], a row for each true class and a column for each answer.

    A cell is as dark as its share of the row, and has its count, unless the classes are too many for
    numbers to be read.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes, whole = len(names), max(int(counts.sum()), 1)
    side = 2.2 + (0.52 if classes <= 30 else 0.16) * classes
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    small = 9 if classes <= 30 else 6
    how = {"fontsize": small, "parse_math": False}
    axis.set_xticks(range(classes), names, rotation=90, **how)
    axis.set_yticks(range(classes), names, **how)
    axis.tick_params(length=0)
    axis.set(xlabel="answer", ylabel="true class")
    if classes <= 30:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = str(counts[row, column])
            axis.text(column, row, number, ha="center", va="center", color=colour, fontsize=9)
    right = 100 * np.trace(counts) / whole
    axis.set_title(f"{right:.1f}% of {whole} right", fontsize=11)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the true class")
    save(figure, path)
