"""How the gradient of a loss flows back through the layers, step by step.

|dL/ds_t| of every layer and part of its state, by one backward pass (Pascanu et al. 2013, eq. 3-5).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose.axes import FLOOR, LEGEND, log_y
from rnnlab.diagnose.objective import sizes_of
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.run.figure import COLOURS, plain, save
from rnnlab.types import Array, Carry, Params, Probe

FADED = 0.01  # of its first value: how small a gradient counts as gone


class Flow(NamedTuple):
    """How the gradient of a loss flows back through one layer."""

    layer: str
    parts: tuple[str, ...]  # of the state, P
    norms: np.ndarray  # [P, T, B], |dL/ds_t| of each row
    last: np.ndarray  # int [B], the step whose loss it is the gradient of; -1: of all of them

    def by_lag(self) -> np.ndarray:
        """[P, K]: the norm k steps before the last one, the geometric mean over the rows in which it is
        not 0; 0 where it is 0 in most of them.

        As many lags as the row with the fewest steps has.

        Raises UsageError for the gradient of all steps' losses, which has no lag.
        """
        if (self.last < 0).any():
            raise UsageError(
                "a lag is counted back from the loss of the last scored step: last=True"
            )
        count = int(self.last.min()) + 1
        rows = np.arange(self.norms.shape[2])
        steps = self.last[None, :] - np.arange(count)[:, None]  # [K, B]
        norms = self.norms[:, steps, rows[None, :]].astype(np.float64)  # [P, K, B]
        there = norms > 0
        total = np.log(np.where(there, norms, 1)).sum(-1)
        number = there.sum(-1)
        return np.where(2 * number > len(rows), np.exp(total / np.maximum(number, 1)), 0)

    def reach(self, share: float = FADED) -> list[int | None]:
        """For each part the first lag at which the gradient has fallen to `share` of where it begins;
        None if it does not within the window."""
        found: list[int | None] = []
        for curve in self.by_lag():
            first = begins(curve)
            below = np.nonzero(curve[first:] <= share * curve[first])[0]
            found.append(int(below[0]) + first if len(below) and curve[first] > 0 else None)
        return found


def begins(curve: np.ndarray) -> int:
    """The first lag with a gradient: 0, or 1 for an inner state, which the next step reads first."""
    return int(np.argmax(curve > 0))


def measure(
    probe: Probe, params: Params, carry: Carry, batch: Any, *, last: bool = False
) -> list[Flow]:
    """|dL/ds_t| for every layer (and direction), part of the state, step and row: dL/dh_t, dL/dc_t.

    Pascanu et al. 2013, eq. 3-5, by one backward pass. L is the mean loss of the batch; with `last`
    the mean over the rows of the loss at each row's last scored step alone, whose gradient shows how
    far back one error is felt.
    """

    time, rows, dtype = sizes_of(probe, params, batch)
    cell, start = probe.net.cell, probe.begin(carry, batch, dtype)

    def objective(seen: Any) -> tuple[Array, Array]:
        _, outputs = probe.net.apply(params, start, **probe.inputs(batch), taps=seen)
        values, weights = probe.losses(outputs, batch)
        steps = jnp.arange(values.shape[0])[:, None]
        final = jnp.where(weights > 0, steps, -1).max(axis=0)  # [B]
        if last:
            weights = jnp.where(steps == final, weights, 0)
        else:
            final = jnp.full_like(final, -1)
        return (values * weights).sum() / weights.sum(), final

    seen = [taps.nudge(cell, time, rows, dtype) for _ in probe.net.names]
    found, final = jax.jit(jax.grad(objective, has_aux=True))(seen)
    return [
        Flow(
            layer,
            taps.part_names(cell),
            np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(taps.norms(each.nudge))]),
            np.asarray(final),
        )
        for layer, each in zip(probe.net.names, found, strict=True)
    ]


def sentences(last: Sequence[Flow]) -> list[str]:
    """How far back the gradient of the last step's loss reaches, layer by layer, at the part of the
    state where it reaches furthest: the first lag with 1% of the norm where it begins, at lag 0 (1
    for an inner state); and the factor a step, (norm there / first norm) ^ (1 / steps). It "grows"
    where the largest norm is over 10 times the first."""
    found = []
    for one in last:
        curves, reaches = one.by_lag(), one.reach()
        parts = [p for p in range(len(one.parts)) if curves[p].max() > 0] or [0]
        ends = [math.inf if reach is None else float(reach) for reach in reaches]
        part = max(parts, key=ends.__getitem__)
        start = begins(curves[part])
        curve, reach = curves[part][start:], reaches[part]
        reach = None if reach is None else reach - start
        name, end = f"{one.layer}, {one.parts[part]}", len(curve) - 1
        if not curve[0] > 0:
            found.append(f"{name}: no gradient of the last step's loss arrives.")
            continue
        top = int(curve.argmax())
        if curve[top] > 10 * curve[0]:
            found.append(
                f"{name}: going back the gradient grows, to {curve[top] / curve[0]:.3g} times its first "
                f"size within {top} steps: it explodes."
            )
        if reach is not None:
            rate = (max(curve[reach], 1e-300) / curve[0]) ** (1 / max(reach, 1))
            found.append(
                f"{name}: the gradient falls to 1% within {reach} steps, by a factor of {rate:.2f} a step."
            )
        elif end > 0:
            rate = (curve[end] / curve[0]) ** (1 / end)
            found.append(
                f"{name}: the gradient reaches back over the whole window: after {end} steps it is "
                f"{100 * curve[end] / curve[0]:.3g}% of its first size, a factor of {rate:.3f} a step."
            )
    return found


def draw(whole: Sequence[Flow], last: Sequence[Flow], path: Path) -> None:
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
    log_y(along, [one.norms.mean(axis=2) for one in whole])
    log_y(lag, [one.by_lag() for one in last])
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
    lag.legend(**LEGEND)
    save(figure, path)


def _lines(flows: Sequence[Flow]) -> list[tuple[str, int, int, str]]:
    """(label, layer, part, colour) of every line: a colour a layer, a dash a part of the state."""
    found = []
    for index, one in enumerate(flows):
        for part, name in enumerate(one.parts):
            found.append((f"{one.layer}, {name}", index, part, COLOURS[index % len(COLOURS)]))
    return found


def examine(subject: Subject, folder: Path) -> Findings:
    """The section: flow.png, and a sentence or two a layer."""
    of = (subject.probe, subject.params, subject.carry, subject.batch)
    whole, last = measure(*of), measure(*of, last=True)
    draw(whole, last, folder / "flow.png")
    caption = (
        "The norm of dL/ds_t for each layer and part of the state (Pascanu et al. 2013, eq. 3-5). Left: "
        "of the mean loss of the window. Right: of the loss of each row's last scored step alone."
    )
    return Findings(sentences(last), [("flow.png", caption)])


SECTION = Section(10, "Gradient flow", examine)
