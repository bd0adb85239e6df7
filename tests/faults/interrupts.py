"""Interrupts: SIGINT, now and then SIGTERM or SIGHUP, at random moments of every verb that trains nothing.

Each time the cache of compiled programs is empty, so that most strike while JAX is imported or XLA compiles.
Survived means that the process ends within PROMPT seconds - with exit code 130, or by SIGTERM or SIGHUP -
without a core dump or a traceback, and says in one line that it was interrupted; or that it had ended by
itself, its work done.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.lab import SMALL, Lab, Tally
from tests.support import ROOT

SHORT = 0.02
EACH = 30  # interrupts of a verb, at share 1
PROMPT = 2.0  # seconds
NUMBERS = (*4 * (signal.SIGINT,), signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGINT)
TRANSLATION = ("model.hidden=8", "train.steps=2", "train.batch_size=4", "optim.warmup_steps=0")
BOXES = "1,1,10,10,20,20,1,1,1\n2,1,11,10,20,20,1,1,1\n"


def verbs(lab: Lab) -> dict[str, list[str]]:
    """The arguments of each verb. What they ask for is made here."""
    run, shown, sweep = lab.straight, lab.place("shown"), lab.place("members")
    made = [f"--config.{change}" for change in TRANSLATION]
    done = lab.run(
        "train", f"--config={ROOT / 'experiments/translation.py'}", f"--workdir={shown}", *made
    )
    assert done.code == 0, done.err
    config, boxes = lab.place("two").with_suffix(".py"), lab.place("boxes")
    config.write_text(
        "from experiments import default\n\n\ndef get_config():\n    return default.get_config()\n\n\n"
        "def sweep(add):\n    for seed in range(2):\n        add(seed=seed)\n"
    )
    made = [f"--config.{change}" for change in (*SMALL, f"data.path={lab.text}")]
    done = lab.run("sweep", f"--config={config}", f"--workdir={sweep}", *made)
    assert done.code == 0, done.err
    boxes.write_text(BOXES)
    found = {
        "evaluate": [f"--workdir={run}"],
        "diagnose": [f"--workdir={run}", f"--out={lab.place('out')}"],
        "sample": [f"--workdir={run}"],
        "show": [f"--workdir={shown}", f"--out={lab.place('out')}"],
        "report": [f"--workdir={sweep}"],
        "bench": ["step", "--cells=lstm", "--shapes=1x8xB2xT4", "--seconds=0.2"],
        "doctor": [],
        "tasks": [],
        "mot": [f"--truth={boxes}", f"--answers={boxes}"],
    }
    if shutil.which("pdflatex"):
        found["compile"] = [f"--workdir={run}", f"--out={lab.place('out')}"]
    return found


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    few = {"evaluate": [f"--workdir={lab.straight}"]}  # of which the run alone is made
    chosen = few if share <= SHORT else verbs(lab)
    for verb, arguments in chosen.items():
        row, count = Tally(f"{verb}: interrupted, the cache cold"), lab.many(EACH, share)
        began = time.monotonic()
        with started(lab, verb, arguments) as process:
            process.communicate(timeout=600)
        lasting = time.monotonic() - began
        for number in range(count):
            # One moment in each of as many spans, so that none of its phases is left out.
            moment = lasting * (number + lab.random.random()) / count
            row.count(*struck(lab, verb, arguments, NUMBERS[number % len(NUMBERS)], moment))
        yield row


def started(lab: Lab, verb: str, arguments: list[str]) -> subprocess.Popen:
    cache = lab.place("cold")
    # A crash leaves a core, for the count to find. The child inherits the limit.
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    return lab.start(
        verb,
        *arguments,
        environment={"RNNLAB_CACHE": str(cache)},
        cwd=cache.parent,
    )


def struck(
    lab: Lab, verb: str, arguments: list[str], number: int, moment: float
) -> tuple[str, str]:
    """What came of a signal so many seconds after the launcher has begun, and what was lost or ""."""
    with started(lab, verb, arguments) as process:
        while process.poll() is None and not begun(process.pid):
            time.sleep(0.002)
        time.sleep(moment)
        over = process.poll() is not None
        sent = time.monotonic()
        process.send_signal(number)
        try:
            _, said = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "", f"{verb} hung, {moment:.2f} s after its start"
    spent = time.monotonic() - sent
    told = [line for line in said.splitlines() if not line.startswith("rnnlab: warning: ")]
    where = f"{verb}, signal {number} after {moment:.2f} s"
    if process.returncode == 0:
        return ("it had ended" if over else "it was about to end"), ""
    name = signal.Signals(number).name
    if process.returncode != (130 if number == signal.SIGINT else -number):
        return "", f"{where}: exit code {process.returncode}: {said[-300:]}"
    if spent > PROMPT:
        return "", f"{where}: it took {spent:.1f} s"
    if told != ["rnnlab: interrupted"]:
        return "", f"{where}: {said[-300:]}"
    return f"{name}: prompt and in order", ""


def begun(pid: int) -> bool:
    """Whether the process handles SIGTERM, as the launcher does from its first line on."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1) or os.name != "posix"
