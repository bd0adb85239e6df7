"""How a sweep is run: members as one program, as local processes, or as jobs of a cluster.

Whatever runs them, members are run folders, and those that have ended are not run again.
"""

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jax

from rnnlab.errors import DivergedError, Interrupted, UsageError
from rnnlab.run import checkpoint, machine, signals
from rnnlab.run import config as configuration
from rnnlab.run.display import Display, clock
from rnnlab.run.files import read_rows, write_json
from rnnlab.run.folder import lock
from rnnlab.run.signals import Received
from rnnlab.sweep import population, slurm
from rnnlab.sweep.members import (
    Group,
    Member,
    Sweep,
    groups,
    last_line,
    opened,
    prepare,
    summary,
    told_of,
)
from rnnlab.train import memory, train
from rnnlab.train.record import Record

HALVING = "--halving is for --executor=vmap: members must wait for each other"
EXECUTORS = ("vmap", "local", "slurm")


def run(
    folder: Path,
    members: tuple[Member, ...] | None,
    *,
    executor: str,
    halving: int | None,
    say: Callable[[str], None],
    asked: slurm.Options,
    launch: Sequence[str],
) -> int:
    """Run what is left of a sweep; how many members have failed.

    executor: one of EXECUTORS. asked: `jobs` at once, for "local" too, where 0 is as many as there are
        cores; the rest is for "slurm".
    halving: eta > 1 for successive halving, see `rungs`; 0 for none; None for what the folder says.
    launch: the words that start the launcher in another process, to which a verb and its flags are added.

    Raises UsageError for a bad member or folder, `Interrupted` after SIGINT or SIGTERM.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"--executor must be one of {', '.join(EXECUTORS)}, got '{executor}'")
    for name, value in asked._asdict().items():
        if value is not None and name != "jobs" and executor != "slurm":
            raise UsageError(f"--{name} is for --executor=slurm")
    if asked.jobs and executor == "vmap":
        raise UsageError("--jobs is for --executor=local or slurm: a vmapped sweep is one process")
    if asked.jobs < 0:
        raise UsageError(f"--jobs must be at least 1, got {asked.jobs}")
    if halving is not None and (halving < 0 or halving == 1):
        raise UsageError(f"--halving must be at least 2, or 0 for none, got {halving}")
    if halving and executor != "vmap":
        raise UsageError(HALVING)
    if members is not None and halving and len({m.config.train.steps for m in members}) > 1:
        raise UsageError("--halving needs members of the same train.steps")
    if executor == "slurm":
        slurm.check(asked)
    checked = groups(members) if members is not None else groups(opened(folder).members)
    with lock(folder):
        task = checked[0].tasks[0]
        sweep = prepare(folder, members, unit=task.unit, halving=halving, measure=task.measure)
        if sweep.halving and executor != "vmap":
            raise UsageError(HALVING)
        left = [m for m in sweep.members if summary(sweep, m) is None]
        say(f"{len(sweep.members)} members, {len(left)} to run, in {folder}")
        if executor == "local":
            return _local(sweep, left, asked.jobs or machine.cores(), say, launch)
        if executor == "slurm":
            return slurm.run(sweep, left, asked, say, launch)
        with signals.deferred() as caught:
            for rung in rungs(sweep):
                for group in checked:
                    with memory.told(group.members[0].config):
                        _vmapped(sweep, _going_on(sweep, group), rung, say, caught)
                    # In a last step, or after it, a signal has stopped nothing yet.
                    open_ = [m for m in sweep.members if summary(sweep, m) is None]
                    if caught.received is not None and open_:
                        raise Interrupted(
                            f"interrupted; the states are saved: resume with "
                            f"python launch.py sweep --workdir={sweep.folder}",
                            caught.received,
                        )
                _halve(sweep, rung, say)
    return 0


# ---- successive halving


def rungs(sweep: Sweep) -> list[int]:
    """The steps at which members wait for each other, the last one included.

    With eta = `halving` (Jamieson and Talwalkar 2016): at S / eta^k steps of S, for every k for
    which more than one member would be left, the 1/eta of those with the lowest validation loss
    there go on, rounded up, and the others stop.
    """
    steps = sweep.members[0].config.train.steps
    found, left, k = [steps], len(sweep.members), 1
    while sweep.halving and left > 1 and steps // sweep.halving**k >= 1:
        found.append(steps // sweep.halving**k)
        left, k = -(-left // sweep.halving), k + 1
    return found[::-1]


def _going_on(sweep: Sweep, group: Group) -> Group:
    """Without those that halving has stopped."""
    kept = [
        (member, task)
        for member, task in zip(group.members, group.tasks, strict=True)
        if "stopped_at" not in (summary(sweep, member) or {})
    ]
    return Group(tuple(m for m, _ in kept), tuple(t for _, t in kept))


def _halve(sweep: Sweep, rung: int, say: Callable[[str], None]) -> None:
    """Stop all but the best of those that have come to this rung. What has been stopped before an
    interruption does not count less: the choice comes out the same."""
    if rung >= sweep.members[0].config.train.steps:
        return
    reached: dict[str, float] = {}
    for member in sweep.members:
        path = sweep.path(member) / "metrics.jsonl"
        for row in read_rows(path) if path.exists() else []:
            if row["split"] == "valid" and row["step"] == rung:
                reached[member.name] = float(row["loss"])
    # NaN has no place in an order: what is not finite comes last.
    order = sorted(reached, key=lambda n: (not math.isfinite(reached[n]), reached[n], n))
    best = set(order[: -(-len(order) // sweep.halving)])
    stopped = 0
    for member in sweep.members:
        if member.name in reached and member.name not in best and summary(sweep, member) is None:
            path = sweep.path(member) / "summary.json"
            found = {"valid_loss": reached[member.name], "valid_step": rung, "steps": rung}
            write_json(path, found | {"stopped_at": rung})
            stopped += 1
    if stopped:
        say(f"step {rung}: {len(best)} of {len(order)} members go on, the best {order[0]}")


# ---- one program for a group


def _vmapped(
    sweep: Sweep,
    group: Group,
    until: int,
    say: Callable[[str], None],
    caught: Received,
) -> None:
    """Train a group to a step, in as many programs one after another as memory asks for."""
    members, size = group.members, len(group.members)
    if all(_there(sweep, member, until) for member in members):
        return
    devices = jax.local_devices()[: members[0].config.parallel.devices or None]
    first = members[0].config
    memory.check(first, group.tasks[0], train.optimiser_of(first, {}), devices[:1])
    there = population.budget(devices)

    def compiled(start: int) -> tuple[population.Population, int]:
        end = min(start + size, len(members))
        crew = population.Population(
            [member.config for member in members[start:end]],
            group.tasks[start:end],
            devices,
            lambda: caught.received,
        )
        return crew, crew.compile()

    began = time.monotonic()
    crew, needs = compiled(0)
    while needs > there and size > 1:
        fits = max(1, min(size - 1, int(size * there / needs)))
        say(
            f"{size} members take {needs / 2**30:.2f} GiB and there are {there / 2**30:.2f}: "
            f"{fits} at a time"
        )
        size = fits
        crew, needs = compiled(0)
    for start in range(0, len(members), size):
        part = members[start : start + size]
        if caught.received is not None or all(_there(sweep, member, until) for member in part):
            continue
        if start:
            began = time.monotonic()
            crew, _ = compiled(start)
        _population(sweep, part, crew, until, began)


def _population(
    sweep: Sweep,
    members: Sequence[Member],
    crew: population.Population,
    until: int,
    began: float,
) -> None:
    """Train the members of one program from the last step that they have in common to `until`."""
    config = members[0].config
    task = crew.tasks[0]
    paths = [sweep.path(member) for member in members]
    ended = [summary(sweep, member) for member in members]
    open_ = [path for path, found in zip(paths, ended, strict=True) if found is None]
    display = Display(config.train.steps, task.unit, measure=task.measure)
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(lock(path))
        stack.enter_context(display)
        start = _common(open_, display)
        records: list[Record | None] = []
        for number, (member, path) in enumerate(zip(members, paths, strict=True)):
            if ended[number] is not None:
                records.append(None)
                continue
            record = Record(
                member.config,
                path,
                crew.tasks[number],
                train.optimiser_of(member.config, {}),
                Display(config.train.steps, task.unit, silent=member.name),
                overrides=[f"{key}={configuration.spelt(v)}" for key, v in member.changes.items()],
                split=crew.name,
                started=began,
                step=start,
                keep=2,
            )
            records.append(stack.enter_context(record))
        train.introduce(display, config, task, start)
        display.say(f"{len(members)} members in one program over {len(crew.devices)} devices")
        crew.begin(records, display)
        command = f"python launch.py sweep --workdir={sweep.folder}"
        with contextlib.suppress(DivergedError):  # each of them has said so
            train.loop(crew, config.train, display=display, again=command, until=until)
        if until < config.train.steps:
            return
        for number, record in enumerate(records):
            if record is not None and not record.ended:
                record.finish(config.train.steps, crew.params(number))
        spent = clock(time.monotonic() - began)
        display.say(f"{len(members)} members done in {spent}")


def _there(sweep: Sweep, member: Member, step: int) -> bool:
    """Whether the member has ended, or waits at this step for the others."""
    if summary(sweep, member) is not None:
        return True
    waits = step < member.config.train.steps
    return waits and checkpoint.fault(sweep.path(member) / "checkpoints", step) == ""


def _common(paths: Sequence[Path], display: Display) -> int:
    """The last step of which all these runs have a whole checkpoint, 0 if there is none; what
    comes after it is dropped, and will be done again."""
    roots = [path / "checkpoints" for path in paths]
    for root in roots:
        checkpoint.clean(root)
    common = set.intersection(*(set(checkpoint.steps(root)) for root in roots))
    step = 0
    for number in sorted(common, reverse=True):
        faults = {root: checkpoint.fault(root, number) for root in roots}
        broken = [f"{root}, step {number}: {fault}" for root, fault in faults.items() if fault]
        if not broken:
            step = number
            break
        display.warn(f"{'; '.join(broken)}: all members go on from an earlier step")
    for root in roots:
        checkpoint.drop(root, after=step)
    return step


# ---- a process for each member


def _local(
    sweep: Sweep,
    left: Sequence[Member],
    jobs: int,
    say: Callable[[str], None],
    launch: Sequence[str],
) -> int:
    """Run the members as processes of their own; how many have failed."""
    threads = max(1, machine.cores() // jobs)
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = 0

    def one(member: Member) -> tuple[Member, int, float]:
        try:
            return run_one(member)
        except OSError as error:  # it could not be started
            say(f"{member.name}: {error}")
            return member, 5, 0.0

    def run_one(member: Member) -> tuple[Member, int, float]:
        path, began = sweep.path(member), time.monotonic()
        if caught.received is not None:
            return member, -1, 0.0
        with (path / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*launch, "train", f"--workdir={path}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # On a GPU none may take all of the memory for itself.
                env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
                | os.environ
                | {"NPROC": str(threads)},
                start_new_session=True,
            )
            running[member.name] = process
            if caught.received is not None:
                process.terminate()
            try:
                return member, process.wait(), time.monotonic() - began
            finally:
                running.pop(member.name, None)

    with signals.deferred() as caught, ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(one, member) for member in left}
        told = False
        done = 0
        while waiting:
            try:
                for future in as_completed(waiting, timeout=0.2):
                    waiting.discard(future)
                    member, code, spent = future.result()
                    if caught.received is not None:
                        continue
                    done += 1
                    found = summary(sweep, member)
                    if found is None:
                        failed += 1
                        say(
                            f"{done}/{len(left)} {member.name} failed: "
                            + last_line(sweep.path(member) / "log.txt", f"exit code {code}")
                        )
                    else:
                        say(f"{done}/{len(left)} {member.name} {told_of(found)} ({clock(spent)})")
                    break
            except TimeoutError:
                pass
            if caught.received is not None and not told:
                told = True
                for process in list(running.values()):
                    process.terminate()
    if caught.received is not None:
        raise Interrupted(
            f"interrupted; the states are saved: resume with "
            f"python launch.py sweep --workdir={sweep.folder} --executor=local",
            caught.received,
        )
    return failed
