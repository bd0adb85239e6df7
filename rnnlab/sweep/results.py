"""What became of a sweep: its members by line and point, and each line's points against its best.

One key of the sweep is the axis of the figures: the window where it varies, or the clipping threshold,
else the first key with numbers. The seed gives repetitions; each combination of all other keys is a line.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from rnnlab.run import config as configuration
from rnnlab.run.files import read_rows
from rnnlab.sweep.members import open_sweep, read_summary

THRESHOLD, WINDOW = "optim.clip_norm", "train.window"
LEVEL = 0.95


class Result(NamedTuple):
    """A member and what became of it."""

    name: str
    settings: dict[str, Any]  # the keys that any member sets, and the seed: what this one ran with
    state: str  # "done", "diverged", "stopped" by halving, or "open"
    loss: float  # the best validation loss, nan if there is none
    summary: dict[str, Any]
    rows: list[dict[str, Any]]  # of metrics.jsonl


class Point(NamedTuple):
    """One value of the axis on one line: its seeds."""

    value: Any
    losses: dict[Any, float]  # seed -> loss, of the members that are done
    diverged: int
    open: int  # not trained to the end
    clipped: float  # the share of steps, mean of the seeds; nan if unknown
    members: tuple[Result, ...]

    @property
    def mean(self) -> float:
        """Of the losses; inf where a seed diverged, nan where none is done."""
        if self.diverged:
            return math.inf
        return statistics.fmean(self.losses.values()) if self.losses else math.nan


class Line(NamedTuple):
    """A combination of the other keys."""

    keys: tuple[str, ...]  # the keys, and
    parts: tuple[str, ...]  # their settings in words
    points: tuple[Point, ...]  # in the order of the axis

    @property
    def label(self) -> str:
        """Its settings in words."""
        return ", ".join(self.parts) or "all members"


class Comparison(NamedTuple):
    """The points of a line against its best one."""

    best: Point
    seeds: int  # n, repetitions that all points have
    noise: float | None  # s, what is left of the losses beside value and seed; None: not known
    degrees: int
    margin: float | None  # by how much a mean may exceed the best and be within noise
    within: tuple[Point, ...]
    full: tuple[Point, ...]  # all that were compared


def read_results(folder: Path, *, left: bool = False) -> list[Result]:
    """All members of the sweep in `folder`; or those that its config declares no more. Raises UsageError
    if there is none."""
    opened = open_sweep(folder)
    every = (*opened.members, *opened.left)
    keys = dict.fromkeys([*(key for member in every for key in member.changes), "seed"])
    found = []
    for member in opened.left if left else opened.members:
        summary = read_summary(opened, member)
        path = opened.path(member) / "metrics.jsonl"
        rows = read_rows(path) if path.exists() else []
        words = ("diverged", "stopped")
        ended = next((word for word in words if f"{word}_at" in (summary or {})), "done")
        state = "open" if summary is None else ended
        valid = [row["loss"] for row in rows if row["split"] == "valid"]
        loss = min((float(x) for x in valid if math.isfinite(float(x))), default=math.nan)
        if state == "done" and math.isnan(loss):
            state = "diverged"  # no validation of it was finite
        values = configuration.flat(member.config)
        settings = {key: values.get(key) for key in keys}
        found.append(Result(member.name, settings, state, loss, summary or {}, rows))
    return found


def axis_of(found: Sequence[Result]) -> str | None:
    """The key that the figures have as their axis; None if no number varies."""
    numeric = [
        key
        for key in _varying(found)
        if key != "seed" and all(type(r.settings.get(key)) in (int, float) for r in found)
    ]
    return next((key for key in (WINDOW, THRESHOLD, *numeric) if key in numeric), None)


def _varying(found: Sequence[Result]) -> list[str]:
    keys = dict.fromkeys(key for result in found for key in result.settings)
    return [key for key in keys if len({str(r.settings.get(key)) for r in found}) > 1]


def lines_of(found: Sequence[Result], axis: str | None) -> list[Line]:
    """The results by line and point."""
    others = [key for key in _varying(found) if key not in (axis, "seed")]
    groups: dict[tuple[str, ...], dict[Any, list[Result]]] = {}
    for result in found:
        parts = tuple(_shown(key, result.settings.get(key)) for key in others)
        value = result.settings[axis] if axis else ""
        groups.setdefault(parts, {}).setdefault(value, []).append(result)
    return [
        Line(
            tuple(others),
            parts,
            tuple(_point(value, members) for value, members in sorted(points.items())),
        )
        for parts, points in groups.items()
    ]


def _shown(key: str, value: Any) -> str:
    """A setting in a legend: the value alone where it says what it is."""
    if key == THRESHOLD and isinstance(value, float) and math.isinf(value):
        return "no clipping"
    if value is None:
        return f"{key.rpartition('.')[2]} unset"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if isinstance(value, str) else f"{key.rpartition('.')[2]} {text}"


def _point(value: Any, members: Sequence[Result]) -> Point:
    done = [r for r in members if r.state == "done"]
    shares = [
        statistics.fmean(shares)
        for r in members
        if (shares := [row["clipped"] for row in r.rows if row["split"] == "train"])
    ]
    return Point(
        value=value,
        losses={r.settings.get("seed", 0): r.loss for r in done},
        diverged=sum(r.state == "diverged" for r in members),
        open=sum(r.state in ("open", "stopped") for r in members),
        clipped=statistics.fmean(shares) if shares else math.nan,
        members=tuple(members),
    )


RECKONED = (
    "Of the K points whose seeds are all done, and the same n, the losses are taken as the sum of a "
    "mean for the value, one for the seed, and noise of standard deviation s; s has (K - 1)(n - 1) "
    "degrees of freedom. A point is within noise of the best if its mean exceeds the best mean by no "
    "more than t s sqrt(2 / n), where t is the quantile of Student's distribution at "
    "1 - 0.05 / (K - 1): with probability 0.95 the point that is truly best is then among them "
    "(multiple comparisons with the best, Hsu 1984, by Bonferroni's inequality). A point with a "
    "diverged seed is never among them. Of one seed or one point nothing can be said."
)


def compare_with_best(line: Line) -> Comparison | None:
    """The points of a line against its best, as RECKONED tells the report's reader; None if no point is
    done in all its seeds."""
    complete = [
        tuple(sorted(p.losses)) for p in line.points if p.losses and not p.diverged and not p.open
    ]
    # The seeds that most points have, if they differ.
    seeds = max(complete, key=lambda each: (complete.count(each), len(each)), default=())
    full = [
        p
        for p in line.points
        if tuple(sorted(p.losses)) == seeds and not p.diverged and not p.open and seeds
    ]
    if not full:
        return None
    best = min(full, key=lambda point: point.mean)
    count, n = len(full), len(seeds)
    degrees = (count - 1) * (n - 1)
    if not degrees:
        return Comparison(best, n, None, 0, None, (best,), tuple(full))
    table = np.array([[point.losses[seed] for seed in seeds] for point in full])  # [K, n]
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    noise = float(np.sqrt((rest**2).sum() / degrees))
    margin = float(stats.t.ppf(1 - (1 - LEVEL) / (count - 1), degrees)) * noise * math.sqrt(2 / n)
    within = tuple(point for point in full if point.mean - best.mean <= margin)
    return Comparison(best, n, noise, degrees, margin, within, tuple(full))
