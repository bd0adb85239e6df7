"""Long runs, and runs that are resumed very often: nothing may grow that should not.

The long run is the real command, 20,000 steps one by one, with all that a run does on the way:
validation, samples, figures, checkpoints, event files. It is watched from outside, by /proc. Survived
means, the middle being the second quarter of the steps and the end the last quarter:

- the median of the memory in use (RSS) at the end is at most 16 MiB above that of the middle (1.6 KiB a
  step would not pass);
- open files at the end are at most as many as in the middle, and threads at most 4 more (pools of
  threads fill up as they are used);
- a step takes at the end at most 1.3 times the CPU time that one in the middle takes (the CPU's time and
  not the clock's, since others may share the machine);
- metrics.jsonl has at most 400 bytes a row, the event files at most 1,000; the run folder has at the end
  as many files as in the middle, and as many checkpoints as are kept.

In a run of fewer than 5,000 steps, which has hardly warmed up, memory may grow by 48 MiB and a step take
4 times as long: that is a test of the watching. (Orbax keeps some 18 kB of each checkpoint that it has
saved: it is in the 16 MiB.)

The run that is resumed 200 times takes a step more each time. Survived means: in the last resumption
run.json is at most 1.1 times as large as after the first quarter of them, the checkpoints and all other
files but the event files are as many, and a start has added one event file of at most 1,000 bytes for
each row. (A folder of event files grows with the starts, as TensorBoard wants it, and with nothing else.)
"""

import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rnnlab.run import checkpoint
from rnnlab.run.files import read_rows
from tests.faults.lab import SMALL, Lab, Tally
from tests.support import ROOT

SHORT = 0.02
MEMORY = 16 << 20  # bytes
EVERY = 0.02  # seconds between two looks
HERE = Path(__file__).resolve().parent


class Look(NamedTuple):
    """What a process is at a moment."""

    step: int
    memory: int  # bytes
    files: int
    threads: int
    spent: float  # CPU seconds
    kept: int  # files in the run's folder, without its checkpoints


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    yield long_run(lab, share)
    if share >= 0.05:
        yield resumed(lab, share)


def long_run(lab: Lab, share: float) -> Tally:
    steps = lab.many(20_000, share)
    row = Tally(f"a run of {steps:,} steps: memory, open files, threads, step time, sizes of files")
    if not Path("/proc/self/statm").exists():
        return row.left_out("it needs /proc")
    # At least two of each in the quarters that are compared.
    workdir, every, seldom = (
        lab.place("long"),
        max(steps // 400, 4),
        steps // math.ceil(8 + 32 * share),
    )
    process = lab.start(
        "train",
        *lab.flags(
            workdir,
            f"train.steps={steps}",
            f"train.log_every={every}",
            f"train.eval_every={seldom}",
            f"train.sample_every={seldom}",
            f"train.checkpoint_every={seldom}",
        ),
        stdout=-3,  # DEVNULL
    )
    looks = []
    while process.poll() is None:
        looks += watched(process.pid, workdir, every)
        time.sleep(EVERY)
    _, err = process.communicate()
    if process.returncode or err:
        row.count("", f"exit code {process.returncode}: {err.strip()}")
        return row
    middle, end = (
        [look for look in looks if low * steps <= look.step < high * steps]
        for low, high in ((0.25, 0.5), (0.75, 1.0))
    )
    rows = read_rows(workdir / "metrics.jsonl")
    found = verdicts(middle, end, steps >= 5000) | sizes(workdir, len(rows))
    for name, (told, problem) in found.items():
        row.count(f"{name}: {told}", f"{name}: {told}" if problem else "")
    return row


def watched(pid: int, workdir: Path, every: int) -> list[Look]:
    """One look at a process; none before its first row, or if it ends meanwhile."""
    process = Path(f"/proc/{pid}")
    try:
        rows = (workdir / "metrics.jsonl").read_bytes().count(b'"split": "train"')
        memory = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        stat = (process / "stat").read_text().rpartition(")")[2].split()
        spent = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        files = len(list((process / "fd").iterdir()))
        # But the checkpoints, which come and go.
        kept = sum(
            len(names) for folder, _, names in os.walk(workdir) if "checkpoints" not in folder
        )
    except OSError:
        return []
    return [Look(rows * every, memory, files, int(stat[17]), spent, kept)] if rows else []


def verdicts(middle: list[Look], end: list[Look], warm: bool) -> dict[str, tuple[str, bool]]:
    """What is flat: name -> (in words, whether it is not)."""
    most_memory, most_time = (MEMORY, 1.3) if warm else (3 * MEMORY, 4.0)
    if len(middle) < 3 or len(end) < 3:
        return {"looks": (f"{len(middle)} and {len(end)}: too few to tell", True)}

    def most(looks: list[Look], name: str) -> int:
        return max(getattr(look, name) for look in looks)

    def each(looks: list[Look]) -> float:
        first, last = looks[0], looks[-1]
        return (last.spent - first.spent) / max(last.step - first.step, 1)

    grown = [statistics.median(look.memory for look in looks) for looks in (middle, end)]
    memory = grown[1] - grown[0]
    found = {
        "memory": (f"{memory / 2**20:+.1f} MiB of {grown[1] / 2**20:.0f}", memory > most_memory)
    }
    for name in ("files", "threads"):
        before, after = most(middle, name), most(end, name)
        found[name] = (f"{before} and {after}", after > before + 4 * (name == "threads"))
    before, after = (
        statistics.median(look.kept for look in middle),
        statistics.median(look.kept for look in end),
    )
    found["files in the folder"] = (f"{before:.0f} and {after:.0f}", after > before)
    before, after = each(middle), each(end)
    told = f"{1e3 * before:.2f} and {1e3 * after:.2f} ms"
    found["CPU time a step"] = (told, after > most_time * before)
    return found


def sizes(workdir: Path, rows: int) -> dict[str, tuple[str, bool]]:
    """What is small, by row."""
    metrics = (workdir / "metrics.jsonl").stat().st_size / rows
    events = sum(path.stat().st_size for path in (workdir / "tensorboard").iterdir()) / rows
    held = len(checkpoint.steps(workdir / "checkpoints"))
    return {
        "metrics.jsonl": (f"{metrics:.0f} bytes a row", metrics > 400),
        "event files": (f"{events:.0f} bytes a row", events > 1000),
        "checkpoints": (f"{held} kept", held > 3),  # train.keep and the best
    }


def resumed(lab: Lab, share: float) -> Tally:
    count = lab.many(200, share)
    row = Tally(f"a run resumed {count} times in a row: run.json, event files, checkpoints")
    workdir, asked = lab.place("often"), lab.place("often").with_suffix(".json")
    changes = [*SMALL, f"data.path={lab.text}", "optim.schedule=constant"]
    given = {"workdir": str(workdir), "changes": changes, "first": 10, "count": count}
    asked.write_text(json.dumps(given | {"config": str(ROOT / "experiments" / "default.py")}))
    done = lab.run(str(asked), program=(str(HERE / "_resumes.py"),), timeout=3600)
    found = [json.loads(line) for line in done.out.splitlines()]
    if done.code or len(found) != count + 1:
        row.count("", done.wrong(0) or f"{len(found)} starts: {done.err}")
        return row
    early, last, first = found[max(count // 4, min(count, 20))], found[-1], found[0]
    for name, limit in (("run.json", 1.1), ("checkpoints", 1.0), ("other files", 1.0)):
        told = f"{name}: {early[name]:,} and {last[name]:,}"
        row.count(told, told if last[name] > limit * early[name] else "")
    files = last["event files"] - first["event files"]
    spent = (last["event bytes"] - first["event bytes"]) / (last["rows"] - first["rows"])
    told = f"event files: {files:,} more, {spent:.0f} bytes a row"
    row.count(told, told if files > count or spent > 1000 else "")
    return row
