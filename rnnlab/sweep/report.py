"""The report of a sweep: results.csv, report.md and its figures, and what may be said of them.

One key of the sweep is the axis of the figures: the window where it varies, or the clipping threshold,
else the first key with numbers. The seed gives repetitions; each combination of all other keys is a line.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run.files import read_rows, write_file
from rnnlab.sweep import figures, solved
from rnnlab.sweep import members as sweep

THRESHOLD, WINDOW = "optim.clip_norm", "train.window"
LEVEL = 0.95


class Result(NamedTuple):
    """A member and what became of it."""

    name: str
    settings: dict[str, Any]  # the keys that the sweep sets
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


def results(folder: Path) -> list[Result]:
    """All members of the sweep in `folder`. Raises UsageError if there is none."""
    opened = sweep.opened(folder)
    found = []
    for member in opened.members:
        summary = sweep.summary(opened, member)
        path = opened.path(member) / "metrics.jsonl"
        rows = read_rows(path) if path.exists() else []
        words = ("diverged", "stopped")
        ended = next((word for word in words if f"{word}_at" in (summary or {})), "done")
        state = "open" if summary is None else ended
        valid = [row["loss"] for row in rows if row["split"] == "valid"]
        loss = min((float(x) for x in valid if math.isfinite(float(x))), default=math.nan)
        if state == "done" and math.isnan(loss):
            state = "diverged"  # no validation of it was finite
        settings = {key: configuration.flat(member.config)[key] for key in member.changes}
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


# ---- what may be said


def compare(line: Line) -> Comparison | None:
    """The points of a line against its best; None if no point is done in all its seeds.

    Of the K points whose seeds are all done, and the same n, the losses are taken as the sum of a
    mean for the value, one for the seed, and noise of standard deviation s; s has (K - 1)(n - 1)
    degrees of freedom. A point is within noise of the best if its mean exceeds the best mean by no
    more than t s sqrt(2 / n), where t is the quantile of Student's distribution at
    1 - 0.05 / (K - 1): with probability 0.95 the point that is truly best is then among them
    (multiple comparisons with the best, Hsu 1984, by Bonferroni's inequality). A point with a
    diverged seed is never among them. Of one seed or one point nothing can be said.
    """
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


def sentences(line: Line, axis: str | None, found: Comparison | None) -> list[str]:
    """What a person would say of a line, each sentence by a rule of `compare` or `solved`.

    Of a sweep over the window its values are other problems: which of them were solved is told, and
    not which loss is the lowest.
    """
    letter = "T" if axis == THRESHOLD else (axis or "").rpartition(".")[2]
    answer = solved.sentence(line, axis)
    said = [answer] if answer else []
    if answer and axis == WINDOW:
        return said + _diverged(line, axis, letter)
    if all(not point.losses and not point.open for point in line.points):
        return ["every member diverged."]
    if found is None:
        said.append("nothing is done yet in all its seeds.")
    else:
        best = f"{letter} = {_number(found.best.value)}" if axis else "the one setting"
        said.append(f"the best mean is {found.best.mean:.4f}, at {best}.")
        if found.noise is None:
            said.append(
                "With one seed each, nothing can be said of noise."
                if found.seeds == 1
                else "There is nothing to compare it with."
            )
        else:
            done = list(found.full)
            places = [line.points.index(point) for point in found.within]
            if len(places) == 1:
                said.append(f"No other {letter} is within noise of it ({found.margin:.4f}).")
            elif len(places) == len(line.points):
                said.append(f"Every {letter} is within noise of it ({found.margin:.4f}).")
            elif places == list(range(places[0], places[-1] + 1)):
                low, high = (_number(p.value) for p in (found.within[0], found.within[-1]))
                said.append(
                    f"{letter} between {low} and {high} is within noise of it ({found.margin:.4f})."
                )
            else:
                listed = ", ".join(_number(point.value) for point in found.within)
                said.append(f"{letter} of {listed} is within noise of it ({found.margin:.4f}).")
            worst = max(done, key=lambda point: point.mean)
            if worst not in found.within:
                said.append(
                    f"The worst is {letter} = {_number(worst.value)}, "
                    f"{worst.mean - found.best.mean:.4f} above."
                )
    return said + _diverged(line, axis, letter)


def _diverged(line: Line, axis: str | None, letter: str) -> list[str]:
    said = []
    for point in line.points:
        seeds = len(point.losses) + point.diverged + point.open
        off = axis == THRESHOLD and math.isinf(point.value)
        if point.diverged:
            what = "Without clipping" if off else f"At {letter} = {_number(point.value)}"
            said.append(f"{what}, {point.diverged} of {seeds} seeds diverged.")
        elif off and point.losses and not point.open:
            said.append(f"Without clipping, none of {seeds} seeds diverged.")
    return said


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


# ---- the files


def write(folder: Path) -> str:
    """Write the report of the sweep in `folder`; what is to be told of it.

    Raises UsageError if there is no sweep, or nothing in it has been trained.
    """
    found = results(folder)
    if not any(result.rows for result in found):
        raise UsageError(f"nothing of the sweep in {folder} has been trained yet")
    axis = axis_of(found)
    lines = lines_of(found, axis)
    comparisons = [compare(line) for line in lines]
    _csv(folder / "results.csv", found)
    opened = sweep.opened(folder)
    config = opened.members[0].config
    words = {"unit": opened.unit, "measure": opened.measure}
    drawn: list[tuple[str, str]] = []
    if axis is not None:
        figures.against(lines, folder / "validation.png", axis=axis, **words)
        drawn.append(("validation.png", "Validation loss and share of steps clipped"))
    figures.learning(lines, folder / "learning.png", axis=axis, **words)
    drawn.append(("learning.png", "Learning curves"))
    if axis == THRESHOLD:
        figures.norms(lines, folder / "norms.png", every=config.train.log_every)
        drawn.append(("norms.png", "Gradient norms before clipping"))
    if any(rate.seeds for line in lines for rate in solved.rates(line)) and axis is not None:
        figures.success(lines, folder / "success.png", axis=axis)
        drawn.append(("success.png", "Seeds that solved the task"))
    if any(solved.beyond(line) for line in lines):
        figures.beyond(lines, folder / "lengths.png", axis=axis)
        drawn.append(("lengths.png", "Error on longer sequences than those of training"))
    text = _markdown(folder, found, axis, lines, comparisons, drawn, config, opened)
    write_file(folder / "report.md", text)
    said = [
        f"{line.label}: {' '.join(sentences(line, axis, comparison))}"
        for line, comparison in zip(lines, comparisons, strict=True)
    ]
    names = ", ".join(["report.md", "results.csv", *(name for name, _ in drawn)])
    return "\n".join([*said, f"the report is in {folder} ({names})"])


def _csv(path: Path, found: Sequence[Result]) -> None:
    keys = list(dict.fromkeys(key for result in found for key in result.settings))
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        columns = ["valid_loss", "valid_step", "final_valid_loss", "steps", "diverged_at"]
        writer.writerow(["member", *keys, "state", *columns, "clipped", "grad_norm_median"])
        for result in found:
            train = [row for row in result.rows if row["split"] == "train"]
            writer.writerow(
                [
                    result.name,
                    *(result.settings.get(key, "") for key in keys),
                    result.state,
                    *(result.summary.get(name, "") for name in columns),
                    statistics.fmean(row["clipped"] for row in train) if train else "",
                    statistics.median(row["grad_norm"] for row in train) if train else "",
                ]
            )
        write_file(path, file.getvalue())


def _markdown(
    folder: Path,
    found: Sequence[Result],
    axis: str | None,
    lines: Sequence[Line],
    comparisons: Sequence[Comparison | None],
    drawn: Sequence[tuple[str, str]],
    config: Any,
    opened: sweep.Sweep,
) -> str:
    count: Callable[[str], int] = lambda state: sum(r.state == state for r in found)  # noqa: E731
    reductions = sorted({r.settings.get("optim.reduction", config.optim.reduction) for r in found})
    differentiated = ", ".join(map(_reduction, reductions))
    text = [
        f"# Sweep {folder.resolve().name}",
        "",
        f"{len(found)} members: {count('done')} done, {count('diverged')} diverged, "
        f"{count('stopped')} stopped early, {count('open')} open. Losses are {opened.measure} per "
        f"{opened.unit} on the held-out data, the best of each run. The loss that is differentiated: "
        f"{differentiated}.",
        "",
    ]
    for line, comparison in zip(lines, comparisons, strict=True):
        text.append(f"- **{line.label}**: {' '.join(sentences(line, axis, comparison))}")
    for name, title in drawn:
        text += ["", f"## {title}", "", f"![{title}]({name})"]
    text += ["", "## Ranked", ""]
    letter = "T" if axis == THRESHOLD else axis or ""
    for line, comparison in zip(lines, comparisons, strict=True):
        text += [f"### {line.label}", ""]
        text.append(
            f"| rank | {letter} | mean | each seed | above the best, 95% interval | "
            "within noise | steps clipped | diverged |"
        )
        text.append("|" + "---|" * 8)
        order = sorted(line.points, key=lambda p: (math.isnan(p.mean), p.mean))
        for rank, point in enumerate(order, start=1):
            text.append(_ranked(rank, point, comparison))
        text.append("")
    text += [
        "## How this was reckoned",
        "",
        " ".join((compare.__doc__ or "").split("\n\n", 1)[1].split()),
        "The interval of a difference is t s sqrt(2 / n) to either side, with t at 0.975.",
        "",
    ]
    return "\n".join(text)


def _reduction(name: str) -> str:
    return {
        "mean": "the mean per token",
        "sum_over_time": "the mean per token times T, the steps of a window (sum over time)",
    }[name]


def _ranked(rank: int, point: Point, comparison: Comparison | None) -> str:
    seeds = ", ".join(f"{loss:.4f}" for _, loss in sorted(point.losses.items()))
    above = within = ""
    if comparison is not None and point in comparison.full:
        above = f"{point.mean - comparison.best.mean:.4f}"
        if comparison.noise is not None and point is not comparison.best:
            t = float(stats.t.ppf(0.5 + LEVEL / 2, comparison.degrees))
            half = t * comparison.noise * math.sqrt(2 / comparison.seeds)
            above += f" +- {half:.4f}"
        if comparison.noise is not None:
            within = "yes" if point in comparison.within else "no"
    mean = f"{point.mean:.4f}" if math.isfinite(point.mean) else ""
    seeds_all = len(point.losses) + point.diverged + point.open
    clipped = "" if math.isnan(point.clipped) else f"{100 * point.clipped:.0f}%"
    if 0 < point.clipped < 0.005:
        clipped = "< 1%"
    gone = f"{point.diverged} of {seeds_all}" if point.diverged else ""
    fields = [
        "" if math.isnan(point.mean) else str(rank),
        _number(point.value),
        mean,
        seeds,
        above,
        within,
        clipped,
        gone,
    ]
    return "| " + " | ".join(fields) + " |"
