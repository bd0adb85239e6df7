"""What the suites startup and sweep time: whole commands, from the launch to what they leave behind."""

import os
import subprocess
import time
from pathlib import Path

from rnnlab.errors import RnnlabError
from rnnlab.run import default
from rnnlab.run.command import Program
from rnnlab.run.signals import tidied


def time_first_step(program: Program, folder: Path, cache: Path, threads: int) -> float:
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
    command = [*program.command, "train", f"--config={default.__file__}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    environment = os.environ | {"RNNLAB_CACHE": str(cache), "NPROC": str(threads)}
    environment["JAX_PLATFORMS"] = "cpu"
    with errors.open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={rows.parent}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            with tidied(process.kill):
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
from rnnlab.run import default

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


def time_sweep(
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
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process, tidied(process.kill):
            _, told = process.communicate()
        if process.returncode:
            said = told.strip().split("\n")
            raise RnnlabError(f"a command of the sweep failed: {said[-1]}")
    return time.perf_counter() - began
