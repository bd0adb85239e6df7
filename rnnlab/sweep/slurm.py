"""A sweep as one SLURM job array: a task for each member, which trains it in its own run folder.

Every submission has a folder `slurm/NAME` in the sweep's, in which array.json says which member each
task of the array is, and NAME is the job's name. It is written before `sbatch` is called: whatever
becomes of this command, the queue tells by that name which members still have a job, and the same
command submits the others alone.

What a job does on its node, and when it goes back into the queue, is in `slurm_task`.
"""

import contextlib
import importlib.util
import io
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rnnlab.errors import Interrupted, UsageError
from rnnlab.run import signals
from rnnlab.run.command import line, quoted
from rnnlab.run.display import clock
from rnnlab.run.files import read_json, write_json
from rnnlab.run.signals import Received
from rnnlab.sweep import slurm_task
from rnnlab.sweep.members import Member, Sweep, describe_end, last_line, read_summary

WARNING = 90  # seconds before the end of the time limit at which SLURM sends SIGUSR2
POLL = 5.0  # seconds between two questions to the queue
ABSENT = 3  # answers without a job after which it has ended; files may come later than they say so
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip


class Options(NamedTuple):
    """What a member's job asks SLURM for; None is what the partition gives by itself."""

    partition: str | None = None
    time: int | None = None  # minutes
    gpus: int | None = None  # of each host
    cpus: int | None = None  # of each process
    nodes: int | None = None  # hosts of a member
    jobs: int = 0  # members at once, 0 for all


class Place(NamedTuple):
    """Which task of which array a member is."""

    name: str
    task: int


def check_options(options: Options) -> None:
    """Raises UsageError for an option out of range, and where there is no SLURM or no submitit."""
    for name in ("time", "gpus", "cpus", "nodes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise UsageError(
                f"--executor=slurm needs SLURM's commands, and {program} is not there: start it on "
                "a host of the cluster, with pip install -e '.[slurm]'"
            )
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("--executor=slurm needs submitit: pip install -e '.[slurm]'")


def train_as_jobs(
    sweep: Sweep,
    left: Sequence[Member],
    options: Options,
    say: Callable[[str], None],
    launch: Sequence[str],
) -> int:
    """Submit the members that have no job yet, and wait for all of them; how many have failed.

    launch: the words that start the launcher on a node.

    Raises UsageError if SLURM does not answer or refuses the array, `Interrupted` after SIGINT or
    SIGTERM: the jobs go on.
    """
    if not left:
        return 0
    waiting = {member.name: member for member in left}
    with signals.deferred() as caught:
        places = {name: p for name, p in _submitted(sweep).items() if name in waiting}
        found = _states(places.values()) if places else {}
        if found is None:
            raise UsageError("squeue does not say which members have a job: is SLURM running?")
        alive = [name for name, place in places.items() if found.get(place, "") not in ("", *ENDED)]
        new = [member for member in left if member.name not in alive]
        if alive:
            say(f"members that have a job and are not submitted again: {len(alive)}")
        if new:
            name, job = _submit(sweep, new, options, launch)
            places |= {member.name: Place(name, index) for index, member in enumerate(new)}
            say(f"members submitted as job array {job}, {name}: {len(new)}")
        return _wait(sweep, waiting, places, caught, say)


def _submitted(sweep: Sweep) -> dict[str, Place]:
    """Where the newest job of each member is, of those that ever had one."""
    places = {}
    for path in sorted((sweep.folder / "slurm").glob("*/array.json")):
        for index, name in enumerate(read_json(path)["members"]):
            places[name] = Place(path.parent.name, index)
    return places


def _states(places: Any) -> dict[Place, str] | None:
    """SLURM's word for the state of these jobs, as far as it remembers them; None if it is silent."""
    names = ",".join(sorted({place.name for place in places}))
    command = ["squeue", "-h", "-r", "-t", "all", f"--name={names}", "-o", "%j|%K|%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    # An array of one is no array, and its index "N/A".
    return {Place(n, int(i) if i.isdigit() else 0): state for n, i, state in rows}


# ---- submitting


def _submit(
    sweep: Sweep, members: Sequence[Member], options: Options, launch: Sequence[str]
) -> tuple[str, str]:
    """Submit an array of these members; its name and its number."""
    import cloudpickle
    import submitit

    number = sum(1 for _ in (sweep.folder / "slurm").glob("*"))
    name = f"{number:04d}-rnnlab-{secrets.token_hex(4)}"
    folder = (sweep.folder / "slurm" / name).absolute()
    folder.mkdir(parents=True)
    write_json(folder / "array.json", {"members": [m.name for m in members]})
    several = (options.nodes or 1) > 1
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        job_name=name,
        partition=options.partition,
        time=options.time,
        nodes=options.nodes or 1,
        # Over several hosts JAX takes one GPU for each process.
        ntasks_per_node=(options.gpus or 1) if several else 1,
        gpus_per_node=options.gpus,
        cpus_per_task=options.cpus,
        # srun does not take it over from sbatch since SLURM 22.05.
        srun_args=[f"--cpus-per-task={options.cpus}"] if options.cpus else None,
        signal_delay_s=min(WARNING, options.time * 15) if options.time else WARNING,
        array_parallelism=options.jobs or len(members),
        additional_parameters={"requeue": True},
    )
    # A node unpickles it whole, and needs no rnnlab for it.
    cloudpickle.register_pickle_by_value(slurm_task)
    try:
        # On failure submitit prints what sbatch said, before it raises it.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = []
            for member in members:
                path = sweep.path(member).absolute()
                command = [*launch, "train", f"--workdir={path}"]
                command += ["--distributed"] if several else []
                jobs.append(executor.submit(slurm_task.work, command, str(path)))
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        told = lines[-1].removeprefix("sbatch: error: ") if lines else "it does not say why"
        raise UsageError(f"sbatch refused the array: {told}") from error
    finally:
        cloudpickle.unregister_pickle_by_value(slurm_task)
    return name, jobs[0].job_id.partition("_")[0]


# ---- waiting


def _wait(
    sweep: Sweep,
    waiting: dict[str, Member],
    places: dict[str, Place],
    caught: Received,
    say: Callable[[str], None],
) -> int:
    """Tell of each member as it ends; how many have failed."""
    count, failed, silent = len(waiting), 0, False
    absent = dict.fromkeys(waiting, 0)
    while True:
        states = _states([places[name] for name in waiting])
        if states is None and not silent and caught.received is None:
            say("squeue does not answer; this goes on asking it")
        silent = states is None
        for name, member in list(waiting.items()):
            found = read_summary(sweep, member)
            state = (states or {}).get(places[name], "gone")
            if states is not None:
                absent[name] = absent[name] + 1 if state in ("gone", *ENDED) else 0
            if found is None and absent[name] < ABSENT:
                continue
            del waiting[name]
            start = f"{count - len(waiting)}/{count} {name}"
            if found is None:
                failed += 1
                say(f"{start} failed: {_last(sweep, member, places[name], state)}")
            else:
                say(f"{start} {describe_end(found)} ({clock(float(found['seconds']))})")
        if not waiting:
            return failed
        until = time.monotonic() + POLL
        while caught.received is None and time.monotonic() < until:
            time.sleep(0.1)
        if caught.received is not None:
            names = sorted({places[name].name for name in waiting})
            again = line("sweep", f"--workdir={sweep.folder}", "--executor=slurm")
            raise Interrupted(
                f"interrupted; the jobs of the members that are left ({len(waiting)}) go on: come back "
                f"to them with {again}, or end them with "
                + " and ".join(f"scancel {quoted(f'--name={name}')}" for name in names),
                caught.received,
            )


def _last(sweep: Sweep, member: Member, place: Place, state: str) -> str:
    """The last line that the member wrote, or else its job, and where."""
    folder, path = sweep.folder / "slurm" / place.name, sweep.path(member) / "log.txt"
    if not path.exists() or path.stat().st_mtime < (folder / "array.json").stat().st_mtime:
        mine = re.compile(rf"\d+(_{place.task})?_0_log\.err")  # of an array, and of a job alone
        path = next((p for p in folder.iterdir() if mine.fullmatch(p.name)), folder)
    return last_line(path, state)
