"""Kills: SIGKILL, SIGTERM and SIGINT at random moments of every phase of a run and of a sweep.

A run is started, killed, and started again by the same command, until it has been struck often enough and
is left to end. A kill survives if every checkpoint that is listed is whole, the newest one (of a sweep: the
newest of all its members) is not older than before, every JSON file is whole or not there, and the next
start goes on; the run, if it ends with parameters, optimiser, average, carried state, random key, rows and
samples equal to the bit to those of one that nothing struck, no row missing or twice. A signal survives if,
besides, the process ends within a step and a second with 128 + its number and the state of that step saved.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rnnlab.errors import UsageError
from rnnlab.run import checkpoint
from rnnlab.run.files import read_json
from tests.faults import lab as laboratory
from tests.faults._child import PHASES, SIZE, Board
from tests.faults.lab import SMALL, Lab, Tally
from tests.support import ROOT

SHORT = 0.005
KILLS, SWEEPS, SIGNALS = 240, 60, 60  # at share 1
EACH = 10  # strikes a run, before it is left to end
PATIENCE = 120.0  # seconds for a phase to come
SPANS = {  # seconds from the beginning of a phase to the strike, at most: about as long as it takes
    "start-up": 4.0,
    "description": 0.05,
    "compilation": 1.5,
    "step": 0.02,
    "validation": 0.3,
    "sample": 0.3,
    "checkpoint": 0.06,
    "commit": 0.002,
    "retention": 0.01,
    "sweep's files": 0.02,
    "summary": 0.5,
}
OFTEN = (
    "step",
    "validation",
    "checkpoint",
    "commit",
    "retention",
)  # which come more than once a start
PROMPT = (
    2.0  # seconds after a signal: "a step and a second", on a machine that does other things too
)

SWEEP = """
import importlib.util
spec = importlib.util.spec_from_file_location("default", {default!r})
default = importlib.util.module_from_spec(spec)
spec.loader.exec_module(default)


def get_config():
    return default.get_config()


def sweep(add):
    for seed in range(2):
        for threshold in (0.1, 1.0):
            add(**{{"seed": seed, "optim.clip_norm": threshold}})
"""


class Victim(NamedTuple):
    """A command that is struck, and what it leaves."""

    arguments: list[str]
    workdir: Path
    runs: tuple[Path, ...]  # run folders in it
    references: tuple[Path, ...]  # the same, undisturbed


class Strike(NamedTuple):
    number: int  # of the signal
    phase: str  # to aim at
    occurrence: int
    delay: float  # seconds after the phase began
    twice: bool


def state(runs: tuple[Path, ...]) -> tuple[int, list[str]]:
    """(the newest step of which all have a checkpoint, what is wrong with their files). Members of a
    sweep that are one program go on from that step; what one of them alone has is made again."""
    there, wrong = [], []
    for run in runs:
        root = run / "checkpoints"
        steps = checkpoint.steps(root)
        there.append(set(steps))
        for step in steps:
            if fault := checkpoint.fault(root, step):
                wrong.append(f"{run.name}: checkpoint {step}: {fault}")
        for path in run.glob("[!.]*.json"):
            try:
                read_json(path)
            except UsageError as error:
                wrong.append(str(error))
    return max(set.intersection(*there), default=0), wrong


class Struck(NamedTuple):
    """How a start ended."""

    phase: str  # that it was in; "" if it ended by itself before
    code: int
    seconds: float  # from the signal to the end
    said: str


def strike(lab: Lab, victim: Victim, blow: Strike | None) -> Struck:
    """Start the command and strike it, or let it end."""
    path = lab.folder / f"board-{threading.get_ident()}"
    path.write_bytes(bytes(SIZE))
    board = Board(path)
    with lab.start(
        str(path),
        *victim.arguments,
        program=("-m", "tests.faults._child"),
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        phase, sent = "", time.monotonic()
        if blow is not None:
            until = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < until:
                if board.entered(blow.phase) >= blow.occurrence:
                    break
                time.sleep(0.0005)
            time.sleep(blow.delay)
            if process.poll() is None:
                phase, sent = board.now(), time.monotonic()
                process.send_signal(blow.number)
                if blow.twice:
                    time.sleep(0.05)
                    process.send_signal(blow.number)
        _, said = process.communicate(timeout=600)
    return Struck(phase, process.returncode, time.monotonic() - sent, said)


def wrong_end(blow: Strike, struck: Struck, newest: int) -> str:
    """What is wrong with how a process ended that was sent a signal; "" if nothing is."""
    last = struck.said.strip().split("\n")[-1]
    if "Traceback" in struck.said:
        return f"a traceback: {last}"
    if blow.number == signal.SIGKILL or struck.code == 0:  # it may have been about to end
        return ""
    if struck.code not in (128 + blow.number, -blow.number):
        return f"exit code {struck.code}: {last}"
    if struck.phase in ("start-up", "description", "compilation", "sweep's files"):
        return ""  # not yet under way: there is nothing to save, or one step must end first
    if struck.seconds > PROMPT:
        return f"it took {struck.seconds:.1f} s to end in the phase {struck.phase}"
    return (
        ""
        if f"after step {newest};" in struck.said
        else f"the state of the last step is not saved: {last}"
    )


def run_down(lab: Lab, victim: Victim, blows: list[Strike]) -> list[tuple[str, str]]:
    """Strike the command until it has ended; (phase, what was lost or "") for each that struck. Those that
    it ended before stay in `blows`."""
    found: list[tuple[str, str]] = []
    before = 0
    for _ in range(EACH + 1):
        blow = blows[0] if blows and len(found) < EACH else None
        struck = strike(lab, victim, blow)
        newest, wrong = state(victim.runs)
        if newest < before:
            wrong.append(f"the newest checkpoint was {before}, then {newest}")
        if struck.phase and blow:
            blows.pop(0)
            wrong += filter(None, [wrong_end(blow, struck, newest)])
            found.append((struck.phase, "; ".join(wrong)))
        elif struck.code:
            found.append(
                ("the next start", f"exit code {struck.code}: {struck.said.strip()[-300:]}")
            )
            return found
        else:
            break
        before = newest
    for run, reference in zip(victim.runs, victim.references, strict=True):
        if different := laboratory.differences(run, reference):
            found.append(("the end", f"{run}: not the same: {', '.join(different)}"))
    return found


def planned(
    lab: Lab, count: int, signals: tuple[int, ...], phases: tuple[str, ...]
) -> list[Strike]:
    """Strikes spread over the phases in turn, at random moments."""
    draw, found = lab.random, []
    for number in range(count):
        phase = phases[number % len(phases)]
        found.append(
            Strike(
                number=signals[number % len(signals)],
                phase=phase,
                occurrence=draw.choice((1, 1, 2)) if phase in OFTEN else 1,
                delay=draw.uniform(0, SPANS[phase]),
                twice=signals != (signal.SIGKILL,) and number % 4 == 3,
            )
        )
    draw.shuffle(found)
    return found


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    of_run = tuple(phase for phase in PHASES if phase != "sweep's files")
    of_sweep = tuple(phase for phase in PHASES if phase != "sample")
    config = lab.folder / "four.py"
    config.write_text(SWEEP.format(default=str(ROOT / "experiments" / "default.py")))
    flags = [
        f"--config.{change}" for change in (*SMALL, f"data.path={lab.text}", "train.sample_every=0")
    ]

    def run() -> Victim:
        workdir = lab.place("killed")
        return Victim(["train", *lab.flags(workdir)], workdir, (workdir,), (lab.straight,))

    reference = lab.place("sweep")

    def members(folder: Path) -> tuple[Path, ...]:
        return (
            tuple(sorted((reference / "members").iterdir()))
            if folder == reference
            else tuple(folder / "members" / path.name for path in members(reference))
        )

    def sweep() -> Victim:
        workdir = lab.place("sweep")
        arguments = ["sweep", f"--config={config}", f"--workdir={workdir}", *flags]
        return Victim(arguments, workdir, members(workdir), members(reference))

    kinds = [
        ("SIGKILL while it trains", KILLS, (signal.SIGKILL,), of_run, run),
        ("SIGKILL in a sweep", SWEEPS, (signal.SIGKILL,), of_sweep, sweep),
        (
            "SIGTERM or SIGINT, one in four twice",
            SIGNALS,
            (signal.SIGTERM, signal.SIGINT),
            of_run,
            run,
        ),
    ]
    assert lab.straight
    for fault, whole, signals, phases, make in kinds:
        if make is sweep and share <= SHORT:  # it starts four runs
            continue
        if make is sweep:
            done = lab.run("sweep", f"--config={config}", f"--workdir={reference}", *flags)
            assert done.code == 0, done.err
        blows = planned(lab, lab.many(whole, share), signals, phases)
        row = Tally(fault)

        def until_none_is_left(blows: list[Strike], make=make, row=row) -> None:
            while blows:
                victim = make()
                for phase, problem in run_down(lab, victim, blows):
                    row.count(f"in {phase}", problem)
                shutil.rmtree(victim.workdir)

        workers = min(2, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            for job in [pool.submit(until_none_is_left, blows[i::workers]) for i in range(workers)]:
                job.result()
        yield row
