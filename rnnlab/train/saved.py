"""A run as its folder tells it: its config, its checkpoints, and what a checkpoint can put back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnlab.errors import CheckpointError, UsageError
from rnnlab.run import checkpoint, command, display
from rnnlab.run.config import from_json
from rnnlab.run.files import read_json, write_json
from rnnlab.run.folder import lock
from rnnlab.tasks.language_model.text import text_samples
from rnnlab.train.from_config import build
from rnnlab.train.state import LATER_LEAVES, configured_state, eval_params
from rnnlab.types import Config, Params, Task

SUMMARY = "summary.json"  # written at the end, of what the other files say
# Keys that older runs lack, and what those did.
LATER_KEYS = {
    "parallel": {"devices": 1},
    "train": {"steps_per_dispatch": 1, "skip_faults": 0, "init_from": None},
    "model": {"path": "plain", "keep": "preactivations", "precision": "float32"},
    "optim": {"omega": 0.0},
    "diagnose": {"every": 0, "saturation": True},
}


class Run(NamedTuple):
    """A run as its folder tells it."""

    config: Config
    task: Task
    params: Params  # those to evaluate and sample with: the average where there is one
    meta: dict[str, Any]  # of the checkpoint

    def sample(
        self,
        prime: str = "",
        *,
        length: int = 500,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """A text that the model writes: the prime, or a letter, and `length` characters more.

        temperature, top_k, top_p and seed: as for `rnnlab.generate`. The same arguments give the same
        text on one machine.

        Raises UsageError for values out of range, a character that the model never saw, and a run of
        a task that writes no text: `task.show(params, 0)` tells what such a one does.
        """
        probe = self.task.probe
        if probe is None or probe.text is None:
            raise UsageError(f"the run is of the task {self.config.task}, which writes no text")
        vocabulary, _ = probe.text()
        knobs = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        (text,) = text_samples(
            probe.net, self.params, vocabulary, prime=prime, length=length, **knobs
        )
        return text


def open_run(
    workdir: str | Path, which: str = "best", warn: Callable[[str], None] = display.warn
) -> Run:
    """The run in `workdir` with its checkpoint `which`: "best", "latest" or a step, "1000".

    warn: is told of what is damaged, or different on this machine, and no reason to stop.

    Raises UsageError if there is no run or no such checkpoint, CheckpointError if none is whole.
    """
    workdir = Path(workdir).expanduser()
    config = saved_config(workdir)
    if config is None:
        raise UsageError(f"{workdir} holds no run: there is no config.json in it")
    task, optimiser = build(config, kept=workdir)
    template = jax.eval_shape(lambda: configured_state(config, task, optimiser))
    root = workdir / "checkpoints"
    step: Any = None if which == "latest" else which
    if which not in ("best", "latest"):
        if not (which.isascii() and which.isdigit()):
            raise UsageError(f"--checkpoint takes best, latest or a step, got '{which}'")
        step = int(which)
    elif which == "best" and not checkpoint.metrics(root):
        warn(f"no checkpoint in {root} has been validated yet: the latest is taken")
        step = None
    found = checkpoint.restore(
        root,
        template,
        step=step,
        fingerprint=task.fingerprint,
        warn=warn,
        later=LATER_LEAVES,
    )
    if found is None:
        raise CheckpointError(f"{root} holds no checkpoint: the run was stopped before its first")
    state, meta = found
    return Run(config, task, eval_params(state), meta)


def mended_config(workdir: Path, warn: Callable[[str], None]) -> Config | None:
    """`saved_config`; if that is damaged or missing and a checkpoint has a copy, after `heal`."""
    copied = (workdir / "checkpoints").is_dir()
    try:
        found = saved_config(workdir)
    except UsageError:
        if not copied:
            raise
        found = None
    if found is None and copied:
        with lock(workdir):
            heal(workdir, warn)
        found = saved_config(workdir)
    return found


def saved_config(workdir: Path) -> Config | None:
    """The config of the run in `workdir`, None if there is no run. Raises UsageError if it is damaged."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    try:
        saved = read_json(path)
    except UsageError as error:
        again = command.line("train", f"--workdir={workdir}")
        raise UsageError(f"{error}; {again} puts it back from a checkpoint") from error
    for part, values in LATER_KEYS.items():
        if not isinstance(saved.get(part, {}), dict):
            raise UsageError(f"{path} is damaged: '{part}' in it has no keys")
        saved[part] = {**values, **saved.get(part, {})}
    if saved["model"].pop("compute_dtype", None) == "bfloat16":  # what precision was called
        saved["model"]["precision"] = "bf16"
    try:
        return from_json(saved)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        told = str(error).strip().split("\n")[0]
        raise UsageError(f"{path} is damaged: {told}") from error


def heal(workdir: Path, warn: Callable[[str], None]) -> None:
    """Put back each file of a run that is damaged or missing and of which a checkpoint has a copy, and
    say so; for the holder of the run folder alone. Raises StorageError if the disk refuses."""
    copies = None
    held = {path.name for path in (workdir / "checkpoints").glob("*/files/*.json")}
    for name in sorted({path.name for path in workdir.glob("[!.]*.json")} | held):
        try:
            read_json(workdir / name)
        except UsageError as error:
            if copies is None:
                copies = checkpoint.copies(workdir / "checkpoints")
            if name in copies:
                write_json(workdir / name, read_json(copies[name]))
                step = int(copies[name].parent.parent.name)
                warn(f"{error}: it is put back as it was at step {step}")
            elif name == SUMMARY:
                warn(f"{error}: it is written anew")
                (workdir / name).unlink()
