"""The training loop: the only module that sees the whole configuration.

Data flows one way: config -> task -> batch -> model (scan of cell) -> loss -> gradients -> norm
recorded -> clip -> update -> metrics -> checkpoint. Everything between two checkpoints is a pure
function of the first of them, so that a run that is stopped anywhere goes on bit for bit.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab import tasks
from rnnlab.errors import CheckpointError, Interrupted, UsageError
from rnnlab.run import arrays, checkpoint, signals
from rnnlab.run import config as configuration
from rnnlab.run.display import Display, warn
from rnnlab.run.files import read_json
from rnnlab.run.folder import lock
from rnnlab.run.limits import validate
from rnnlab.train import memory, optim, parallel
from rnnlab.train import step as stepping
from rnnlab.train import watch as seen
from rnnlab.train.record import Record, all_told, heal, initial
from rnnlab.types import Config, Params, Task

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
# Keys that older runs lack, and what those did.
LATER = {
    "parallel": {"devices": 1},
    "train": {"steps_per_dispatch": 1, "skip_faults": 0},
    "model": {"path": "plain", "keep": "preactivations", "precision": "float32"},
    "optim": {"omega": 0.0},
    "diagnose": {"every": 0, "saturation": True},
}


def build(config: Config, kept: Path | None = None) -> tuple[Task, optim.Optimiser]:
    """The task and the optimiser of a config, every value checked.

    Raises UsageError, in one line, for whatever does not fit; nothing is written.
    """
    validate(config)
    with _fitting(config):
        if kept is None:  # what is only read from may have been trained on a larger machine
            memory.check_rows(config)
        return _build(config, kept)


@contextlib.contextmanager
def _fitting(config: Any) -> Iterator[None]:
    """What the parts say of a config that no experiment here could have, as UsageError."""
    try:
        yield
    except MemoryError as error:
        raise UsageError(memory.line(error, config)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A key too many or too few: parts take their share of the config as named arguments.
        raise UsageError(
            "the config does not fit: " + str(error).strip("\"'").split("\n")[0]
        ) from error
    except (OverflowError, RecursionError) as error:
        values = configuration.flat(config)
        largest = sorted(
            (key for key, v in values.items() if isinstance(v, int) and key != "seed"),
            key=lambda key: -values[key],
        )
        shown = ", ".join(f"{key}={values[key]}" for key in largest[:3])
        raise UsageError(f"a size in the config is too large; the largest are {shown}") from error


def _build(config: Config, kept: Path | None) -> tuple[Task, optim.Optimiser]:
    average_decay = config.optim.ema
    if not 0 <= average_decay < 1:
        raise UsageError(f"optim.ema must be in [0, 1), got {average_decay}")
    made = optimiser_of(config, {})
    return tasks.make_task(config, kept), made


def optimiser_of(config: Config, values: dict[str, Any]) -> optim.Optimiser:
    """The optimiser of a config, with `values` (see `optim.TRACED`) in place of its own."""
    options = {**config.optim, **values}
    del options["ema"], options["reduction"], options["omega"]
    schedule = optim.schedule(
        kind=options.pop("schedule"),
        steps=config.train.steps,
        **{
            name: options.pop(name)
            for name in (
                "learning_rate",
                "warmup_steps",
                "final_fraction",
                "decay_every",
                "decay_factor",
            )
        },
    )
    return optim.make(schedule=schedule, **options)


class Run(NamedTuple):
    """A run as its folder tells it."""

    config: Config
    task: Task
    params: Params  # those to evaluate and sample with: the average where there is one
    meta: dict[str, Any]  # of the checkpoint


def open_run(workdir: Path, which: str, warn: Callable[[str], None]) -> Run:
    """The run in `workdir` with its checkpoint `which`: "best", "latest" or a step.

    Raises UsageError if there is no run or no such checkpoint, CheckpointError if none is whole.
    """
    config = saved_config(workdir)
    if config is None:
        raise UsageError(f"{workdir} holds no run: there is no config.json in it")
    task, optimiser = build(config, kept=workdir)
    template = jax.eval_shape(lambda: initial(config, task, optimiser))
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
        later=stepping.LATER,
    )
    if found is None:
        raise CheckpointError(f"{root} holds no checkpoint: the run was stopped before its first")
    state, meta = found
    return Run(config, task, stepping.served(state), meta)


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
        raise UsageError(
            f"{error}; python launch.py train --workdir={workdir} puts it back from a checkpoint"
        ) from error
    for part, values in LATER.items():
        if not isinstance(saved.get(part, {}), dict):
            raise UsageError(f"{path} is damaged: '{part}' in it has no keys")
        saved[part] = {**values, **saved.get(part, {})}
    if saved["model"].pop("compute_dtype", None) == "bfloat16":  # what precision was called
        saved["model"]["precision"] = "bf16"
    try:
        return configuration.from_json(saved)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        told = str(error).strip().split("\n")[0]
        raise UsageError(f"{path} is damaged: {told}") from error


def _agreed(given: Config | None, saved: Config | None, workdir: Path) -> Config:
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
    if given is None:
        return saved
    differs = configuration.difference(saved, given)
    free = FREE_ON_RESUME
    if saved.optim.schedule in ENDLESS_SCHEDULES:
        free += ("train.steps",)
    fixed = {k: v for k, v in differs.items() if k not in free}
    if fixed:
        shown = "; ".join(f"{k}: the run has {a!r}, you gave {b!r}" for k, (a, b) in fixed.items())
        raise UsageError(
            f"{workdir} holds a run of another config ({shown}): choose another --workdir, or give "
            "no --config to resume it"
        )
    return given


def wished(config: Config) -> dict[str, Any]:
    """What `parallel` goes by. Raises UsageError for a config that lacks it."""
    with _fitting(config):
        return {
            "requested": config.parallel.devices,
            "batch": config.train.batch_size,
            "whole": config.optim.omega > 0,
        }


def _work(config: Config, task: Task) -> float:
    """Floating-point operations of a train step."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return 6.0 * count * config.train.batch_size * config.train.window


class Single:
    """One run, as `loop` sees what it trains: this, or a `population.Population` of runs."""

    def __init__(
        self,
        config: Config,
        task: Task,
        optimiser: optim.Optimiser,
        signal: Callable[[], int | None],
    ):
        self.config, self.task, self.signal = config, task, signal
        self.split = parallel.choose(**wished(config))
        group = config.train.steps_per_dispatch
        if task.shapes > 1:
            if group > 1:
                raise UsageError(
                    f"train.steps_per_dispatch is {group}: batches of several lengths (data.buckets) go "
                    "one by one, leave it at 0"
                )
            group = 1
        if not (group or self.split.devices):
            group = stepping.steps_per_dispatch(_work(config, task))
        self.group, self.every = max(group, 1), config.diagnose.every
        made = functools.partial(
            stepping.make,
            task,
            optimiser,
            average_decay=config.optim.ema,
            reduction=config.optim.reduction,
            log_every=config.train.log_every,
            omega=config.optim.omega,
            skip=config.train.skip_faults,
            split=self.split,
            signal=signal,
        )
        self.program = made(group=self.group)
        watch = seen.watched(config.diagnose)
        self.watched = made(watch=watch) if watch else None

    def begin(self, record: Record) -> None:
        """Take the state over from the record."""
        self.record, self.records, self.alive = record, [record], [0]
        self.current = parallel.place(self.split, record.handed_over())

    def advance(self, done: int, most: int) -> tuple[Any, int]:
        """Take one step or more, up to number `most`; (report, the number of the last)."""
        batch, number = self.task.batch(done), done + 1
        if self.watched is not None:
            if number % self.every == 0:
                self.current, report = self.watched(self.current, batch)
                return report, number
            most = min(most, done // self.every * self.every + self.every - 1)
        if self.group > 1:
            number = min(done + self.group, most)
            batch = [batch, *map(self.task.batch, range(done + 1, number))]
        self.current, report = self.program(self.current, batch)
        return report, number

    def reports(self, report: Any) -> list[dict[str, float]]:
        """A report of `advance`, record by record; it waits for its step."""
        return [
            {name: float(value) for name, value in report.items() if name not in ("seen", "skips")}
        ]

    def seen(self, report: Any) -> list[Any]:
        """What a step that looked at its gradients saw, record by record; see `watch`."""
        return [jax.tree.map(np.asarray, report["seen"])]

    def caught(self, report: Any) -> int | None:
        """The signal to stop for, which each process has after the same report."""
        if self.split.processes == 1:
            return self.signal()
        return int(report["signal"]) or None if report is not None else None

    def state(self, index: int) -> stepping.TrainState:
        """The state of a record, as arrays of this process alone."""
        return parallel.whole(self.split, self.current)

    def params(self, index: int) -> Params:
        """What a record is evaluated and sampled with."""
        return parallel.own(self.split, stepping.served(self.current))

    def evaluated(self, indices: list[int]) -> list[dict[str, float]]:
        """What `Task.evaluate` finds for these records."""
        return [self.task.evaluate(self.params(index)) for index in indices]

    def logged(self, rows: list[dict[str, Any]]) -> None:
        """The rows of a step, one a record; the record has shown it."""

    def validated(self, step: int) -> None:
        """All records have been evaluated."""
        self.record.draw()


def loop(crew: Any, config: Any, *, display: Display, again: str, until: int = 0) -> None:
    """Train what the crew holds to its last step; what falls on a step is done for every record.

    crew: a `Single` or a `population.Population`, begun. config: `train` of the config of them all.
    again: the command that goes on after an interruption. until: a step to stop at sooner, with
        all that is done at the last one; 0 for none.

    A record that comes to a step that is not finite, and may not skip it, is closed; the others go
    on. Raises DivergedError when none is left, and `Interrupted` after SIGINT or SIGTERM, the states saved.
    """
    records: list[Record] = crew.records
    alive = list(crew.alive)
    done = first = records[alive[0]].start
    every = (config.log_every, config.eval_every, config.sample_every, config.checkpoint_every)

    def check(report: Any) -> None:
        if config.skip_faults:
            counts = np.atleast_1d(np.asarray(report["skips"]["count"]))
            for i in [i for i in alive if counts[i] != records[i].skipped]:
                skips = jax.tree.map(np.asarray, report["skips"])
                one = skips if not skips["count"].ndim else {k: v[i] for k, v in skips.items()}
                records[i].skipping(one)
        faults = np.atleast_1d(np.asarray(report["fault"]))
        for i in [i for i in alive if faults[i]]:
            error = records[i].diverged(crew.state(i))
            alive.remove(i)
            if len(records) > 1:
                display.say(f"{records[i].workdir.name}: {error}")
            if not alive:
                raise error

    def log(report: Any, number: int) -> None:
        if number % config.log_every == 0:
            found = crew.reports(report)
            crew.logged([records[i].log(found[i]) for i in alive])
        if crew.every and number % crew.every == 0:
            looks = crew.seen(report)
            for i in alive:
                records[i].diagnosed(number, looks[i])

    end = min(until or config.steps, config.steps)
    before = pending = None  # reports: of the dispatch before, and of one that awaits its rows
    while done < end:
        most = min(end, *((done // n + 1) * n for n in every if n))
        report, number = crew.advance(done, most)
        if done == first:  # it compiled: no part of the rate
            jax.block_until_ready(report)
            for i in alive:
                records[i].under_way(number)
            display.resume(number)
        done = number
        # Read one dispatch late: the device always has the next one to work on.
        if before is not None:
            check(before)
        if pending is not None:
            log(*pending)
        # Of several processes one may have the signal: they learn it from the same report.
        received = crew.caught(before)
        due = [n for n in (config.log_every, crew.every) if n and done % n == 0]
        before, pending = report, (report, done) if due else None
        display.tick(done)
        # What falls on this step is done even now: the rows of a run do not depend on signals.
        last = done == end
        evaluate, sample, save = (last or (n > 0 and done % n == 0) for n in every[1:])
        if not (evaluate or sample or save or received):
            continue
        check(report)
        if pending is not None:
            log(*pending)
            pending = None
        paused = time.monotonic()
        if evaluate:
            wanted = [i for i in alive if records[i].measured_at != done]  # not resumed at the end
            found = zip(wanted, crew.evaluated(wanted), strict=True)
            # The best is kept; and where one is saved all are, so that they have steps in common.
            better = [records[i].validated(done, values) for i, values in found]
            save |= any(better)
            crew.validated(done)
        if sample:
            for i in alive:
                records[i].sample(done, crew.params(i))
        if save or received:
            for i in alive:
                records[i].save(done, crew.state(i))
        for i in alive:
            records[i].aside += time.monotonic() - paused
        if received and not last:
            raise Interrupted(
                f"interrupted after step {done}; the state is saved: resume with {again}", received
            )


def train(
    config: Config | None, workdir: Path, overrides: list[str], began: float | None = None
) -> dict[str, Any]:
    """Train, or resume the run that `workdir` holds; returns what summary.json says.

    began: when the process did, by `time.monotonic`, for run.json; None for now.

    Over several processes (`jax.distributed`) each calls this alike; process 0 writes.

    Raises the errors of `rnnlab.types`; `Interrupted` after SIGINT or SIGTERM, the state saved.
    """
    began = time.monotonic() if began is None else began
    alone, primary = jax.process_count() == 1, jax.process_index() == 0
    arrays.check_name(workdir.absolute() / "checkpoints")
    saved = mended_config(workdir, warn) if alone else saved_config(workdir)
    settings = _agreed(config, saved, workdir)
    task, optimiser = build(settings)
    steps = settings.train.steps
    display = Display(steps, task.unit, quiet=not primary, measure=task.measure)
    with signals.deferred() as caught, memory.told(settings):
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
                overrides=overrides,
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
            loop(
                crew,
                settings.train,
                display=display,
                again=f"python launch.py train --workdir={workdir}",
            )
            return record.finish(steps, crew.params(0))


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
        with all_told():
            if primary:
                stack.enter_context(lock(workdir))
        yield
