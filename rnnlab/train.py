"""The training loop: the only module that sees the whole configuration.

Data flows one way: config -> task -> batch -> model (scan of cell) -> loss -> gradients -> norm
recorded -> clip -> update -> metrics -> checkpoint. Everything between two checkpoints is a pure
function of the first of them, so that a run that is stopped anywhere goes on bit for bit.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnnlab import checkpoint, optim, parallel, runfolder, tasks
from rnnlab import config as configuration
from rnnlab import step as stepping
from rnnlab.display import Display, clock
from rnnlab.types import (
    CheckpointError,
    Config,
    DivergedError,
    Interrupted,
    Params,
    RnnlabError,
    Task,
    UsageError,
)

# What a run may be given anew when it resumes: nothing that a past step depended on. The number of
# steps is such a thing unless the schedule of the learning rate depends on it.
FREE_ON_RESUME = (
    "train.eval_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "parallel.devices",  # other bits, and a warning, but the same mathematics
)
ENDLESS_SCHEDULES = ("constant", "step")
# What shows that a folder without a config.json belongs to something else.
RUN_FILES = ("checkpoints", "metrics.jsonl", "samples.txt", "summary.json", "run.json")
# Keys that older runs lack, and what those did.
LATER = {
    "parallel": {"devices": 1},
    "train": {"steps_per_dispatch": 1},
    "model": {"path": "plain", "keep": "preactivations", "precision": "float32"},
}


def build(config: Config, kept: Path | None = None) -> tuple[Task, optim.Optimiser]:
    """The task and the optimiser of a config, every value checked.

    Raises UsageError, in one line, for whatever does not fit; nothing is written.
    """
    configuration.validate(config)
    try:
        return _build(config, kept)
    except (AttributeError, KeyError, TypeError) as error:
        # A key too many or too few: parts take their share of the config as named arguments.
        raise UsageError(
            "the config does not fit: " + str(error).strip("\"'").split("\n")[0]
        ) from error


def _build(config: Config, kept: Path | None) -> tuple[Task, optim.Optimiser]:
    options = dict(config.optim)
    average_decay, _ = options.pop("ema"), options.pop("reduction")
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
    optimiser = optim.make(schedule=schedule, **options)
    if not 0 <= average_decay < 1:
        raise UsageError(f"optim.ema must be in [0, 1), got {average_decay}")
    return tasks.make(config, kept), optimiser


def initial(config: Config, task: Task, optimiser: optim.Optimiser) -> stepping.TrainState:
    """The state of step 0."""
    return stepping.start(task, optimiser, seed=config.seed, average=config.optim.ema > 0)


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
    found = checkpoint.restore(root, template, step=step, fingerprint=task.fingerprint, warn=warn)
    if found is None:
        raise CheckpointError(f"{root} holds no checkpoint: the run was stopped before its first")
    state, meta = found
    return Run(config, task, stepping.served(state), meta)


def saved_config(workdir: Path) -> Config | None:
    """The config of the run in `workdir`, None if there is no run."""
    path = workdir / "config.json"
    if not path.exists():
        return None
    saved = runfolder.read_json(path)
    for part, values in LATER.items():
        saved[part] = {**values, **saved.get(part, {})}
    if saved["model"].pop("compute_dtype", None) == "bfloat16":  # what precision was called
        saved["model"]["precision"] = "bf16"
    return configuration.from_json(saved)


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


def wished(config: Config) -> dict[str, int]:
    """What `parallel` goes by."""
    return {"requested": config.parallel.devices, "batch": config.train.batch_size}


def _work(config: Config, task: Task) -> float:
    """Floating-point operations of a train step."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return 6.0 * count * config.train.batch_size * config.train.window


def train(
    config: Config | None, workdir: Path, overrides: list[str], began: float | None = None
) -> dict[str, Any]:
    """Train, or resume the run that `workdir` holds; returns what summary.json says.

    began: when the process did, by `time.monotonic`, for run.json; None for now.

    Over several processes (`jax.distributed`) each calls this alike; process 0 writes.

    Raises the errors of `rnnlab.types`; `Interrupted` after SIGINT or SIGTERM, the state saved.
    """
    began = time.monotonic() if began is None else began
    settings = _agreed(config, saved_config(workdir), workdir)
    task, optimiser = build(settings)
    split = parallel.choose(**wished(settings))
    group = settings.train.steps_per_dispatch
    if not (group or split.devices):
        group = stepping.steps_per_dispatch(_work(settings, task))
    primary = jax.process_index() == 0
    display = Display(settings.train.steps, task.unit, quiet=not primary)
    with runfolder.signals() as caught:
        train_step = stepping.make(
            task,
            optimiser,
            average_decay=settings.optim.ema,
            reduction=settings.optim.reduction,
            log_every=settings.train.log_every,
            split=split,
            group=max(group, 1),
            signal=lambda: caught.received,
        )
        with (
            _held(workdir, primary),
            display,
            _Loop(settings, workdir, overrides, task, optimiser, display, split, began) as loop,
        ):
            return loop.run(train_step, max(group, 1), lambda: caught.received)


@contextlib.contextmanager
def _held(workdir: Path, primary: bool) -> Iterator[None]:
    """The lock of the run folder, held by process 0 for all."""
    with contextlib.ExitStack() as stack:
        with _all_told():
            if primary:
                stack.enter_context(runfolder.lock(workdir))
        yield


@contextlib.contextmanager
def _all_told() -> Iterator[None]:
    """What process 0 alone does, and if it fails, no process goes on to wait for it."""
    try:
        yield
    except RnnlabError as error:
        parallel.agreed(error.exit_code)
        raise
    if parallel.agreed(0):
        raise UsageError("process 0 has given up, and says why")


class _Loop:
    """One process's share of a run: what is open while it trains. Process 0 has all the files."""

    def __init__(self, config, workdir, overrides, task, optimiser, display, split, began):
        self.config, self.workdir, self.task, self.display = config, workdir, task, display
        self.optimiser, self.split = optimiser, split
        self.root = workdir / "checkpoints"
        self.primary = jax.process_index() == 0
        self.best, self.best_step = math.inf, 0
        self.measured, self.measured_at = math.nan, -1  # the last validation loss, and its step
        self.seconds, self.started, self.began = 0.0, began, time.monotonic()
        self.rate = f"{task.unit}s_per_second"
        self.aside = 0.0  # seconds since the last logged row that were not spent on steps
        self.state, meta = self._state()
        if meta is not None:
            extra = meta["extra"]
            self.best, self.best_step = float(extra["best"]), extra["best_step"]
            self.seconds, self.measured_at = extra["seconds"], extra["measured_at"]
        self.logged_at, self.logged_time = int(self.state.step), time.monotonic()
        self.files = contextlib.ExitStack()
        with _all_told():
            if self.primary:
                self._record(overrides, resumed=meta is not None)
                self._open(meta)

    def _open(self, meta: dict[str, Any] | None) -> None:
        sizes = meta["extra"] if meta else {"metrics_bytes": 0, "samples_bytes": 0}
        warn = self.display.warn
        self.metrics = self.files.enter_context(runfolder.Log(self.workdir / "metrics.jsonl"))
        self.samples = self.files.enter_context(runfolder.Log(self.workdir / "samples.txt"))
        if meta is None and self.metrics.size:
            warn(f"{self.root} holds no checkpoint: the run starts again from step 0")
        # Without a checkpoint, rows of an earlier start belong to steps that are done again.
        self.metrics.truncate(sizes["metrics_bytes"], warn)
        self.samples.truncate(sizes["samples_bytes"], warn)
        step = int(self.state.step) + 1 if meta else None
        self.events = self.files.enter_context(runfolder.Events(self.workdir, purge_step=step))

    def __enter__(self) -> "_Loop":
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def _state(self) -> tuple[stepping.TrainState, dict[str, Any] | None]:
        state, meta = initial(self.config, self.task, self.optimiser), None
        if self.primary:
            checkpoint.clean(self.root)
        parallel.agreed(0)  # the others read when it is done
        found = checkpoint.restore(
            self.root,
            state,
            fingerprint=self.task.fingerprint,
            warn=self.display.warn,
            split=self.split.name,
        )
        if found is not None:
            state, meta = found
        step = int(state.step)
        if parallel.agreed(step) != step:
            raise CheckpointError(f"{self.root} is not the same folder for all processes")
        return parallel.place(self.split, state), meta

    def _served(self) -> Params:
        return parallel.own(self.split, stepping.served(self.state))

    def _record(self, overrides: list[str], resumed: bool) -> None:
        path = self.workdir / "run.json"
        facts = self.task.facts()
        described = runfolder.describe(overrides=overrides) | {"split": self.split.name}
        if resumed and path.exists():
            run = runfolder.read_json(path)
            before = run["data"].get("sha256")
            if before != facts.get("sha256"):
                raise UsageError(
                    f"the text of this run has changed since it began: {facts.get('source')} has "
                    f"sha256 {facts.get('sha256')}, the run has {before}"
                )
            run["resumed"] = [*run.get("resumed", []), {"step": int(self.state.step), **described}]
        else:
            count = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
            run = {**described, "data": facts, "parameters": count}
        runfolder.write_json(self.workdir / "config.json", configuration.to_json(self.config))
        self.task.keep(self.workdir)
        runfolder.write_json(path, run)

    def _first_step_done(self) -> None:
        """Into run.json goes how long this start took."""
        seconds = round(time.monotonic() - self.started, 3)
        if self.primary:
            path = self.workdir / "run.json"
            run = runfolder.read_json(path)
            [run, *run.get("resumed", [])][-1]["start_seconds"] = seconds
            runfolder.write_json(path, run)

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def run(
        self, train_step: Callable[..., Any], group: int, signal: Callable[[], int | None]
    ) -> dict[str, Any]:
        config, display, steps = self.config.train, self.display, self.config.train.steps
        done = first = int(self.state.step)
        if first > steps:
            raise UsageError(f"the run has done {first} steps: train.steps cannot be {steps}")
        self._introduce(first)
        before = pending = None  # reports: of the dispatch before, and of one that awaits its row
        while done < steps:
            batch = self.task.batch(done)
            if group == 1:
                number = done + 1
            else:
                number = min(done + group, self._next_event(done))
                batch = [batch, *map(self.task.batch, range(done + 1, number))]
            self.state, report = train_step(self.state, batch)
            if done == first:  # it compiled: no part of the rate
                jax.block_until_ready(report)
                self._first_step_done()
                self.logged_at, self.logged_time = number, time.monotonic()
                display.resume(number)
            done = number
            # Read one dispatch late: the device always has the next one to work on.
            if before is not None and int(before["fault"]):
                self._diverged()
            if pending is not None:
                self._log(pending)
            # Of several processes one may have the signal: they learn it from the same report.
            if self.split.processes > 1:
                received = int(before["signal"]) or None if before is not None else None
            else:
                received = signal()
            before, pending = report, report if done % config.log_every == 0 else None
            display.tick(done)
            # What falls on this step is done even now: the rows of a run do not depend on signals.
            due = {
                name: done == steps or (every > 0 and done % every == 0)
                for name, every in (
                    ("evaluate", config.eval_every),
                    ("sample", config.sample_every),
                    ("save", config.checkpoint_every),
                )
            }
            due["save"] |= received is not None
            if not any(due.values()):
                continue
            if int(report["fault"]):
                self._diverged()
            if pending is not None:
                self._log(pending)
                pending = None
            paused = time.monotonic()
            improved = self._evaluate(done) if due["evaluate"] else False
            if due["sample"]:
                self._sample(done)
            if due["save"] or improved:
                self._save(done)
            self.aside += time.monotonic() - paused
            if received is not None and done < steps:
                raise Interrupted(
                    f"interrupted after step {done}; the state is saved: resume with "
                    f"python launch.py train --workdir={self.workdir}",
                    received,
                )
        return self._finish()

    def _next_event(self, done: int) -> int:
        """The next step on which something falls."""
        config = self.config.train
        every = (config.log_every, config.eval_every, config.sample_every, config.checkpoint_every)
        return min(config.steps, *((done // n + 1) * n for n in every if n))

    def _introduce(self, first: int) -> None:
        model = self.config.model
        self.display.model(self.task.layers, f"{model.layers} x {model.hidden} {model.cell}")
        facts = {k: v for k, v in self.task.facts().items() if k != "sha256"}
        self.display.facts(facts)
        if first:
            self.display.say(f"resumed at step {first}")

    def _log(self, report: dict[str, Any]) -> None:
        values = {name: float(value) for name, value in report.items()}
        step, steps = int(values["step"]), values["steps"]
        now = time.monotonic()
        spent = max(now - self.logged_time - self.aside, 1e-9)
        # The tally may hold steps of an earlier process, and the one that compiled; the rate is of
        # the others, if there are any yet.
        share = (step - self.logged_at) / steps
        row = {
            "step": step,
            "split": "train",
            "loss": values["loss"] / values["count"],
            "grad_norm": values["norm"] / steps,
            "grad_norm_max": values["norm_max"],
            "clipped": values["clipped"] / steps,
            "update_ratio": values["ratio"] / steps,
            "learning_rate": float(self.optimiser.learning_rate(step - 1)),
            **({self.rate: values["count"] * share / spent} if share else {}),
            "seconds": self._elapsed(),
        }
        self.logged_at, self.logged_time, self.aside = step, now, 0.0
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        if not self.primary:
            return
        self.metrics.append(runfolder.metrics_row(row))
        self.events.write(row["step"], row["split"], row)
        self.display.row(row)

    def _evaluate(self, step: int) -> bool:
        if self.measured_at == step:  # resumed at the very end
            return False
        found = self.task.evaluate(self._served())
        found["loss"] = parallel.agreed(found["loss"])  # to the bit: a checkpoint depends on it
        self._write({"step": step, "split": "valid", **found, "seconds": self._elapsed()})
        self.measured_at, self.measured = step, found["loss"]
        if self.primary:
            self._draw()
        if not found["loss"] < self.best:
            return False
        self.best, self.best_step = found["loss"], step
        return True

    def _draw(self) -> list[dict[str, Any]]:
        from rnnlab import plots  # not before the first step: it brings matplotlib

        rows = runfolder.read_rows(self.workdir / "metrics.jsonl")
        plots.curves(
            rows,
            self.workdir / "curves.png",
            title=self.workdir.name,
            clip_norm=self.config.optim.clip_norm,
            unit=self.task.unit,
        )
        return rows

    def _sample(self, step: int) -> None:
        if not self.primary:
            return
        text = self.task.show(self._served(), step)
        self.samples.append(f"---- step {step} ----\n{text}\n")
        self.display.say(f"---- a sample at step {step} ----\n{text}\n----")

    def _save(self, step: int) -> None:
        sizes = {}
        if self.primary:
            self.metrics.sync()
            self.samples.sync()
            sizes = {"metrics_bytes": self.metrics.size, "samples_bytes": self.samples.size}
        checkpoint.save(
            self.root,
            step,
            parallel.whole(self.split, self.state),
            metric=self.measured if self.measured_at == step else None,
            extra={
                **sizes,
                "seconds": self._elapsed(),
                "best": self.best,
                "best_step": self.best_step,
                "measured_at": self.measured_at,
            },
            fingerprint=self.task.fingerprint,
            keep=self.config.train.keep,
            split=self.split.name,
        )

    def _diverged(self) -> None:
        fault = {name: float(value) for name, value in self.state.fault.items()}
        step, good = int(fault["step"]), int(self.state.step)
        none = jax.tree.map(lambda leaf: leaf * 0, {"step": self.state.fault["step"]})
        cleared = {
            name: none["step"].astype(value.dtype) for name, value in self.state.fault.items()
        }
        self.state = self.state.replace(fault=cleared)
        if good:
            self._save(good)
        kept = f"the last good state, step {good}, is kept" if good else "nothing was worth keeping"
        raise DivergedError(
            f"diverged at step {step}: the loss is {fault['loss']:.4g}, the norm of the gradient "
            f"{fault['norm']:.4g}, the clipping threshold {self.config.optim.clip_norm:g}; {kept}: "
            "lower optim.learning_rate or optim.clip_norm"
        )

    def _finish(self) -> dict[str, Any]:
        step = int(self.state.step)
        if not self.primary:
            return {"steps": step, "valid_loss": self.best, "valid_step": self.best_step}
        rows = self._draw()
        old = self.workdir / "summary.json"
        extra = self.task.finish(self._served())
        rates = sorted(r[self.rate] for r in rows if self.rate in r)
        losses = [r["loss"] for r in rows if r["split"] == "valid"]
        summary = {
            "valid_loss": self.best,
            "valid_step": self.best_step,
            "final_valid_loss": losses[-1] if losses else None,
            "steps": step,
            "seconds": self._elapsed(),
            self.rate: rates[len(rates) // 2] if rates else None,
            **extra,
        }
        if old.exists() and runfolder.read_json(old)["steps"] == step:
            summary["seconds"] = runfolder.read_json(old)["seconds"]  # nothing was left to train
        runfolder.write_json(old, summary)
        for name, value in extra.items():
            self.display.say(f"{name.replace('_', ' ')}: {value:.3f}")
        self.display.say(
            f"done: {step} steps in {clock(summary['seconds'])}, best validation {self.best:.4f} "
            f"nats/{self.task.unit} at step {self.best_step}; everything is in {self.workdir} "
            f"(curves.png, samples.txt, metrics.jsonl). Write text with: "
            f"python launch.py sample --workdir={self.workdir} --length=500"
        )
        return summary
