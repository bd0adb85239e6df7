"""One run from its config to its summary: begun, or gone on with, trained and finished.

Data flows one way: config -> task -> batch -> model (scan of cell) -> loss -> gradients -> norm
recorded -> clip -> update -> metrics -> checkpoint. Everything between two checkpoints is a pure
function of the first of them, so that a run that is stopped anywhere goes on bit for bit.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from rnnlab.errors import UsageError
from rnnlab.run import arrays, command, signals
from rnnlab.run.config import absolute, difference, load, plain_config
from rnnlab.run.display import Display, warn
from rnnlab.run.folder import lock
from rnnlab.tasks.kinds.sources import anchored
from rnnlab.train import memory, start
from rnnlab.train.from_config import build
from rnnlab.train.loop import run_steps
from rnnlab.train.record import Record, fail_together
from rnnlab.train.saved import mended_config, saved_config
from rnnlab.train.single import Single
from rnnlab.types import Config, Task

# What a run may be given anew when it resumes: nothing that a past step depended on. The number of
# steps is such a thing unless the schedule of the learning rate depends on it.
FREE_ON_RESUME = (
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.skip_faults",
    "diagnose.every",
    "diagnose.saturation",
    "parallel.devices",  # other bits, and a warning, but the same mathematics
)
ENDLESS_SCHEDULES = ("constant", "step")
# What shows that a folder without a config.json belongs to something else.
RUN_FILES = ("checkpoints", "metrics.jsonl", "samples.txt", "summary.json", "run.json")


def fit(
    config: Config | str | Path | None,
    workdir: str | Path,
    overrides: Sequence[str] = (),
    began: float | None = None,
) -> dict[str, Any]:
    """Train, or resume the run that `workdir` holds; returns what summary.json says.

    config: a ConfigDict, or the path of a config file; None goes on with the run's own. overrides:
        what run.json says was given on the command line. began: when the process did, by
        `time.monotonic`, for run.json; None for now.

    Meant for notebooks and scripts too: progress is printed in plain lines. While it trains, SIGINT (a
    notebook's stop button), SIGTERM and SIGHUP end it after the step under way, the state saved; then
    the handlers are the old ones again. Nothing else of the process is changed: it runs on the
    devices that JAX has. On a CPU `rnnlab.run.process.retain_memory()` beforehand spares page faults,
    and up to half the time, as launch.py does.

    Over several processes (`jax.distributed`) each calls this alike; process 0 writes.

    Raises the errors of `rnnlab.errors`; `Interrupted` after SIGINT or SIGTERM, the state saved.
    """
    workdir = Path(workdir).expanduser()
    if isinstance(config, str | Path):
        config = load(config)
    elif config is not None:
        config = absolute(plain_config(config, apart=True)).lock()
    began = time.monotonic() if began is None else began
    alone, primary = jax.process_count() == 1, jax.process_index() == 0
    arrays.check_name(workdir.absolute() / "checkpoints")
    saved = mended_config(workdir, warn) if alone else saved_config(workdir)
    settings = _agreed_config(config, saved, workdir)
    task, optimiser = build(settings, run=None if saved is None else workdir)
    if saved is None:  # before anything is written
        start.plan(settings, task)
    steps = settings.train.steps
    display = Display(steps, task.unit, quiet=not primary, measure=task.measure)
    with signals.deferred() as caught, memory.explained(settings):
        crew = Single(settings, task, optimiser, lambda: caught.received)
        memory.check(settings, task, optimiser, crew.split.devices)
        with (
            _held(workdir, primary),
            display,
            Record(
                settings,
                workdir,
                task,
                optimiser,
                display,
                overrides=list(overrides),
                split=crew.split.name,
                started=began,
            ) as record,
        ):
            if record.start > steps:
                raise UsageError(
                    f"the run has done {record.start} steps: train.steps cannot be {steps}"
                )
            introduce(display, settings, task, record.start)
            crew.begin(record)
            run_steps(
                crew,
                settings.train,
                display=display,
                again=command.line("train", f"--workdir={workdir}"),
            )
            return record.finish(steps, crew.params(0))


def _agreed_config(given: Config | None, saved: Config | None, workdir: Path) -> Config:
    """The config to run with. Raises UsageError if the folder's run is another one."""
    if saved is None:
        if given is None:
            raise UsageError(f"{workdir} holds no run to resume: give --config=FILE to start one")
        strange = [name for name in RUN_FILES if (workdir / name).exists()]
        if strange:
            raise UsageError(
                f"{workdir} has {', '.join(strange)} but no config.json: choose another --workdir"
            )
        return given
    found: Any = anchored(saved, workdir)
    if given is None:
        return found
    differs = difference(found, given)
    free = FREE_ON_RESUME
    if found.optim.schedule in ENDLESS_SCHEDULES:
        free += ("train.steps",)
    fixed = {k: v for k, v in differs.items() if k not in free}
    if fixed:
        shown = "; ".join(f"{k}: the run has {a!r}, you gave {b!r}" for k, (a, b) in fixed.items())
        raise UsageError(
            f"{workdir} holds a run of another config ({shown}): choose another --workdir, or give "
            "no --config to resume it"
        )
    return given


def introduce(display: Display, config: Config, task: Task, done: int) -> None:
    """Show the model and the data of a run that begins, or goes on after `done` steps."""
    model = config.model
    display.model(task.layers, f"{model.layers} x {model.hidden} {model.cell}")
    display.facts({k: v for k, v in task.facts().items() if not k.endswith("sha256")})
    if done:
        display.say(f"resumed at step {done}")


@contextlib.contextmanager
def _held(workdir: Path, primary: bool) -> Iterator[None]:
    """The lock of the run folder, held by process 0 for all."""
    with contextlib.ExitStack() as stack:
        with fail_together():
            if primary:
                stack.enter_context(lock(workdir))
        yield
