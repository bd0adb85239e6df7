"""How the benchmark measures: workers that take turns, and the comparison before it.

Nothing is timed that does not compute what the plain scan computes. Contenders take turns in short
rounds, so that a machine that slows down slows all of them down; a ratio is taken within a round.
Where no ratio is taken (how the step scales), each has its time after the other.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rnnlab.bench.contenders.contender import Case
from rnnlab.bench.output import Report
from rnnlab.bench.worker import Worker, WorkerDied
from rnnlab.run.signals import tidied

REFERENCE = "rnnlab-plain"
TOLERANCE = 1e-3  # of the norm of the logits, of the loss, or of one leaf of a tree
LACKS = {"flax": ("ugrnn",), "torch": ("ugrnn",), "torch-compile": ("ugrnn",)}
ROUNDS = 3  # at least
SLICE = 0.5  # seconds a contender works in its turn


class Team:
    """The workers of one memory mode, by library; each is started when it is first needed.

    A worker that dies is one line in the report, and the others go on; so is a library that is
    not installed. What a death leaves undone is None.
    """

    def __init__(self, report: Report, *, threads: int, retain: bool):
        self.report, self.threads, self.retain = report, threads, retain
        self.workers: dict[str, Worker] = {}

    def attempt(self, library: str, action: Callable[[Worker], Any]) -> Any:
        """What `action` makes of the library's worker; None if it dies."""
        try:
            if library not in self.workers:
                # rnnlab as its launcher starts it, which retains memory in either mode.
                retain = self.retain or library.startswith("rnnlab")
                self.workers[library] = Worker(library, threads=self.threads, retain=retain)
            return action(self.workers[library])
        except WorkerDied as error:
            del self.workers[library]
            self.report.note(f"{library}: its worker died: {error}")
            self.report.failed |= library.startswith("rnnlab")
            return None

    def ask(self, library: str, request: str, /, **arguments: Any) -> Any:
        """The answer of the library's worker; None if it dies."""
        return self.attempt(library, lambda worker: worker.ask(request, **arguments))

    def kill(self) -> None:
        """End all workers, now."""
        for worker in [*self.workers.values()]:
            worker.process.kill()

    def close(self) -> None:
        """End all workers."""
        while self.workers:
            self.workers.popitem()[1].close()


@contextmanager
def open_team(report: Report, *, threads: int, retain: bool) -> Iterator[Team]:
    """A Team that is closed whatever happens, Ctrl-C included."""
    made = Team(report, threads=threads, retain=retain)
    try:
        with tidied(made.kill):
            yield made
    finally:
        made.close()


class Agreed(NamedTuple):
    """Of a library that computes what the reference does."""

    difference: float  # the largest relative one
    first: float | None  # seconds of the first train step, which compiles; None if none was taken


def verified(
    team: Team, case: Case, libraries: Iterable[str], *, trained: bool = True
) -> dict[str, Agreed]:
    """Set up the case in all libraries that have the cell, and compare each with the reference at
    the same weights: logits, loss, every leaf of the gradient and, if `trained`, of the weights
    and of Adam's moment after one train step of the kind that is timed.

    Returns those that may be timed; see TOLERANCE.
    """
    team.report.progress(f"{case.cell} {case.shape}")
    if team.attempt(REFERENCE, lambda worker: (worker.ask("reference", case=case),)) is None:
        team.report.note(f"{case.cell} {case.shape}: no reference, so nothing is timed")
        return {}
    fine = {}
    for library in libraries:
        if case.cell in LACKS.get(library, ()):
            continue
        if REFERENCE not in team.workers:
            break  # it died, and so did what it knew
        weights = team.ask(REFERENCE, "exported", library=library)

        def prepare(worker: Worker, weights: Any = weights) -> Any:
            worker.ask("setup", case=case, weights=weights)
            found, first = worker.ask("check"), None
            if trained:
                (first,) = worker.ask("times", steps=1)
                found |= worker.ask("trained")
            return found, first

        answer = None if weights is None else team.attempt(library, prepare)
        if answer is None:
            continue
        found, first = answer
        errors = team.ask(REFERENCE, "compare", library=library, found=found)
        if errors is None:
            continue
        # Not a number is the worst of all.
        worst = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
        if errors[worst] <= TOLERANCE:
            fine[library] = Agreed(errors[worst], first)
            continue
        team.report.failed |= library.startswith("rnnlab")
        team.report.note(
            f"{library}: refused, {case.cell} {case.shape} is not timed: {worst} differs from "
            f"{REFERENCE} by {errors[worst]:.1e} of its norm, more than {TOLERANCE:.0e}"
        )
    return fine


Rounds = dict[str, list[list[float]]]  # library -> the times of each round, in seconds


def time_in_turns(team: Team, work: dict[str, dict[str, Any]], request: str, rounds: int) -> Rounds:
    """Ask all libraries in turn, `rounds` times over, each with its own arguments.

    The order turns with the rounds. A library that dies has no entry.
    """
    found: Rounds = {library: [] for library in work}
    for turn in range(rounds):
        names = list(found)
        for library in names[turn % len(names) :] + names[: turn % len(names)] if names else []:
            times = team.ask(library, request, **work[library])
            if times is None:
                del found[library]
            else:
                found[library].append(times)
    return found


def quartiles(rounds: list[list[float]]) -> tuple[float, float, float]:
    """(median, first quartile, third quartile) of all times."""
    times = [seconds for turn in rounds for seconds in turn]
    if len(times) == 1:
        return times[0], times[0], times[0]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return middle, low, high


def quartiles_in_ms(rounds: list[list[float]]) -> dict[str, float]:
    """Columns of a table: `quartiles` in milliseconds."""
    middle, low, high = quartiles(rounds)
    return {"ms a step": middle * 1e3, "quartile 1": low * 1e3, "quartile 3": high * 1e3}


def speedup(rounds: Rounds, library: str, other: str) -> float | None:
    """How many times as fast as `other`: the median over rounds of the ratio within a round."""
    if library not in rounds or other not in rounds:
        return None
    median = statistics.median
    pairs = zip(rounds[library], rounds[other], strict=True)
    return median([median(theirs) / median(own) for own, theirs in pairs])


def plan_rounds(once: dict[str, float], seconds: float) -> tuple[dict[str, int], int]:
    """(steps a turn of each library, rounds) from the seconds one step takes each, so that a
    library is timed for about `seconds`, and ROUNDS times at least."""
    share = min(SLICE, seconds / ROUNDS)
    steps = {library: max(1, round(share / spent)) for library, spent in once.items()}
    longest = max([share, *once.values()])
    return steps, max(ROUNDS, round(seconds / longest))


def time_steps(team: Team, libraries: Iterable[str], seconds: float) -> Rounds:
    """The times of the train step of what is set up and has taken one."""
    once = {}
    for library in libraries:
        if times := team.ask(library, "times", steps=1):
            once[library] = times[0]
    steps, rounds = plan_rounds(once, seconds) if once else ({}, 0)
    work = {library: {"steps": count} for library, count in steps.items()}
    return time_in_turns(team, work, "times", rounds)


def peak_rate(team: Team, libraries: Iterable[str], seconds: float) -> float | None:
    """The most floating-point operations a second of large float32 matrix products on this machine
    now, the better of XLA and PyTorch; None if neither could say."""
    found = {"XLA": team.ask(REFERENCE, "peak_flops", seconds=seconds)}
    if "torch" in libraries:
        found["PyTorch"] = team.ask("torch", "peak_flops", seconds=seconds)
    known = {name: rate for name, rate in found.items() if rate}
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s by {name}" for name, rate in known.items())
    team.report.content.setdefault("peak_flops", []).append(known)
    team.report.note(f"large float32 matrix product: {rates}")
    return max(known.values(), default=None)
