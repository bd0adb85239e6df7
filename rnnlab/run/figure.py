"""What every figure has: colours, axes, the columns of a run's rows, and its file."""

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

# Not pyplot, whose backend and list of open figures belong to whoever imports this.
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.run.files import write_file

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


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG of so many dots an inch; it replaces `path` at once, never half-written. Raises
    StorageError if the disk refuses."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a folder's name may have any letter
        figure.savefig(image, dpi=dpi, format="png")
    write_file(path, image.getvalue())


def plain(axis: Axes) -> None:
    """A light grid, and no frame on the right and at the top."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
