"""What every fault has in common: the run it strikes, the launcher as a user starts it, the count.

A file of this folder with `campaign(lab, share)` injects faults of one kind and yields a `Tally` for
each row of the table; `share` is 1 for the whole campaign, and the file's SHORT for the short set that
the tests run.
"""

import math
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rnnlab.errors import CheckpointError
from rnnlab.run import checkpoint, config
from rnnlab.run.files import read_json, read_rows
from rnnlab.train.from_config import build
from rnnlab.train.state import configured_state
from tests.support import ROOT, make_text

TIMES = ("seconds", "chars_per_second")  # what no two runs share
# Carried state, dropout, an average, and rows at steps that no checkpoint falls on.
SMALL = (
    "model.cell=lstm",
    "model.hidden=8",
    "model.layers=2",
    "model.dropout=0.2",
    "model.options.recurrent_dropout=0.1",
    "optim.warmup_steps=5",
    "train.batch_size=4",
    "train.window=8",
    "train.log_every=4",
    "train.eval_every=10",
    "train.sample_every=15",
    "train.checkpoint_every=7",
    "eval.streams=4",
    "eval.window=32",
    "eval.burn_in=8",
    "eval.random_windows=8",
    "eval.random_window=16",
    "sample.length=20",
    "data.forget=0.1",
    "train.steps=30",
    "train.steps_per_dispatch=1",
)


@dataclass
class Tally:
    """A row of the table: a fault, how often it was injected, and what came of it."""

    fault: str
    injected: int = 0
    outcomes: Counter = field(default_factory=Counter)  # in words -> how often; for the reader
    lost: list[str] = field(default_factory=list)  # a line for each that did not survive

    def count(self, outcome: str, problem: str = "") -> None:
        """One more; `problem` says in a line what was lost, "" if nothing was."""
        self.injected += 1
        self.outcomes["LOST" if problem else outcome] += 1
        if problem:
            self.lost.append(problem)

    def left_out(self, why: str) -> "Tally":
        """The row, of what cannot be injected here; it has no share of survivors then."""
        self.outcomes[f"left out: {why}"] += 1
        return self


class Done(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.err

    def wrong(self, code: int, *told: str) -> str:
        """How this is not an end with `code` and one clear line that has every word of `told`; "" if
        it is."""
        last = self.err.strip().split("\n")[-1]
        if self.traceback:
            return f"a traceback: {last}"
        if self.code != code:
            return f"exit code {self.code}, not {code}: {last}"
        missing = [word for word in told if word not in self.err]
        return f"{missing} is not in: {last}" if missing else ""


class Lab:
    """A folder to break things in; what is made here once is shared by all faults."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random = folder, random.Random(seed)
        self.cache = folder / "cache"
        self.text = make_text(folder / "text.txt")
        self.numbers: Counter = Counter()
        self._straight: Path | None = None

    def place(self, name: str) -> Path:
        """A path in the lab that nothing has used."""
        self.numbers[name] += 1
        return self.folder / f"{name}-{self.numbers[name]}"

    def many(self, whole: int, share: float) -> int:
        """How many faults of `whole`, 1 at least."""
        return max(1, math.ceil(whole * share))

    def flags(self, workdir: Path, *changes: str) -> list[str]:
        """Flags of `train` for the small run; changes: "key=value"."""
        made = [f"--config.{c}" for c in (*SMALL, f"data.path={self.text}", *changes)]
        return [f"--config={ROOT / 'experiments' / 'default.py'}", f"--workdir={workdir}", *made]

    def config(self, *changes: str):
        """The config of the small run, for what is done inside this process."""
        default = str(ROOT / "experiments" / "default.py")
        return config.load(default, [*SMALL, f"data.path={self.text}", *changes])

    def start(
        self, *arguments: object, program: tuple[str, ...] = (), **options
    ) -> subprocess.Popen:
        """Start `launch.py` with these arguments, in a process group of its own. program: in place of
        launch.py, as arguments of Python. environment: added to ours; None takes a variable away."""
        environment = {**os.environ, "RNNLAB_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}
        environment |= options.pop("environment", {})
        environment = {name: value for name, value in environment.items() if value is not None}
        command = [sys.executable, *(program or (str(ROOT / "launch.py"),)), *map(str, arguments)]
        for stream in ("stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        return subprocess.Popen(
            command, env=environment, text=True, errors="replace", start_new_session=True, **options
        )

    def run(self, *arguments: object, timeout: float = 300, **options) -> Done:
        """Run `launch.py` to its end; a code of -9 with "timed out" if it took longer."""
        with self.start(*arguments, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                err += f"\ntimed out after {timeout} s"
        return Done(process.returncode, out or "", err or "")

    @property
    def straight(self) -> Path:
        """A run that nothing has disturbed."""
        if self._straight is None:
            self._straight = self.place("straight")
            done = self.run("train", *self.flags(self._straight))
            assert done.code == 0, done.err
        return self._straight


def rows(workdir: Path) -> list[dict]:
    """The rows of a run without its times."""
    found = read_rows(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def leaves(workdir: Path) -> dict[str, bytes]:
    """Every leaf of the newest state - parameters, average, optimiser, carried state, key, tally - as
    bytes, by its path."""
    settings = config.from_json(read_json(workdir / "config.json"))
    task, optimiser = build(settings, kept=workdir)
    template = jax.eval_shape(lambda: configured_state(settings, task, optimiser))

    def fallen_back(told: str) -> None:
        raise CheckpointError(told)

    found = checkpoint.restore(
        workdir / "checkpoints", template, fingerprint=task.fingerprint, warn=fallen_back
    )
    assert found is not None
    state, meta = found
    assert meta["step"] == int(state.step) == settings.train.steps
    plain = state.replace(key=jax.random.key_data(state.key))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(plain)
    }


def differences(one: Path, other: Path) -> list[str]:
    """What of two finished runs is not the same to the bit, by name; times are left out."""
    found = []
    if rows(one) != rows(other):
        found.append("metrics.jsonl")
    if (one / "samples.txt").read_bytes() != (other / "samples.txt").read_bytes():
        found.append("samples.txt")
    try:
        a, b = leaves(one), leaves(other)
    except CheckpointError as error:
        return [*found, str(error)]
    found += [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    best = [read_json(w / "summary.json")["valid_loss"] for w in (one, other)]
    return found + (["summary.json"] if best[0] != best[1] else [])
