"""A sweep: one config, many members. Declared in a config file, kept in a folder, run, resumed.

    def sweep(add):
        for threshold in (0.1, 1.0, 10.0):
            for seed in range(3):
                add(**{"optim.clip_norm": threshold, "seed": seed})

A sweep's folder holds sweep.json, which says what the members are, and `members/`, in which each
member has a run folder like any other.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnlab import checkpoint, machine, population, runfolder, train
from rnnlab import config as configuration
from rnnlab.display import Display, clock
from rnnlab.record import Record
from rnnlab.types import (
    Config,
    DivergedError,
    Interrupted,
    Task,
    UsageError,
)

LAUNCHER = Path(__file__).resolve().parents[1] / "launch.py"
EXECUTORS = ("vmap", "local", "slurm")


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder
    changes: dict[str, Any]  # config key -> value, what it adds to the base
    config: Config


class Sweep(NamedTuple):
    """The members, and where they are."""

    folder: Path
    members: tuple[Member, ...]
    unit: str  # of the task: "char" ...
    halving: int  # eta of successive halving, 0 for none

    def path(self, member: Member) -> Path:
        """The member's run folder."""
        return self.folder / "members" / member.name


# ---- what the members are


def declared(path: str, overrides: list[str]) -> tuple[Member, ...]:
    """The members that a config file declares, each value checked, none built yet.

    overrides: "key=value" for all members.

    Raises UsageError if the file declares no sweep or an empty one, for an unknown key or a value of
    the wrong type, for a member twice, or an override of a key that the sweep sets.
    """
    rows: list[dict[str, Any]] = configuration.sweep(path)
    base = configuration.load(path, overrides)
    if not rows:
        raise UsageError(f"the sweep in '{path}' is empty: sweep(add) never calls add")
    fixed = {override.partition("=")[0] for override in overrides}
    members = []
    for number, changes in enumerate(rows):
        for key in changes.keys() & fixed:
            raise UsageError(f"--config.{key} is of no use: the sweep sets it for each member")
        config = base.copy_and_resolve_references()
        values = {}
        for key, value in changes.items():
            configuration.assign(config, key, configuration.spelt(value))
            values[key] = configuration.flat(config)[key]
        members.append(Member(_name(number, values), values, config.lock()))
    return _distinct(members)


def _distinct(members: Sequence[Member]) -> tuple[Member, ...]:
    seen: dict[Any, str] = {}
    for member in members:
        key = tuple(configuration.flat(member.config).items())
        if key in seen:
            raise UsageError(f"members {seen[key]} and {member.name} of the sweep are the same run")
        seen[key] = member.name
    return tuple(members)


def _name(number: int, changes: dict[str, Any]) -> str:
    """003_clip_norm=1_seed=0"""

    def text(value: Any) -> str:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return "".join(c if c.isalnum() or c in ".+-" else "-" for c in shown)

    words = [f"{key.rpartition('.')[2]}={text(value)}" for key, value in changes.items()]
    return "_".join([f"{number:03d}", *words])[:100]


class Group(NamedTuple):
    """Members that can be one program, and their tasks."""

    members: tuple[Member, ...]
    tasks: tuple[Task, ...]


def groups(members: Iterable[Member]) -> list[Group]:
    """The members by program, in the order of their first; every value checked.

    Raises UsageError for what no run could be made of; the message names the member.
    """
    found: dict[Any, list[tuple[Member, Task]]] = {}
    for member in members:
        try:
            task, _ = train.build(member.config)
        except UsageError as error:
            raise UsageError(f"member {member.name}: {error}") from error
        key = population.signature(member.config, task)
        found.setdefault(key, []).append((member, task))
    return [Group(*map(tuple, zip(*rows, strict=True))) for rows in found.values()]  # type: ignore


def show(members: tuple[Member, ...], say: Callable[[str], None]) -> None:
    """List the members of a sweep by program, each value checked; see `groups`."""
    found = groups(members)
    for number, group in enumerate(found, start=1):
        model = group.members[0].config.model
        say(
            f"program {number} of {len(found)}: {model.layers} x {model.hidden} {model.cell}, "
            f"{len(group.members)} members"
        )
        for member in group.members:
            say(f"  {member.name}")


# ---- the folder


def prepare(
    folder: Path, members: tuple[Member, ...] | None, *, unit: str, halving: int | None
) -> Sweep:
    """The sweep in `folder`: made of `members`, or as it was made; None for the latter.

    Raises UsageError if the folder holds something else, or another sweep.
    """
    path = folder / "sweep.json"
    if not path.exists():
        if members is None:
            raise UsageError(f"{folder} holds no sweep: give --config=FILE to start one")
        begun = (".lock", "members", ".sweep.json.writing")  # of a start that was cut off
        if any(p.name not in begun for p in folder.iterdir()):
            raise UsageError(f"{folder} holds no sweep, but other files: choose another --workdir")
        base = configuration.to_json(members[0].config)
        rows = [{"name": m.name, "changes": configuration.to_json(m.changes)} for m in members]
        for member in members:
            (folder / "members" / member.name).mkdir(parents=True, exist_ok=True)
            runfolder.write_json(
                folder / "members" / member.name / "config.json",
                configuration.to_json(member.config),
            )
        facts = {"command": list(sys.argv), "unit": unit, "halving": halving or 0, "config": base}
        runfolder.write_json(path, {**facts, "members": rows})
        return Sweep(folder, members, unit, halving or 0)
    kept = opened(folder)
    if halving is not None and halving != kept.halving:
        raise UsageError(
            f"{folder} holds a sweep with --halving={kept.halving}: choose another --workdir"
        )
    if members is not None:
        before = {m.name: configuration.flat(m.config) for m in kept.members}
        now = {m.name: configuration.flat(m.config) for m in members}
        if before != now:
            names = [n for n in {**before, **now} if before.get(n) != now.get(n)]
            raise UsageError(
                f"{folder} holds a sweep of other members ({names[0]} differs): choose another "
                "--workdir, or give no --config to go on with it"
            )
    return kept


def opened(folder: Path) -> Sweep:
    """The sweep in `folder`. Raises UsageError if there is none."""
    path = folder / "sweep.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no sweep: there is no sweep.json in it")
    members, kept = [], runfolder.read_json(path)
    for row in kept["members"]:
        config = train.saved_config(folder / "members" / row["name"])
        if config is None:
            raise UsageError(f"{folder} is damaged: {row['name']} has no config.json")
        changes = {key: configuration.flat(config)[key] for key in row["changes"]}
        members.append(Member(row["name"], changes, config))
    return Sweep(folder, tuple(members), kept["unit"], kept["halving"])


def summary(sweep: Sweep, member: Member) -> dict[str, Any] | None:
    """What the member's run came to, None if it has not ended: its summary.json."""
    path = sweep.path(member) / "summary.json"
    if not path.exists():
        return None
    found = runfolder.read_json(path)
    ended = found.keys() & {"diverged_at", "stopped_at"}
    return found if ended or found["steps"] >= member.config.train.steps else None


def run(
    folder: Path,
    members: tuple[Member, ...] | None,
    *,
    executor: str,
    jobs: int,
    halving: int | None,
    say: Callable[[str], None],
    slurm: Callable[[Sweep, Sequence[Member]], int] | None = None,
) -> int:
    """Run what is left of a sweep; how many members have failed.

    executor: one of EXECUTORS. jobs: processes at once, for "local"; 0 for as many as there are cores.
    halving: eta > 1 for successive halving, see `rungs`; 0 for none; None for what the folder says.
    slurm: for "slurm", what runs these members and returns how many failed.

    Raises UsageError for a bad member or folder, `Interrupted` after SIGINT or SIGTERM.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"--executor must be one of {', '.join(EXECUTORS)}, got '{executor}'")
    if jobs and executor == "vmap":
        raise UsageError("--jobs is for --executor=local or slurm: a vmapped sweep is one process")
    if jobs < 0:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")
    if halving is not None and (halving < 0 or halving == 1):
        raise UsageError(f"--halving must be at least 2, or 0 for none, got {halving}")
    if halving and executor != "vmap":
        raise UsageError("--halving is for --executor=vmap: members must wait for each other")
    if members is not None and halving and len({m.config.train.steps for m in members}) > 1:
        raise UsageError("--halving needs members of the same train.steps")
    checked = groups(members) if members is not None else groups(opened(folder).members)
    with runfolder.lock(folder):
        sweep = prepare(folder, members, unit=checked[0].tasks[0].unit, halving=halving)
        if sweep.halving and executor != "vmap":
            raise UsageError("--halving is for --executor=vmap: members must wait for each other")
        left = [m for m in sweep.members if summary(sweep, m) is None]
        say(f"{len(sweep.members)} members, {len(left)} to run, in {folder}")
        if executor == "local":
            return _local(sweep, left, jobs or machine.cores(), say)
        if executor == "slurm":
            assert slurm is not None
            return slurm(sweep, left)
        for rung in rungs(sweep):
            for group in checked:
                _vmapped(sweep, _going_on(sweep, group), rung, say)
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
        for row in runfolder.read_rows(path) if path.exists() else []:
            if row["split"] == "valid" and row["step"] == rung:
                reached[member.name] = float(row["loss"])
    order = sorted(reached, key=lambda name: (reached[name], name))
    best = set(order[: -(-len(order) // sweep.halving)])
    stopped = 0
    for member in sweep.members:
        if member.name in reached and member.name not in best and summary(sweep, member) is None:
            path = sweep.path(member) / "summary.json"
            found = {"valid_loss": reached[member.name], "valid_step": rung, "steps": rung}
            runfolder.write_json(path, found | {"stopped_at": rung})
            stopped += 1
    if stopped:
        say(f"step {rung}: {len(best)} of {len(order)} members go on, the best {order[0]}")


# ---- one program for a group


def _vmapped(sweep: Sweep, group: Group, until: int, say: Callable[[str], None]) -> None:
    """Train a group to a step, in as many programs one after another as memory asks for."""
    members, size = group.members, len(group.members)
    if all(_there(sweep, member, until) for member in members):
        return
    devices = jax.local_devices()[: members[0].config.parallel.devices or None]
    there = population.budget(devices)
    with runfolder.signals() as caught:

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
            if all(_there(sweep, member, until) for member in part):
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
    display = Display(config.train.steps, task.unit)
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(runfolder.lock(path))
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
    return waits and step in checkpoint.steps(sweep.path(member) / "checkpoints")


def _common(paths: Sequence[Path], display: Display) -> int:
    """The last step of which all these runs have a whole checkpoint, 0 if there is none; what
    comes after it is dropped, and will be done again."""
    roots = [path / "checkpoints" for path in paths]
    for root in roots:
        checkpoint.clean(root)
    common = set.intersection(*(set(checkpoint.steps(root)) for root in roots))
    step = max(common, default=0)
    for root in roots:
        checkpoint.drop(root, after=step)
    return step


# ---- a process for each member


def _local(sweep: Sweep, left: Sequence[Member], jobs: int, say: Callable[[str], None]) -> int:
    """Run the members as processes of their own; how many have failed."""
    threads = max(1, machine.cores() // jobs)
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = 0

    def one(member: Member) -> tuple[Member, int, float]:
        path, began = sweep.path(member), time.monotonic()
        if caught.received is not None:
            return member, -1, 0.0
        with (path / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(LAUNCHER), "train", f"--workdir={path}"],
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
            try:
                return member, process.wait(), time.monotonic() - began
            finally:
                running.pop(member.name, None)

    with runfolder.signals() as caught, ThreadPoolExecutor(jobs) as pool:
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


def last_line(path: Path, how: str) -> str:
    """What a failed member wrote last, how it ended, and where all of it is."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line for line in text.split("\n") if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} ({how}; see {path})"


def told_of(found: dict[str, Any]) -> str:
    """A member's summary in a few words."""
    for word in ("diverged", "stopped"):
        if f"{word}_at" in found:
            return f"{word} at step {found[f'{word}_at']}"
    return f"validation {float(found['valid_loss']):.4f} at step {found['valid_step']}"
