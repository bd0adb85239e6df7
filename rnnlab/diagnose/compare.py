"""The gradient flow of the members of a sweep side by side: at initialisation, and trained."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose import flow
from rnnlab.diagnose.axes import LEGEND
from rnnlab.diagnose.subject import Subject, of_run, untrained
from rnnlab.errors import UsageError, one_line
from rnnlab.run.figure import COLOURS, GREY, MARKERS, plain, save
from rnnlab.run.files import write_file
from rnnlab.sweep.members import open_sweep
from rnnlab.sweep.results import axis_of, lines_of, read_results


class Curve(NamedTuple):
    """One line of a sweep: the norm of the gradient of the last step's loss against the lag."""

    label: str
    initial: np.ndarray  # [K], relative to where it begins; the geometric mean of the seeds
    trained: np.ndarray  # [K]
    seeds: int


def _curve(subject: Subject) -> np.ndarray | None:
    """[K] of the top layer, at the part of the state where the gradient reaches furthest; None where
    none arrives, or it overflows."""
    of = (subject.probe, subject.params, subject.carry, subject.batch)
    top = flow.measure(*of, last=True)[-1]
    curves = [curve[flow.begins(curve) :] for curve in top.by_lag()]
    curves = [c / c[0] for c in curves if c[0] > 0 and np.isfinite(c).all()]
    if not curves:
        return None
    time = min(map(len, curves))
    return max((c[:time] for c in curves), key=lambda c: float(np.log(c + 1e-300).mean()))


def _mean(curves: list[np.ndarray]) -> np.ndarray:
    time = min(map(len, curves))
    with np.errstate(divide="ignore"):
        return np.exp(np.mean([np.log(curve[:time]) for curve in curves], axis=0))


def measure(folder: Path, which: str, window: int, warn: Callable[[str], None]) -> list[Curve]:
    """The curves of the sweep in `folder`, of all its members that have a checkpoint, by what the
    report takes for a line and a point. A member without a gradient that is finite, at initialisation
    or trained, is left out, which `warn` is told.

    which, window: as for `subject.of_run`, which says what is raised; but a member that raises
        UsageError is left out as well, unless all do. UsageError too where no member has a checkpoint.
    """
    opened = open_sweep(folder)
    found = read_results(folder)
    by_name = {member.name: member for member in opened.members}
    axis = axis_of(found)
    result, refusals = [], []
    for line in lines_of(found, axis):
        for point in line.points:
            pairs = []
            for member in point.members:
                path = opened.path(by_name[member.name])
                if not (path / "checkpoints").is_dir():
                    continue
                try:
                    subject = of_run(path, which, window, warn)
                    start, end = _curve(untrained(subject)), _curve(subject)
                except UsageError as error:
                    refusals.append((member.name, error))
                    continue
                if start is None or end is None:
                    warn(f"{member.name} is left out: no gradient arrives, or it overflows")
                else:
                    pairs.append((start, end))
            if pairs:
                parts = list(line.parts)
                if axis is not None and len(line.points) > 1:
                    parts.append(f"{axis.rpartition('.')[2]} {point.value:g}")
                label = ", ".join(parts) or "all members"
                before, after = (_mean([pair[i] for pair in pairs]) for i in range(2))
                result.append(Curve(label, before, after, len(pairs)))
    if not result and refusals:  # not a warning each, where it is a flag's fault
        raise refusals[0][1]
    for name, error in refusals:
        warn(f"{name} is left out: {one_line(error)}")
    if not result:
        raise UsageError(f"no member of the sweep in {folder} has a checkpoint to be diagnosed")
    return result


def sentences(curves: list[Curve]) -> list[str]:
    """For each line the first step back with 1% of the gradient that it begins with, or what is left
    at the end of the window; at initialisation and trained."""

    def fall(curve: np.ndarray) -> str:
        below = np.nonzero(curve <= flow.FADED)[0]
        if len(below):
            return f"falls to 1% within {below[0]} steps"
        return f"is at {100 * curve[-1]:.3g}% after {len(curve) - 1} steps"

    return [
        f"{one.label}: the gradient {fall(one.initial)} at initialisation, and {fall(one.trained)} "
        f"trained ({one.seeds} seed{'s' * (one.seeds > 1)})."
        for one in curves
    ]


def draw(curves: list[Curve], path: Path) -> None:
    """The curves at initialisation and trained, with a^k beside them."""
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
    panels[1].legend(**LEGEND)
    save(figure, path)


def write_report(
    folder: Path,
    out: Path,
    *,
    which: str,
    window: int,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Path:
    """Write diagnosis.md with flows.png into `out`; its path. Raises as `measure` does."""
    say("gradient flow of the members ...")
    curves = measure(folder, which, window, warn)
    out.mkdir(parents=True, exist_ok=True)
    draw(curves, out / "flows.png")
    said = sentences(curves)
    config = open_sweep(folder).members[0].config
    lines = [
        f"# Gradient flow of the sweep {folder.resolve().name}",
        "",
        f"Task {config.task}, checkpoint of each member: {which}.",
        "",
        *[f"- {sentence}" for sentence in said],
        "",
        "![Gradient flow by lag](flows.png)",
        "",
        "The norm of dL/ds_t of the loss at the last scored step, relative to where it begins, against the "
        "steps back from it: top layer, the part of the state where it reaches furthest, geometric mean of "
        "rows and seeds. Grey: a^k, what a linear recurrence with the factor a does.",
        "",
    ]
    path = out / "diagnosis.md"
    write_file(path, "\n".join(lines))
    for sentence in said:
        say(f"  {sentence}")
    return path


def is_sweep(folder: Path) -> bool:
    """Whether the folder is that of a sweep."""
    return (folder / "sweep.json").exists()
