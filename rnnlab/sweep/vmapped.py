"""The executor "vmap": a group of members as one program, or as few as memory allows, in this process."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from rnnlab.errors import DivergedError
from rnnlab.run import checkpoint, command
from rnnlab.run import config as configuration
from rnnlab.run.display import Display, clock
from rnnlab.run.folder import lock
from rnnlab.run.signals import Received
from rnnlab.sweep import population
from rnnlab.sweep.members import Group, Member, Sweep, read_summary
from rnnlab.train import memory
from rnnlab.train.from_config import build_optimiser
from rnnlab.train.loop import run_steps
from rnnlab.train.record import Record
from rnnlab.train.session import introduce


def train_group(
    sweep: Sweep,
    group: Group,
    until: int,
    say: Callable[[str], None],
    caught: Received,
) -> None:
    """Train a group to a step, in as many programs one after another as memory asks for."""
    members, size = group.members, len(group.members)
    if all(_has_reached(sweep, member, until) for member in members):
        return
    devices = jax.local_devices()[: members[0].config.parallel.devices or None]
    first = members[0].config
    memory.check(first, group.tasks[0], build_optimiser(first, {}), devices[:1])
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
        if caught.received is not None or all(
            _has_reached(sweep, member, until) for member in part
        ):
            continue
        if start:
            began = time.monotonic()
            crew, _ = compiled(start)
        _train_program(sweep, part, crew, until, began)


def _train_program(
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
    ended = [read_summary(sweep, member) for member in members]
    open_ = [path for path, found in zip(paths, ended, strict=True) if found is None]
    display = Display(config.train.steps, task.unit, measure=task.measure)
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(lock(path))
        stack.enter_context(display)
        start = _common_step(open_, display)
        records: list[Record | None] = []
        for number, (member, path) in enumerate(zip(members, paths, strict=True)):
            if ended[number] is not None:
                records.append(None)
                continue
            record = Record(
                member.config,
                path,
                crew.tasks[number],
                build_optimiser(member.config, {}),
                Display(config.train.steps, task.unit, silent=member.name),
                overrides=[f"{key}={configuration.spell(v)}" for key, v in member.changes.items()],
                split=crew.name,
                started=began,
                step=start,
                keep=2,
            )
            records.append(stack.enter_context(record))
        introduce(display, config, task, start)
        display.say(f"{len(members)} members in one program over {len(crew.devices)} devices")
        crew.begin(records, display)
        again = command.line("sweep", f"--workdir={sweep.folder}")
        with contextlib.suppress(DivergedError):  # each of them has said so
            run_steps(crew, config.train, display=display, again=again, until=until)
        if until < config.train.steps:
            return
        for number, record in enumerate(records):
            if record is not None and not record.ended:
                record.finish(config.train.steps, crew.params(number))
        spent = clock(time.monotonic() - began)
        display.say(f"{len(members)} members done in {spent}")


def _has_reached(sweep: Sweep, member: Member, step: int) -> bool:
    """Whether the member has ended, or waits at this step for the others."""
    if read_summary(sweep, member) is not None:
        return True
    waits = step < member.config.train.steps
    return waits and checkpoint.fault(sweep.path(member) / "checkpoints", step) == ""


def _common_step(paths: Sequence[Path], display: Display) -> int:
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
