"""The figure of the loss against how many characters the model sees."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rnnlab.run.figure import BLUE, GREY, ORANGE, plain, save


def draw_context(memory: Any, path: Path, *, title: str, unit: str) -> None:
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
