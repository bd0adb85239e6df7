"""The figures of a sweep's report."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.run.figure import BLUE, COLOURS, GREY, MARKERS, ORANGE, columns, plain, save
from rnnlab.sweep import solved
from rnnlab.sweep.results import Line, Result


def _places(values: list[Any]) -> dict[Any, float]:
    """Where values are on an axis: their logarithms if all are > 0, infinity at the right end."""
    finite = [float(v) for v in values if math.isfinite(v)]
    log = all(v > 0 for v in finite)
    places = {v: math.log10(v) if log else float(v) for v in values if math.isfinite(v)}
    right = max(places.values(), default=0.0)
    gap = (right - min(places.values(), default=0.0)) / 8 or 0.3
    return places | {v: right + gap for v in values if not math.isfinite(v)}


def _ticks(axis: Axes, places: dict[Any, float], name: str) -> None:
    off = name == "optim.clip_norm"
    labels = [f"{v:g}" if math.isfinite(v) else "off" if off else "inf" for v in places]
    axis.set_xticks(list(places.values()), labels)
    axis.set_xlabel("clipping threshold T" if off else name)


def _columns_of(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines by what they have in common: by their first setting if they are many, and it splits
    them into few; else all together."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.parts[0] if line.parts else "", []).append(line)
    if len(lines) > 4 and 1 < len(groups) < 4 and max(map(len, groups.values())) > 1:
        return groups
    return {"": list(lines)}


def draw_validation(
    lines: Sequence[Line], path: Path, *, axis: str, unit: str, measure: str = "nats"
) -> None:
    """Validation loss, and below it the share of steps clipped, against the values of a key: the
    mean of the seeds as a line, every seed as a point, a cross at the top for each value at which
    seeds diverged.
    """
    values = sorted({point.value for line in lines for point in line.points})
    places, groups = _places(values), _columns_of(lines)
    wide = len(groups)
    figure = Figure(figsize=(8 if wide == 1 else 5.5 * wide, 7), layout="constrained")
    panels = figure.subplots(
        2, wide, sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False
    )
    for column, (shared, group) in enumerate(groups.items()):
        top, bottom = panels[:, column]
        for number, line in enumerate(group):
            label = ", ".join(line.parts[1:]) if shared else line.label
            _drawn(top, bottom, line, places, number, len(group), label)
        if shared:
            name = group[0].keys[0].rpartition(".")[2]
            top.set_title(f"{name}: {shared}".replace("_", " "))
        if not column:
            top.set_ylabel(f"best validation loss, {measure} per {unit}")
            bottom.set(ylabel="% of steps clipped", ylim=(-4, 104))
        top.legend(fontsize=9, framealpha=0.85, edgecolor="none")
        _ticks(bottom, places, axis)
        for each in (top, bottom):
            plain(each)
    _focus(panels[0, 0], lines)
    crosses = any(point.diverged for line in lines for point in line.points)
    figure.suptitle(
        "line: mean of the seeds; points: each seed" + ("; cross: diverged" if crosses else ""),
        fontsize=10,
    )
    save(figure, path)


def _drawn(
    top: Axes, bottom: Axes, line: Line, places: dict[Any, float], number: int, of: int, label: str
) -> None:
    colour, marker = COLOURS[number % 8], MARKERS[number % 8]
    shift = 0.012 * (max(places.values()) - min(places.values()))
    aside = shift * (number - (of - 1) / 2)  # so that points do not hide each other
    means = [p for p in line.points if p.losses and not p.diverged]
    top.plot(
        [places[p.value] for p in means],
        [p.mean for p in means],
        marker=marker,
        ms=5,
        color=colour,
        label=label,
    )
    for point in line.points:
        seeds = list(point.losses.values())
        at = places[point.value] + aside
        top.plot([at] * len(seeds), seeds, ls="", marker=marker, ms=3, alpha=0.5, color=colour)
        if point.diverged:
            count = f"{point.diverged}" if point.diverged > 1 else ""
            above = top.get_xaxis_transform()
            y = 0.98 - 0.035 * number
            top.plot(at, y, "x", ms=8, mew=2, color=colour, transform=above)
            top.annotate(
                count, (at, y), (6, -4), xycoords=above, textcoords="offset points",
                fontsize=8, color=colour,
            )  # fmt: skip
    known = [p for p in line.points if math.isfinite(p.clipped)]
    bottom.plot(
        [places[p.value] for p in known],
        [100 * p.clipped for p in known],
        marker=marker,
        ms=4,
        lw=1,
        color=colour,
    )


def _focus(panel: Axes, lines: Sequence[Line]) -> None:
    """A single run that went wrong shall not flatten all others: what is far above is cut off."""
    losses = [x for line in lines for point in line.points for x in point.losses.values()]
    if len(losses) < 4:
        return
    low, middle, high = (float(x) for x in np.percentile(losses, (0, 50, 100)))
    limit = middle + 3 * (float(np.percentile(losses, 90)) - low)
    if limit < high:
        margin = 0.05 * (limit - low)
        panel.set_ylim(low - margin, limit + margin)
        panel.text(
            0.01, 0.01, f"the highest, {high:.3g}, is above this figure",
            transform=panel.transAxes, fontsize=8, color=GREY,
        )  # fmt: skip


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    across = min(count, 2)
    down = -(-count // across)
    figure = Figure(figsize=(5 * across + 1.5, 3.4 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True)
    for empty in panels.flat[count:]:
        empty.set_visible(False)
    return figure, list(panels.flat[:count])


def _mean_curve(members: Sequence[Result], split: str, name: str) -> tuple[list[int], list[float]]:
    """Of the steps that all the members have."""
    rows = [dict(zip(*columns(member.rows, split, name), strict=True)) for member in members]
    steps = sorted(set.intersection(*map(set, rows))) if rows else []
    return steps, [float(np.mean([row[step] for row in rows])) for step in steps]


def _smoothed(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """The mean of every so many, about 60 of them in all."""
    size = max(1, len(steps) // 60)
    ends = range(size, len(steps) + 1, size)
    return [steps[e - 1] for e in ends], [float(np.mean(values[e - size : e])) for e in ends]


def draw_success(lines: Sequence[Line], path: Path, *, axis: str) -> None:
    """The share of the seeds that solved the task against the values of a key: of many lines a panel
    for each value of their first setting, and a colour for each combination of the others."""
    values = sorted({point.value for line in lines for point in line.points})
    places = _places(values)
    groups: dict[str, list[Line]] = {}
    for line in lines:
        first, *others = line.parts or ("",)
        groups.setdefault(first if len(lines) > 4 and others else "", []).append(line)
    if len(groups) == len(lines) > 1 or len(groups) > 6:
        groups = {"": list(lines)}
    rest = list(dict.fromkeys(_rest(line, bool(name)) for name, g in groups.items() for line in g))
    across = min(len(groups), 2)
    down = -(-len(groups) // across)
    size = (8, 4.6) if across == 1 else (9.5, 3.1 * down + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    apart = 0.008 * (max(places.values()) - min(places.values()))
    for panel, (name, group) in zip(panels.flat, groups.items(), strict=False):
        for line in group:
            number = rest.index(_rest(line, bool(name)))
            found = [rate for rate in solved.rates(line) if rate.seeds]
            aside = apart * (number - (len(rest) - 1) / 2)  # so that no line hides another
            panel.plot(
                [places[rate.value] + aside for rate in found],
                [100 * rate.solved / rate.seeds - 1.2 * number for rate in found],
                marker=MARKERS[number % 8], ms=6, color=COLOURS[number % 8], lw=1.6,
            )  # fmt: skip
        _ticks(panel, places, axis)
        panel.set(title=name or None, ylim=(-8, 106), xlabel=None)
        plain(panel)
    for empty in panels.flat[len(groups) :]:
        empty.set_visible(False)
    handles = [
        Line2D([], [], color=COLOURS[i % 8], marker=MARKERS[i % 8], ms=6, label=label)
        for i, label in enumerate(rest)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    seeds = max(rate.seeds for line in lines for rate in solved.rates(line))
    figure.supylabel("% of the seeds that solved it", fontsize=10)
    name = "length T of the sequences" if axis == "train.window" else axis.rpartition(".")[2]
    for panel in panels[-1]:
        panel.set_xlabel(name)
    title = f"error below {100 * solved.SOLVED:g}%, {seeds} seeds; lines drawn slightly apart"
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _rest(line: Line, split: bool) -> str:
    return ", ".join(line.parts[1:]) if split else line.label


def draw_lengths(lines: Sequence[Line], path: Path, *, axis: str | None) -> None:
    """The error of the models that solved the task against the length of the sequences."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    panel = figure.subplots()
    for number, line in enumerate(lines):
        errors = solved.beyond(line)
        if errors:
            panel.plot(
                list(errors), [100 * e for e in errors.values()], marker=MARKERS[number % 8], ms=5,
                color=COLOURS[number % 8], label=line.label,
            )  # fmt: skip
    panel.axhline(100 * solved.SOLVED, color=GREY, ls="--", lw=0.8, label="solved: below 1%")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set(
        xlabel="length of the sequences",
        ylabel="% of sequences with a wrong answer",
        title="models that solved the longest problem their line solved, mean",
        ylim=(-3, None),
    )
    plain(panel)
    panel.legend(fontsize=8, framealpha=0.85, edgecolor="none")
    save(figure, path)


def draw_learning(
    lines: Sequence[Line], path: Path, *, axis: str | None, unit: str, measure: str = "nats"
) -> None:
    """Training loss and, as points, validation loss against the step: a panel a line, a colour a
    value of the axis, from dark to light."""
    from matplotlib import colormaps

    values = sorted({point.value for line in lines for point in line.points})
    shade = {
        v: colormaps["viridis"](0.92 * i / max(1, len(values) - 1)) for i, v in enumerate(values)
    }
    figure, panels = _panels(len(lines))
    for panel, line in zip(panels, lines, strict=True):
        ends = []
        for point in line.points:
            steps, losses = _smoothed(*_mean_curve(point.members, "train", "loss"))
            panel.plot(steps, losses, lw=1.2, color=shade[point.value])
            panel.plot(
                *_mean_curve(point.members, "valid", "loss"),
                "o", ms=4, mec="white", mew=0.5, color=shade[point.value],
            )  # fmt: skip
            ends += losses[len(losses) // 5 :]
        if ends:
            low, high = min(ends), max(ends)
            margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
            panel.set_ylim(low - margin, high + margin)
        panel.set(title=line.label, ylabel=f"{measure} per {unit}", xlabel="step")
        plain(panel)
    if axis is not None:
        name = "T" if axis == "optim.clip_norm" else axis.rpartition(".")[2]
        handles = [Line2D([], [], color=shade[v], label=f"{name} = {v:g}") for v in values]
        figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    figure.suptitle("mean of the seeds: line training (smoothed), points validation", fontsize=10)
    save(figure, path)


def draw_norms(lines: Sequence[Line], path: Path, *, every: int) -> None:
    """The distribution of the gradient's norm before clipping, under the largest threshold and the
    smallest, with every threshold drawn in it: a panel a line. every: steps in a logged mean."""
    figure, panels = _panels(len(lines))
    for panel, line in zip(panels, lines, strict=True):
        shown = {0: line.points[0], len(line.points) - 1: line.points[-1]}
        drawn = []
        for index, colour in zip(shown, (ORANGE, BLUE), strict=False):
            point = line.points[index]
            found = [columns(member.rows, "train", "grad_norm")[1] for member in point.members]
            drawn.append((point, np.array([v for row in found for v in row if v > 0]), colour))
        together = np.concatenate([norms for _, norms, _ in drawn])
        if together.size:
            bins = np.geomspace(together.min(), together.max() * 1.001, 50)
            for point, values, colour in drawn:
                label = f"trained at T = {point.value:g}"
                panel.hist(values, bins=bins.tolist(), color=colour, alpha=0.55, label=label)
            panel.legend(fontsize=8, framealpha=0.85, edgecolor="none", loc="center right")
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter("{x:g}")
        finite = [point.value for point in line.points if math.isfinite(point.value)]
        for value in finite:
            panel.axvline(value, color=GREY, ls="--", lw=0.8)
            panel.annotate(
                f"{value:g}", (value, 1), (2, -8), xycoords=panel.get_xaxis_transform(),
                textcoords="offset points", fontsize=7, color=GREY,
            )  # fmt: skip
        panel.set(title=line.label, ylabel="rows", xlabel="gradient norm before clipping")
        plain(panel)
    each = "one step each" if every == 1 else f"each the mean of {every} steps"
    figure.suptitle(f"{each}; dashed: the thresholds", fontsize=10)
    save(figure, path)
