"""How many activations of a cell are saturated, at every step and unit of a window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose.subject import Findings, Section, Subject, watch_layers
from rnnlab.recurrence import taps
from rnnlab.recurrence.activations import BEYOND, Activation, beyond, over_time
from rnnlab.recurrence.taps import Seen
from rnnlab.recurrence.unrolling import valid_steps
from rnnlab.run.figure import ORANGE, plain, save
from rnnlab.types import Array, Cell, Params

BINS = 40  # of a histogram
MUCH = 0.1  # a share of saturated activations that is worth a sentence


class Saturation(NamedTuple):
    """One activation of one layer over a window."""

    layer: str
    activation: Activation
    share: np.ndarray  # [T], of values that are saturated, over rows and units
    units: np.ndarray  # [H], of values that are saturated, over rows and steps
    histogram: np.ndarray  # [T, BINS], shares; a relu's lie between 0 and its largest value
    edges: np.ndarray  # [BINS + 1]


def measure(
    cell: Cell, params: Params, seen: Seen, *, layer: str, valid: Array | None = None
) -> list[Saturation]:
    """The activations of a layer over a window: shares that are saturated, and histograms.

    params: of that layer; seen: of `Model.watch`. Without noise inside the cell.
    valid: bool [T, B], the steps that exist; None: all do.
    """
    which: list[Activation] = []
    there = jnp.ones(seen.x.shape[:2], bool) if valid is None else jnp.asarray(valid)

    def mean(values: Array, axes: tuple[int, ...]) -> Array:  # of [T, B, H], over what exists
        weights = jnp.broadcast_to(there[..., None], values.shape)
        return (values * weights).sum(axes) / jnp.maximum(weights.sum(axes), 1)

    @jax.jit
    def found(params: Params) -> Any:
        activations = over_time(cell, seen)(params)
        which[:] = [one for one, _ in activations]
        rows = []
        for one, values in activations:
            low, high = one.range
            high = jnp.where(jnp.isinf(high), values.max(), high)
            width = jnp.where(high > low, high - low, 1.0)
            place = jnp.clip(((values - low) / width * BINS).astype(jnp.int32), 0, BINS - 1)
            bins = jnp.arange(BINS)
            counts = jax.lax.map(
                lambda b, place=place: mean(place == b, (1, 2)), bins
            ).T  # [T, BINS]
            saturated = beyond(one, values)
            edges = low + (high - low) * jnp.arange(BINS + 1) / BINS
            rows.append((mean(saturated, (1, 2)), mean(saturated, (0, 1)), counts, edges))
        return rows

    rows = jax.tree.map(np.asarray, found(params))
    return [Saturation(layer, one, *row) for one, row in zip(which, rows, strict=True)]


def sentences(measured: Sequence[Saturation]) -> list[str]:
    """Every activation of which over 10% of the values are saturated, and how many units are so at
    more than half of the steps; one sentence for all where none is."""
    said = []
    for one in measured:
        share = float(one.share.mean())
        if share > MUCH:
            stuck = float((one.units > 0.5).mean())
            kind = {"tanh": "saturated", "logistic": "open or shut", "relu": "at 0"}
            said.append(
                f"{one.layer}, {one.activation.name}: {100 * share:.0f}% of the values are "
                f"{kind[one.activation.kind]}; {100 * stuck:.0f}% of the units are so most of the time."
            )
    if measured and not said:
        most = max(measured, key=lambda one: one.share.mean())
        said.append(
            f"No activation is saturated in more than 10% of its values; most is the "
            f"{most.activation.name} of {most.layer}, {100 * float(most.share.mean()):.1f}%."
        )
    return said


def draw(measured: Sequence[Saturation], path: Path) -> None:
    """The activations of one layer: their histogram at every step, and the share beyond 0.95."""
    count = len(measured)
    figure = Figure(figsize=(9, 1.9 * count + 0.6), layout="constrained")
    panels = figure.subplots(count, 2, squeeze=False, width_ratios=(2.2, 1), sharex="col")
    for index, (one, (left, right)) in enumerate(zip(measured, panels, strict=True)):
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
    panels[0, 0].set_title(f"{measured[0].layer}: distribution over units and rows", fontsize=10)
    panels[-1, 0].set_xlabel("time step t")
    panels[-1, 1].set(xlabel="time step t")
    panels[count // 2, 1].set_ylabel(f"% beyond {BEYOND:g}")
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings:
    """The section: a figure a layer, saturation_LAYER.png, of the steps that exist."""
    net, all_found, figures = subject.probe.net, [], []
    layers = taps.units(subject.params)
    inputs = subject.probe.inputs(subject.batch)
    valid = valid_steps(inputs["x"].shape[0], inputs.get("lengths"), inputs.get("mask"))
    for name, layer, seen in zip(net.names, layers, watch_layers(subject), strict=True):
        found = measure(net.cell, layer, seen, layer=name, valid=valid)
        all_found += found
        if found:
            file = f"saturation_{name.replace(' ', '_')}.png"
            draw(found, folder / file)
            caption = (
                f"{name}: every tanh and gate in the cell at every step. Saturated: a tanh beyond "
                f"+-{BEYOND:g}, a gate above {BEYOND:g} or below {1 - BEYOND:.2g}, a relu at 0."
            )
            figures.append((file, caption))
    return Findings(sentences(all_found), figures)


SECTION = Section(30, "Saturation", examine)
