"""The report of a sweep: report.md with its figures, results.csv, and what may be said of a line."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from rnnlab.errors import UsageError
from rnnlab.run.files import write_file
from rnnlab.sweep import figures, solved
from rnnlab.sweep.members import Sweep, open_sweep
from rnnlab.sweep.results import (
    LEVEL,
    RECKONED,
    THRESHOLD,
    WINDOW,
    Comparison,
    Line,
    Point,
    Result,
    axis_of,
    compare_with_best,
    lines_of,
    read_results,
)

# ---- what may be said


def sentences(line: Line, axis: str | None, found: Comparison | None) -> list[str]:
    """What a person would say of a line, each sentence by a rule of `compare_with_best` or `solved`.

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


def write_report(folder: Path) -> str:
    """Write the report of the sweep in `folder`; what is to be told of it.

    Raises UsageError if there is no sweep, or nothing in it has been trained.
    """
    found, left = read_results(folder), read_results(folder, left=True)
    if not any(result.rows for result in found):
        raise UsageError(f"nothing of the sweep in {folder} has been trained yet")
    axis = axis_of(found)
    lines = lines_of(found, axis)
    comparisons = [compare_with_best(line) for line in lines]
    _csv(folder / "results.csv", found, left)
    opened = open_sweep(folder)
    config = opened.members[0].config
    words = {"unit": opened.unit, "measure": opened.measure}
    drawn: list[tuple[str, str]] = []
    if axis is not None:
        figures.draw_validation(lines, folder / "validation.png", axis=axis, **words)
        drawn.append(("validation.png", "Validation loss and share of steps clipped"))
    figures.draw_learning(lines, folder / "learning.png", axis=axis, **words)
    drawn.append(("learning.png", "Learning curves"))
    if axis == THRESHOLD:
        figures.draw_norms(lines, folder / "norms.png", every=config.train.log_every)
        drawn.append(("norms.png", "Gradient norms before clipping"))
    if any(rate.seeds for line in lines for rate in solved.rates(line)) and axis is not None:
        figures.draw_success(lines, folder / "success.png", axis=axis)
        drawn.append(("success.png", "Seeds that solved the task"))
    if any(solved.beyond(line) for line in lines):
        figures.draw_lengths(lines, folder / "lengths.png", axis=axis)
        drawn.append(("lengths.png", "Error on longer sequences than those of training"))
    text = _markdown(folder, found, left, axis, lines, comparisons, drawn, config, opened)
    write_file(folder / "report.md", text)
    said = [
        f"{line.label}: {' '.join(sentences(line, axis, comparison))}"
        for line, comparison in zip(lines, comparisons, strict=True)
    ]
    if left:
        said.append(f"no longer in the config, kept and not compared: {_named(left)}")
    names = ", ".join(["report.md", "results.csv", *(name for name, _ in drawn)])
    return "\n".join([*said, f"the report is in {folder} ({names})"])


def _named(results: Sequence[Result]) -> str:
    return ", ".join(result.name for result in results)


def _csv(path: Path, found: Sequence[Result], left: Sequence[Result]) -> None:
    every = [*found, *left]
    keys = list(dict.fromkeys(key for result in every for key in result.settings))
    with io.StringIO(newline="") as file:
        writer = csv.writer(file)
        columns = ["valid_loss", "valid_step", "final_valid_loss", "steps", "diverged_at"]
        of_rows = ["clipped", "grad_norm_median"]
        writer.writerow(["member", *keys, "state", *columns, *of_rows, "in_config"])
        for result in every:
            train = [row for row in result.rows if row["split"] == "train"]
            writer.writerow(
                [
                    result.name,
                    *(result.settings.get(key, "") for key in keys),
                    result.state,
                    *(result.summary.get(name, "") for name in columns),
                    statistics.fmean(row["clipped"] for row in train) if train else "",
                    statistics.median(row["grad_norm"] for row in train) if train else "",
                    "no" if result in left else "yes",
                ]
            )
        write_file(path, file.getvalue())


def _markdown(
    folder: Path,
    found: Sequence[Result],
    left: Sequence[Result],
    axis: str | None,
    lines: Sequence[Line],
    comparisons: Sequence[Comparison | None],
    drawn: Sequence[tuple[str, str]],
    config: Any,
    opened: Sweep,
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
    if left:
        text += ["## No longer in the config", "", "Kept, and not compared with the others:", ""]
        text += ["| member | state | best validation loss |", "|---|---|---|"]
        for result in left:
            loss = f"{result.loss:.4f}" if math.isfinite(result.loss) else ""
            text.append(f"| {result.name} | {result.state} | {loss} |")
        text.append("")
    text += [
        "## How this was reckoned",
        "",
        RECKONED,
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
