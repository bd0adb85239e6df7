"""The figures of a diagnosis: of gradients, of saturated activations, and of training's own looks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.diagnose.diagnostics import FADED, Clipping, Flow, Share, Truncation
from rnnlab.recurrence.saturation import BEYOND, Saturation
from rnnlab.run.figure import BLUE, COLOURS, GREY, MARKERS, ORANGE, columns, plain, save

FLOOR = 1e-30  # below it a curve on a logarithmic axis ends


def _logarithmic(axis: Axes, values: Sequence[np.ndarray]) -> None:
    """A logarithmic y axis over what is drawn, of at least two powers of ten."""
    positive = np.concatenate([np.ravel(v)[np.ravel(v) > FLOOR] for v in values] or [np.ones(1)])
    axis.set_yscale("log", nonpositive="mask")
    if positive.size:
        low, high = float(positive.min()), float(positive.max())
        if high < 100 * low:
            middle = math.sqrt(low * high)
            low, high = middle / 10, middle * 10
        axis.set_ylim(low / 1.6, high * 1.6)


def _lines(flows: Sequence[Flow]) -> list[tuple[str, int, int, str]]:
    """(label, layer, part, colour) of every line: a colour a layer, a dash a part of the state."""
    found = []
    for index, one in enumerate(flows):
        for part, name in enumerate(one.parts):
            found.append((f"{one.layer}, {name}", index, part, COLOURS[index % len(COLOURS)]))
    return found


def flow(whole: Sequence[Flow], last: Sequence[Flow], path: Path) -> None:
    """|dL/ds_t| along the window, and against the lag from the last scored step."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    along, lag = figure.subplots(1, 2)
    for label, layer, part, colour in _lines(whole):
        style = ("-", "--", ":")[part % 3]
        mean = whole[layer].norms[part].mean(axis=1)
        along.plot(
            np.arange(1, len(mean) + 1),
            np.where(mean > FLOOR, mean, np.nan),
            style,
            color=colour,
            label=label,
        )
        curve = last[layer].by_lag()[part]
        lag.plot(
            np.arange(len(curve)),
            np.where(curve > FLOOR, curve, np.nan),
            style,
            color=colour,
            label=label,
        )
        reach = last[layer].reach()[part]
        if reach is not None and curve[reach] > FLOOR:
            lag.plot(reach, curve[reach], "o", ms=5, color=colour, mec="white")
    _logarithmic(along, [one.norms.mean(axis=2) for one in whole])
    _logarithmic(lag, [one.by_lag() for one in last])
    along.set(
        title="of the whole loss",
        xlabel="time step t",
        ylabel="norm of dL / ds at step t, mean of the rows",
    )
    lag.set(
        title=f"of the last step's loss; dot: fallen to {100 * FADED:g}%",
        xlabel="lag, steps before the last",
        ylabel="norm, geometric mean of the rows",
    )
    for axis in (along, lag):
        plain(axis)
    lag.legend(fontsize=8, framealpha=0.85, edgecolor="none")
    save(figure, path)


def shares(found: Sequence[Share], path: Path) -> None:
    """What each time step adds to the gradient of each layer's matrices: its share, added up."""
    figure = Figure(figsize=(5 * len(found) + 0.5, 4), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, found, strict=True):
        for index, (name, parts) in enumerate(one.parts.items()):
            steps = np.arange(1, len(parts) + 1)
            panel.plot(
                steps, 100 * np.cumsum(parts), color=COLOURS[index % 8],
                marker=MARKERS[index % 8], markevery=max(1, len(steps) // 8), ms=4, lw=1.3,
                label=name,
            )  # fmt: skip
        panel.axhline(100, color=GREY, lw=0.8, ls="--")
        panel.set(title=one.layer, xlabel="time step t")
        panel.legend(fontsize=8, framealpha=0.85, edgecolor="none")
        plain(panel)
    panels[0].set_ylabel("% of the gradient from steps up to t")
    save(figure, path)


def saturation(found: Sequence[Saturation], path: Path) -> None:
    """The activations of one layer: their histogram at every step, and the share beyond 0.95."""
    count = len(found)
    figure = Figure(figsize=(9, 1.9 * count + 0.6), layout="constrained")
    panels = figure.subplots(count, 2, squeeze=False, width_ratios=(2.2, 1), sharex="col")
    for index, (one, (left, right)) in enumerate(zip(found, panels, strict=True)):
        time = len(one.share)
        image = left.imshow(
            one.histogram.T, origin="lower", aspect="auto", cmap="cividis", vmin=0,
            vmax=max(0.1, float(np.percentile(one.histogram, 99.5))),
            extent=(0.5, time + 0.5, one.edges[0], one.edges[-1]), interpolation="nearest",
        )  # fmt: skip
        left.set_ylabel(one.activation.name)
        figure.colorbar(image, ax=left, label="share" if index == count // 2 else None)
        right.plot(np.arange(1, time + 1), 100 * one.share, color=ORANGE, lw=1.3)
        right.set(ylim=(-3, 103))
        right.set_title(f"saturated: {100 * one.share.mean():.0f}%", fontsize=9)
        plain(right)
    panels[0, 0].set_title(f"{found[0].layer}: distribution over units and rows", fontsize=10)
    panels[-1, 0].set_xlabel("time step t")
    panels[-1, 1].set(xlabel="time step t")
    panels[count // 2, 1].set_ylabel(f"% beyond {BEYOND:g}")
    save(figure, path)


def truncation(found: Truncation, path: Path, *, trained: int) -> None:
    """Direction and error of the truncated gradient by window length. trained: train.window."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(found.windows, found.cosine, "o-", color=BLUE, label="cosine, all parameters")
    axis.plot(
        found.windows, found.recurrent, "s--", color=COLOURS[2], label="cosine, recurrent matrices"
    )
    axis.plot(
        found.windows,
        found.bias,
        "D-",
        color=ORANGE,
        label="bias, relative to the norm of the whole",
    )
    if trained in found.windows:
        axis.axvline(trained, color=GREY, ls=":", lw=1.2, label=f"train.window = {trained}")
    axis.axhline(1, color=GREY, lw=0.6)
    axis.axhline(0, color=GREY, lw=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(
        xlabel="window of truncated BPTT, steps",
        ylabel=f"beside full BPTT over {found.windows[-1]} steps",
        title="what truncation does to the gradient",
    )
    axis.legend(fontsize=8, framealpha=0.85, edgecolor="none")
    plain(axis)
    save(figure, path)


def clipping(found: Sequence[Clipping], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The norms before the clip with what each kind of clip makes of them, and, of a run that was
    trained, the learning rate that the clip left. found: the run's own clip first, then others."""
    own = found[0]
    steps, rates = _effective(rows, own)
    panels = 3 if steps else 2
    figure = Figure(figsize=(4.4 * panels + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    positive = own.norms[own.norms > 0]
    if positive.size:
        low, high = positive.min(), positive.max()
        axes[0].hist(
            positive, bins=np.geomspace(low / 1.1, high * 1.1, 24).tolist(), color=BLUE, alpha=0.8
        )
        axes[0].set_xscale("log")
        axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].xaxis.set_major_formatter("{x:g}")
        axes[0].xaxis.set_minor_formatter(NullFormatter())
    if math.isfinite(own.threshold):
        axes[0].axvline(own.threshold, color=ORANGE, ls="--", label=f"T = {own.threshold:g}")
        axes[0].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    axes[0].set(
        xlabel="norm of the gradient before clipping",
        ylabel="batches",
        title="norms at these weights",
    )
    for index, one in enumerate(found):
        axes[1].plot(
            one.factor, one.cosine, MARKERS[index % 8], ms=5, alpha=0.6, color=COLOURS[index % 8],
            label=f"{one.kind}, T = {one.threshold:.3g}",
        )  # fmt: skip
    axes[1].set(
        xlabel="length kept, |clipped| / |g|",
        ylabel="direction kept, cosine",
        title="a point a batch",
        xlim=(-0.04, 1.06),
    )
    axes[1].legend(fontsize=7, framealpha=0.85, edgecolor="none")
    if steps:
        axes[2].plot(
            *columns(list(rows), "train", "learning_rate"),
            color=GREY,
            lw=4,
            alpha=0.4,
            label="of the schedule",
        )
        axes[2].plot(steps, rates, color=BLUE, lw=1.2, label="times what the clip left")
        axes[2].set(xlabel="step", ylabel="learning rate", title="effective learning rate")
        axes[2].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    for axis in axes:
        plain(axis)
    save(figure, path)


def _effective(rows: Sequence[dict[str, Any]], own: Clipping) -> tuple[list[int], list[float]]:
    """Rate x min(1, T / norm), by each logged row's mean norm; for the global norm alone."""
    if own.kind != "global_norm" or not math.isfinite(own.threshold):
        return [], []
    steps, norms = columns(list(rows), "train", "grad_norm")
    _, rates = columns(list(rows), "train", "learning_rate")
    if len(norms) != len(rates):
        return [], []
    factors = [1.0 if n <= own.threshold else own.threshold / n for n in norms]
    return steps, [rate * factor for rate, factor in zip(rates, factors, strict=True)]


def training(looks: Sequence[dict[str, Any]], path: Path) -> None:
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


def flows(curves: Sequence[Any], path: Path) -> None:
    """The curves of `compare`: at initialisation and trained, with a^k beside them."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    time = max(len(one.initial) for one in curves)
    drawn = [one.initial for one in curves] + [one.trained for one in curves]
    floor = max(1e-12, min(float(curve[curve > 0].min(initial=1.0)) for curve in drawn))
    lags = np.arange(time)
    for panel, name in zip(panels, ("initial", "trained"), strict=True):
        for rate in (0.5, 0.8, 0.9, 0.95, 0.99, 1.05):
            guide = rate ** lags.astype(float)
            shown = guide >= floor
            panel.plot(lags[shown], guide[shown], color=GREY, lw=0.7, alpha=0.5)
            end = int(np.nonzero(shown)[0][-1])
            panel.annotate(
                f"{rate:g}$^k$", (lags[end], guide[end]), fontsize=7, color=GREY,
                xytext=(2, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        for index, one in enumerate(curves):
            curve = getattr(one, name)
            panel.plot(
                np.arange(len(curve)), np.where(curve >= floor, curve, np.nan),
                color=COLOURS[index % 8], marker=MARKERS[index % 8], ms=4, lw=1.6,
                ls=("-", "--", ":")[index // 8 % 3], markevery=max(1, len(curve) // 10),
                label=one.label,
            )  # fmt: skip
        panel.set_yscale("log")
        panel.set(
            title="at initialisation" if name == "initial" else "trained",
            xlabel="steps back from the last",
        )
        plain(panel)
    high = max(float(curve.max()) for curve in drawn)
    panels[0].set_ylim(floor / 2, max(10.0, 3 * high))
    panels[0].set_ylabel("gradient, relative to where it begins")
    panels[1].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    save(figure, path)
