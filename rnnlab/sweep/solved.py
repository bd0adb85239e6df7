"""Which members of a sweep solved their task: for tasks whose evaluation has an `error`.

A member has solved it if the error at its lowest validation loss, the share of sequences with a
wrong answer, is below 1% (Martens and Sutskever 2011; Pascanu et al. 2013).
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnlab.sweep.results import Line

SOLVED = 0.01


class Rate(NamedTuple):
    """How many seeds solved it, at one value of the axis."""

    value: Any
    solved: int
    seeds: int  # all that have been validated, those that diverged among them


def error_of(rows: Sequence[dict[str, Any]]) -> float:
    """The error at the lowest validation loss of a run; nan without one."""
    found = [
        (float(row["loss"]), float(row["error"]))
        for row in rows
        if row.get("split") == "valid" and "error" in row and math.isfinite(float(row["loss"]))
    ]
    return min(found)[1] if found else math.nan


def rates(line: Line) -> list[Rate]:
    """Of a line, in the order of its axis; none for a task without an error. What diverged
    without ever being validated has not solved it; what is open counts from its first validation."""
    if not any("error" in row for point in line.points for m in point.members for row in m.rows):
        return []  # its task has none
    found = []
    for point in line.points:
        errors = [error_of(member.rows) for member in point.members]
        counted = [
            error
            for error, member in zip(errors, point.members, strict=True)
            if not math.isnan(error) or member.state == "diverged"
        ]
        found.append(Rate(point.value, sum(e < SOLVED for e in counted), len(counted)))
    return found


def beyond(line: Line) -> dict[int, float]:
    """length -> the mean error there, of the members that solved it at the largest value of the axis
    at which any did: how they do on sequences longer than those they were trained on."""
    for point in reversed(line.points):
        members = [m for m in point.members if error_of(m.rows) < SOLVED]
        tables = [
            {
                int(match[1]): float(value)
                for key, value in member.summary.items()
                if (match := re.fullmatch(r"error_at_(\d+)", key))
            }
            for member in members
        ]
        lengths = sorted(set.intersection(*map(set, tables))) if tables else []
        if lengths:
            return {n: float(np.mean([table[n] for table in tables])) for n in lengths}
    return {}


def sentence(line: Line, axis: str | None) -> str:
    """The largest value of the axis that most of the seeds solved, and where none did."""
    found = [rate for rate in rates(line) if rate.seeds]
    letter = (axis or "").rpartition(".")[2]
    if not found:
        return ""
    if axis is None:
        return f"{found[0].solved} of {found[0].seeds} seeds solved it."
    most = [rate for rate in found if 2 * rate.solved > rate.seeds]
    if not most:
        best = max(found, key=lambda rate: rate.solved / rate.seeds)
        return (
            f"no {letter} was solved by most of the seeds; the most is {best.solved} of {best.seeds} "
            f"at {best.value:g}."
        )
    last = most[-1]
    told = f"solved by {last.solved} of {last.seeds} seeds at {letter} = {last.value:g}"
    further = [rate for rate in found if rate.value > last.value]
    if further:
        told += f", by {further[0].solved} of {further[0].seeds} at {further[0].value:g}"
    return told + "."
