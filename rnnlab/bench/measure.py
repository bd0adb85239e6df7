"""How the benchmark measures: workers that take turns, the comparison before it, the report after.

Nothing is timed that does not compute what the plain scan computes. Contenders take turns in short
rounds, so that a machine that slows down slows all of them down; a ratio is taken within a round.
Where no ratio is taken (how the step scales), each has its time after the other.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rnnlab.bench.contenders.contender import Case
from rnnlab.bench.worker import Worker, WorkerDied
from rnnlab.errors import RnnlabError
from rnnlab.run import machine
from rnnlab.run.command import Program

REFERENCE = "rnnlab-plain"
TOLERANCE = 1e-3  # of the norm of the logits, of the loss, or of one leaf of a tree
LACKS = {"flax": ("ugrnn",), "torch": ("ugrnn",), "torch-compile": ("ugrnn",)}
ROUNDS = 3  # at least
SLICE = 0.5  # seconds a contender works in its turn


class Report:
    """What is printed: tables and lines at once, or one JSON object at the end."""

    def __init__(self, target: str | None, facts: dict[str, Any]):
        self.target, self.failed = target, False
        self.content: dict[str, Any] = {**facts, "tables": [], "notes": []}
        if target not in (None, "-"):
            with open(target, "a", encoding="utf-8"):
                pass  # a file that cannot be written is known now, not at the end
        self._print(machine.line(facts["machine"]) + "\n")

    def _print(self, text: str) -> None:
        # JSON on standard output leaves standard error to what a person reads meanwhile.
        print(text, file=sys.stderr if self.target == "-" else sys.stdout, flush=True)

    def progress(self, text: str) -> None:
        """What is going on, for a person who watches."""
        if sys.stderr.isatty():
            print(f"... {text}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """One line beside the tables."""
        self.content["notes"].append(line)
        self._print(line + "\n")

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """A table of rows with the same keys; None is an empty field."""
        self.content["tables"].append({"title": title, "rows": rows})
        self._print(
            f"{title}\n\n{markdown(rows)}\n" if rows else f"{title}: nothing was measured\n"
        )

    def finish(self) -> None:
        """Write the JSON, if it was asked for."""
        if self.target is None:
            return
        text = json.dumps(self.content, indent=2) + "\n"
        if self.target == "-":
            print(text, end="")
        else:
            Path(self.target).write_text(text, encoding="utf-8")


def cell_text(value: Any) -> str:
    """A field of a table: three significant digits or so."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or (value and abs(value) < 1e-3):
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table in GitHub's Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell_text(row[name]) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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

    def close(self) -> None:
        """End all workers."""
        while self.workers:
            self.workers.popitem()[1].close()


@contextmanager
def team(report: Report, *, threads: int, retain: bool) -> Iterator[Team]:
    """A Team that is closed whatever happens, Ctrl-C included."""
    made = Team(report, threads=threads, retain=retain)
    try:
        yield made
    finally:
        made.close()


class Agreed(NamedTuple):
    """Of a library that computes what the reference does."""

    difference: float  # the largest relative one
    first: float | None  # seconds of the first train step, which compiles; None if none was taken


def agreeing(
    crew: Team, case: Case, libraries: Iterable[str], *, trained: bool = True
) -> dict[str, Agreed]:
    """Set up the case in all libraries that have the cell, and compare each with the reference at
    the same weights: logits, loss, every leaf of the gradient and, if `trained`, of the weights
    and of Adam's moment after one train step of the kind that is timed.

    Returns those that may be timed; see TOLERANCE.
    """
    crew.report.progress(f"{case.cell} {case.shape}")
    if crew.attempt(REFERENCE, lambda worker: (worker.ask("reference", case=case),)) is None:
        crew.report.note(f"{case.cell} {case.shape}: no reference, so nothing is timed")
        return {}
    fine = {}
    for library in libraries:
        if case.cell in LACKS.get(library, ()):
            continue
        if REFERENCE not in crew.workers:
            break  # it died, and so did what it knew
        weights = crew.ask(REFERENCE, "exported", library=library)

        def prepare(worker: Worker, weights: Any = weights) -> Any:
            worker.ask("setup", case=case, weights=weights)
            found, first = worker.ask("check"), None
            if trained:
                (first,) = worker.ask("times", steps=1)
                found |= worker.ask("trained")
            return found, first

        answer = None if weights is None else crew.attempt(library, prepare)
        if answer is None:
            continue
        found, first = answer
        errors = crew.ask(REFERENCE, "compare", library=library, found=found)
        if errors is None:
            continue
        # Not a number is the worst of all.
        worst = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
        if errors[worst] <= TOLERANCE:
            fine[library] = Agreed(errors[worst], first)
            continue
        crew.report.failed |= library.startswith("rnnlab")
        crew.report.note(
            f"{library}: refused, {case.cell} {case.shape} is not timed: {worst} differs from "
            f"{REFERENCE} by {errors[worst]:.1e} of its norm, more than {TOLERANCE:.0e}"
        )
    return fine


Rounds = dict[str, list[list[float]]]  # library -> the times of each round, in seconds


def interleaved(crew: Team, work: dict[str, dict[str, Any]], request: str, rounds: int) -> Rounds:
    """Ask all libraries in turn, `rounds` times over, each with its own arguments.

    The order turns with the rounds. A library that dies has no entry.
    """
    found: Rounds = {library: [] for library in work}
    for turn in range(rounds):
        names = list(found)
        for library in names[turn % len(names) :] + names[: turn % len(names)] if names else []:
            times = crew.ask(library, request, **work[library])
            if times is None:
                del found[library]
            else:
                found[library].append(times)
    return found


def summary(rounds: list[list[float]]) -> tuple[float, float, float]:
    """(median, first quartile, third quartile) of all times."""
    times = [seconds for turn in rounds for seconds in turn]
    if len(times) == 1:
        return times[0], times[0], times[0]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return middle, low, high


def spread(rounds: list[list[float]]) -> dict[str, float]:
    """Columns of a table: `summary` in milliseconds."""
    middle, low, high = summary(rounds)
    return {"ms a step": middle * 1e3, "quartile 1": low * 1e3, "quartile 3": high * 1e3}


def speed(rounds: Rounds, library: str, other: str) -> float | None:
    """How many times as fast as `other`: the median over rounds of the ratio within a round."""
    if library not in rounds or other not in rounds:
        return None
    median = statistics.median
    pairs = zip(rounds[library], rounds[other], strict=True)
    return median([median(theirs) / median(own) for own, theirs in pairs])


def plan(once: dict[str, float], seconds: float) -> tuple[dict[str, int], int]:
    """(steps a turn of each library, rounds) from the seconds one step takes each, so that a
    library is timed for about `seconds`, and ROUNDS times at least."""
    share = min(SLICE, seconds / ROUNDS)
    steps = {library: max(1, round(share / spent)) for library, spent in once.items()}
    longest = max([share, *once.values()])
    return steps, max(ROUNDS, round(seconds / longest))


def measured(crew: Team, libraries: Iterable[str], seconds: float) -> Rounds:
    """The times of the train step of what is set up and has taken one."""
    once = {}
    for library in libraries:
        if times := crew.ask(library, "times", steps=1):
            once[library] = times[0]
    steps, rounds = plan(once, seconds) if once else ({}, 0)
    work = {library: {"steps": count} for library, count in steps.items()}
    return interleaved(crew, work, "times", rounds)


def peak(crew: Team, libraries: Iterable[str], seconds: float) -> float | None:
    """The most floating-point operations a second of large float32 matrix products on this machine
    now, the better of XLA and PyTorch; None if neither could say."""
    found = {"XLA": crew.ask(REFERENCE, "peak_flops", seconds=seconds)}
    if "torch" in libraries:
        found["PyTorch"] = crew.ask("torch", "peak_flops", seconds=seconds)
    known = {name: rate for name, rate in found.items() if rate}
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s by {name}" for name, rate in known.items())
    crew.report.content.setdefault("peak_flops", []).append(known)
    crew.report.note(f"large float32 matrix product: {rates}")
    return max(known.values(), default=None)


def first_step(program: Program, folder: Path, cache: Path, threads: int) -> float:
    """Seconds from the launch of a training run in a new `folder` to the row of its first step.

    program: what is launched. cache: the RNNLAB_CACHE of that process. Raises RnnlabError if the
    launch fails.
    """
    folder.mkdir()
    text, rows, errors = folder / "text.txt", folder / "run" / "metrics.jsonl", folder / "errors"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 2000, encoding="utf-8")
    changes = {
        "data.path": text,
        "train.steps": 1,
        "train.log_every": 1,
        "optim.warmup_steps": 0,
        "eval.random_windows": 1,
        "sample.length": 10,
    }
    command = [*program.command, "train", "--config=experiments/default.py"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    environment = os.environ | {"RNNLAB_CACHE": str(cache), "NPROC": str(threads)}
    environment["JAX_PLATFORMS"] = "cpu"
    with errors.open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={rows.parent}"],
            cwd=program.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            while not (rows.exists() and rows.stat().st_size) and process.poll() is None:
                time.sleep(0.002)
            spent = time.perf_counter() - began
            process.wait()  # the next launch finds all that this one compiles
        finally:
            process.kill()
            process.wait()
    if process.returncode or not rows.exists():
        said = errors.read_text(encoding="utf-8", errors="replace").strip().split("\n")
        raise RnnlabError(f"the launched training run failed: {said[-1]}")
    return spent


SWEEP = """
from experiments import default

def get_config():
    config = default.get_config()
    config.data.path = {text!r}
    config.model.hidden, config.model.layers = {hidden}, 1
    config.optim.warmup_steps = 0
    config.train.batch_size, config.train.window, config.train.steps = 32, 64, {steps}
    config.train.eval_every = config.train.checkpoint_every = {steps}
    config.train.sample_every = 0
    config.sample.length = 10
    return config

def sweep(add):
    for member in range({members}):
        add(**{{"optim.clip_norm": 0.1 * (member + 1)}})
"""


def sweep_seconds(
    program: Program, folder: Path, how: str, members: int, hidden: int, steps: int, threads: int
) -> float:
    """Seconds of a sweep of the clipping threshold, with a compilation cache of its own.

    how: "vmap" or "local", the executors of `launch.py sweep`; or "one after the other", a
        `launch.py train` for each member. Raises RnnlabError if a command fails.
    """
    folder.mkdir()
    text, config = folder / "text.txt", folder / "config.py"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 10_000, encoding="utf-8")
    source = SWEEP.format(text=str(text), hidden=hidden, steps=steps, members=members)
    config.write_text(source, encoding="utf-8")
    launch = program.command
    if how == "one after the other":
        commands = [
            [
                *launch,
                "train",
                f"--config={config}",
                f"--workdir={folder / str(member)}",
                f"--config.optim.clip_norm={0.1 * (member + 1)}",
            ]
            for member in range(members)
        ]
    else:
        commands = [[*launch, "sweep", f"--config={config}", f"--executor={how}"]]
        commands[0].append(f"--workdir={folder / 'sweep'}")
    environment = os.environ | {"RNNLAB_CACHE": str(folder / "cache"), "NPROC": str(threads)}
    environment["JAX_PLATFORMS"] = "cpu"
    began = time.perf_counter()
    for command in commands:
        done = subprocess.run(
            command, cwd=program.root, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            said = done.stderr.strip().split("\n")
            raise RnnlabError(f"a command of the sweep failed: {said[-1]}")
    return time.perf_counter() - began
