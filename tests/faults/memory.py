"""Memory that is not there: sizes that no machine has, and an allocation that fails while training.

Survived, for a size: a run with it is either let pass or refused in one line that names a field to
lower, within 30 seconds, with less than 1 GiB taken to find out. For an allocation that fails (a limit
on the address space of a real process, which the step's buffer goes beyond): exit code 7, one line
with the size and the fields to lower, no traceback, and a folder that the next start takes. For a
control group, which is what limits a container or a job of a cluster: a run that needs more than the
group has left is refused with exit code 2 before anything is compiled, though the machine has enough,
and one that needs less trains.
"""

import contextlib
import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from rnnlab.errors import UsageError
from rnnlab.run import config
from rnnlab.train import memory
from rnnlab.train.from_config import build
from tests.faults.lab import Lab, Tally
from tests.support import ROOT, make_text

SHORT = 0.05
SIZES = (
    *("train.batch_size", "train.window", "train.steps", "model.hidden", "model.layers"),
    *("model.embedding_size", "eval.random_windows", "eval.streams", "train.skip_faults"),
)
EXPERIMENTS = ("default", "adding", "captions", "translation", "actions", "tracking")
# Run in place of launch.py; of 3 GiB of address space a process without work takes most.
LIMITED = """
import resource, sys
import launch
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
sys.exit(launch.main(sys.argv[1:]))
"""
# The same: the process enters the group first.
GROUPED = """
import os, sys
open(os.environ["GROUP"] + "/cgroup.procs", "w").write(str(os.getpid()))
import launch
sys.exit(launch.main(sys.argv[1:]))
"""
GROUPS = (  # where groups are limited, and by which file: version 1, then 2
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    """The rows of the table."""
    yield huge(lab, lab.many(200, share))
    yield grouped(lab, lab.many(5, share))
    if share > SHORT:
        yield exhausted(lab, lab.many(3, share))


def huge(lab: Lab, many: int) -> Tally:
    row = Tally("sizes of a million to 10^12: refused in one line, or let pass")
    for n in range(many):
        experiment, key = EXPERIMENTS[n % len(EXPERIMENTS)], SIZES[n // 2 % len(SIZES)]
        value = int(10 ** lab.random.uniform(6, 12))
        changes = [f"{key}={value}"]
        if experiment == "default":
            changes.append(f"data.path={lab.text}")
        if key == "model.embedding_size" and experiment == "default":
            changes.append("model.input=embedding")
        row.count(*asked(experiment, changes))
    return row


def asked(experiment: str, changes: list[str]) -> tuple[str, str]:
    """(outcome, problem) of what a run asks before it begins."""
    began, told, outcome = time.monotonic(), "", "let pass"
    tracemalloc.start()  # NumPy's arrays are among what it sees
    try:
        settings = config.load(str(ROOT / "experiments" / f"{experiment}.py"), changes)
        memory.check(settings, *build(settings))
    except UsageError as error:
        told, outcome = str(error), "refused"
    except Exception as error:  # whatever else it is, it is lost
        return "", f"{experiment} {changes}: {error!r}"
    finally:
        taken, spent = tracemalloc.get_traced_memory()[1], time.monotonic() - began
        tracemalloc.stop()
    problem = ""
    if "\n" in told:
        problem = "more than one line"
    elif taken > 1 << 30:
        problem = f"it took {taken >> 20} MiB"
    elif spent > 30:
        problem = f"it took {spent:.0f} s"
    elif told and not any(key in told for key in SIZES):
        problem = f"no field is named: {told}"
    return outcome, f"{experiment} {changes}: {problem}" if problem else ""


def exhausted(lab: Lab, many: int) -> Tally:
    row = Tally("an allocation that fails while training: exit code 7, and the folder goes on")
    long = make_text(lab.folder / "long.txt", 300_000)
    sizes = ("model.hidden=512", "train.window=1024", "train.batch_size=64", "train.steps=2")
    options = {"program": ("-c", LIMITED)}
    for _ in range(many):
        workdir = lab.place("exhausted")
        changes = (*sizes, f"data.path={long}", "optim.warmup_steps=0", "parallel.devices=1")
        told = ("out of memory (RESOURCE_EXHAUSTED", "lower train.batch_size, train.window")
        done = lab.run("train", *lab.flags(workdir, *changes), **options)
        problem = done.wrong(7, *told)
        if not problem:  # again, on the folder that is there now
            again = lab.run("train", f"--workdir={workdir}", **options)
            problem = again.wrong(7, *told)
        row.count("one line", problem)
    return row


@contextlib.contextmanager
def group(limit: int) -> Iterator[Path | None]:
    """The folder of a control group of `limit` bytes; None where none can be made."""
    for root, name in GROUPS:
        made = root / f"rnnlab-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:  # there is no such version, or it is not ours to change
            continue
        try:
            if (made / name).exists():
                (made / name).write_text(str(limit))
                yield made
                return
        finally:
            made.rmdir()
    yield None


def grouped(lab: Lab, many: int) -> Tally:
    row = Tally(
        "a control group with less memory than the machine: what does not fit it is refused"
    )
    for _ in range(many):
        limit = lab.random.randint(3 << 28, 3 << 30)
        with group(limit) as made:
            if made is None:
                return row.left_out("it needs root, and a group for memory")
            options = {"program": ("-c", GROUPED), "environment": {"GROUP": str(made)}}
            workdir = lab.place("grouped")
            wide = f"model.hidden={int((limit / 40) ** 0.5)}"  # 4 H^2 weights, 5 floats for each
            done = lab.run("train", *lab.flags(workdir, wide), **options)
            problem = done.wrong(2, "a train step needs", "are there", "lower model.hidden")
            if not problem and workdir.exists():
                problem = "a run folder was made"
            problem = problem or lab.run("train", *lab.flags(workdir), **options).wrong(0)
        row.count("refused, then trained", problem and f"{limit:,} bytes: {problem}")
    return row
