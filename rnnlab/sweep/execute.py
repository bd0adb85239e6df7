"""How a sweep is run: members as one program, as local processes, or as jobs of a cluster.

Whatever runs them, members are run folders, and those that have ended are not run again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rnnlab.errors import Interrupted, UsageError
from rnnlab.run import command, machine, signals
from rnnlab.run.folder import lock
from rnnlab.sweep import local, slurm, vmapped
from rnnlab.sweep.halving import rungs, stop_worst, without_stopped
from rnnlab.sweep.members import (
    Member,
    group_members,
    open_sweep,
    plan_sweep,
    prepare_sweep,
    read_summary,
)
from rnnlab.train import memory

HALVING = "--halving is for --executor=vmap: members must wait for each other"
EXECUTORS = ("vmap", "local", "slurm")


def train_members(
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
    halving: eta > 1 for successive halving, see `halving.rungs`; 0 for none; None for what the folder says.
    launch: the words that start the launcher in another process, to which a verb and its flags are added.

    Raises UsageError for a bad member or folder, `Interrupted` after SIGINT or SIGTERM.
    """
    _check(executor, asked, halving, members)
    planned = open_sweep(folder) if members is None else plan_sweep(folder, members)
    checked = group_members(planned.members, planned.begun)
    with lock(folder):
        task = checked[0].tasks[0]
        sweep = prepare_sweep(
            folder, members, unit=task.unit, halving=halving, measure=task.measure
        )
        if sweep.halving and executor != "vmap":
            raise UsageError(HALVING)
        left = [m for m in sweep.members if read_summary(sweep, m) is None]
        gone = f" (and {len(sweep.left)} no longer in the config, kept)" if sweep.left else ""
        say(f"{len(sweep.members)} members, {len(left)} to run, in {folder}{gone}")
        if executor == "local":
            return local.train_in_processes(sweep, left, asked.jobs or machine.cores(), say, launch)
        if executor == "slurm":
            return slurm.train_as_jobs(sweep, left, asked, say, launch)
        with signals.deferred() as caught:
            for rung in rungs(sweep):
                for group in checked:
                    with memory.explained(group.members[0].config):
                        going_on = without_stopped(sweep, group)
                        vmapped.train_group(sweep, going_on, rung, say, caught)
                    # In a last step, or after it, a signal has stopped nothing yet.
                    open_ = [m for m in sweep.members if read_summary(sweep, m) is None]
                    if caught.received is not None and open_:
                        raise Interrupted(
                            "interrupted; the states are saved: resume with "
                            + command.line("sweep", f"--workdir={sweep.folder}"),
                            caught.received,
                        )
                stop_worst(sweep, rung, say)
    return 0


def _check(
    executor: str, asked: slurm.Options, halving: int | None, members: tuple[Member, ...] | None
) -> None:
    """Raises UsageError for flags that are out of range, or of another executor; see `train_members`."""
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
        slurm.check_options(asked)
