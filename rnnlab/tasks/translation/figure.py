"""The figure of a translation: where the decoder looked, for the verb show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnnlab.run.figure import save


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
