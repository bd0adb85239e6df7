"""What training saw of its own gradients, with `diagnose.every`: the rows of diagnosis.jsonl."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose.axes import FLOOR
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.recurrence.activations import BEYOND
from rnnlab.run.figure import COLOURS, MARKERS, plain, save


def draw(looks: Sequence[dict[str, Any]], path: Path) -> None:
    """The looks of `diagnose.every`: how far back the gradient went, and saturation, step by step.

    A panel a layer: log10 of |dL/dh_t|, against the steps before the window's end.
    """
    layers = list(looks[0]["flow"])
    steps = [look["step"] for look in looks]
    saturated = any(look["saturated"][layer] for look in looks for layer in layers)
    figure = Figure(
        figsize=(4.6 * len(layers) + 0.8, 6.4 if saturated else 3.6), layout="constrained"
    )
    panels = figure.subplots(1 + saturated, len(layers), squeeze=False, sharex=True)
    grids = {}
    for layer in layers:
        parts = looks[0]["flow"][layer]
        name = "h" if "h" in parts else next(iter(parts))
        rows = np.array([look["flow"][layer][name][::-1] for look in looks], np.float64)
        grids[layer] = name, np.log10(np.maximum(rows, FLOOR)).T
    shown = np.concatenate([grid.ravel() for _, grid in grids.values()])
    low, high = np.percentile(shown, (1, 99.5))
    image: Any = None
    for column, layer in enumerate(layers):
        name, grid = grids[layer]
        panel = panels[0, column]
        image = panel.pcolormesh(
            steps,
            np.arange(len(grid)),
            grid,
            cmap="cividis",
            vmin=low,
            vmax=max(high, low + 1),
            shading="nearest",
        )
        panel.set(title=f"{layer}: gradient at {name}")
        if not column:
            panel.set_ylabel("steps before the window's end")
        if saturated:
            below = panels[1, column]
            # Of a run that was resumed with diagnose.saturation the first looks may have none.
            names = dict.fromkeys(a for look in looks for a in look["saturated"][layer])
            for index, activation in enumerate(names):
                values = [
                    100 * look["saturated"][layer].get(activation, math.nan) for look in looks
                ]
                below.plot(
                    steps, values, color=COLOURS[index % 8], marker=MARKERS[index % 8],
                    markevery=max(1, len(steps) // 8), ms=4, lw=1.2, label=activation,
                )  # fmt: skip
            below.set(ylim=(-3, 103))
            if not column:
                below.set_ylabel(f"% saturated, beyond {BEYOND:g}")
            below.legend(fontsize=7, framealpha=0.85, edgecolor="none")
            plain(below)
        panels[-1, column].set_xlabel("train step")
    figure.colorbar(image, ax=list(panels[0]), label="log10 of the norm")
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: training.png; None where training did not look."""
    if not subject.looks:
        return None
    draw(subject.looks, folder / "training.png")
    caption = (
        "While it trained: the flow of the gradient of each window, against the steps before its end, "
        "and the share of saturated activations."
    )
    return Findings([], [("training.png", caption)])


SECTION = Section(60, "While it trained", examine)
