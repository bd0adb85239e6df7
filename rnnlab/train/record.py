"""The record of one run in its folder: what it resumes from, its rows, figures and checkpoints.

It sees a run from outside: numbers and states are handed to it, by a loop that trains one run or
many at once. Process 0 has all the files; the others keep count with it.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.errors import CheckpointError, DivergedError, RnnlabError, StorageError, UsageError
from rnnlab.recurrence import taps
from rnnlab.run import checkpoint, command
from rnnlab.run.config import to_json
from rnnlab.run.display import Display, clock, number
from rnnlab.run.events import Events
from rnnlab.run.files import json_row, read_json, read_rows, write_json
from rnnlab.run.folder import describe, unchanged
from rnnlab.run.logs import Log
from rnnlab.train import faults, optim, parallel, start
from rnnlab.train.saved import SUMMARY, heal
from rnnlab.train.state import LATER_LEAVES, TrainState, configured_state, tally_means
from rnnlab.train.threshold import clipped_share, describe_clipping
from rnnlab.train.watch import diagnosis_row
from rnnlab.types import Config, Params, Task

LOGS = {"metrics": "metrics.jsonl", "samples": "samples.txt", "diagnosis": "diagnosis.jsonl"}
RESUMPTIONS = 20  # that run.json describes: the last ones; it counts them all


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """What process 0 alone does, and if it fails, no process goes on to wait for it."""
    try:
        yield
    except RnnlabError as error:
        parallel.broadcast(error.exit_code)
        raise
    if parallel.broadcast(0):
        raise UsageError("process 0 has given up, and says why")


class Record:
    """What is open while a run trains; a context, which closes it.

    overrides: what run.json says was given. split: over what a step is split, or the run shares a
        program with (`parallel.Split.name`). started: when the process was, by `time.monotonic`.
    step: the checkpoint to go on from; None for the newest, 0 for none. keep: how many of the newest
        are kept at least.

    `start` is the step that the run goes on from.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        task: Task,
        optimiser: optim.Optimiser,
        display: Display,
        *,
        overrides: list[str],
        split: str,
        started: float,
        step: int | None = None,
        keep: int = 1,
    ):
        self.keep, self.ended = max(keep, config.train.keep), False
        self.config, self.workdir, self.task, self.display = config, workdir, task, display
        self.optimiser, self.split = optimiser, split
        self.root = workdir / "checkpoints"
        self.primary = jax.process_index() == 0
        self.best, self.best_step = math.inf, 0
        self.measured, self.measured_at = math.nan, -1  # the last validation loss, and its step
        self.saved_at = -1  # the last step of which there is a checkpoint, as far as is known here
        self.seconds, self.started, self.began = 0.0, started, time.monotonic()
        self.rate = f"{task.unit}s_per_second"
        self.aside = 0.0  # seconds since the last logged row that were not spent on steps
        self._state: Any
        self._state, meta = self._restored(step)
        self.start = int(self._state.step)
        if meta is not None:
            extra = meta["extra"]
            self.best, self.best_step = float(extra["best"]), extra["best_step"]
            self.seconds, self.measured_at = extra["seconds"], extra["measured_at"]
            self.saved_at = self.start
        self.quantities = faults.quantities(self._state)
        self.skipped = int(self._state.skips["count"])
        self.logged_at, self.logged_time = self.start, time.monotonic()
        self.files, self.logs = contextlib.ExitStack(), dict[str, Log]()
        with fail_together():
            if self.primary:
                heal(workdir, display.warn)
                self._describe(overrides, resumed=meta is not None)
                self._open(meta)

    def _restored(self, step: int | None) -> tuple[TrainState, dict[str, Any] | None]:
        state, meta = configured_state(self.config, self.task, self.optimiser), None
        if self.primary:
            checkpoint.clean(self.root)
        parallel.broadcast(0)  # the others read when it is done
        found = None
        if step != 0:
            found = checkpoint.restore(
                self.root,
                state,
                step=step,
                fingerprint=self.task.fingerprint,
                warn=self.display.warn,
                split=self.split,
                later=LATER_LEAVES,
            )
        self.begun_with: dict[str, Any] | None = None
        if found is not None:
            state, meta = found
        elif (weights := start.plan(self.config, self.task)) is not None:
            state, self.begun_with = start.begun(weights, state, self.optimiser), weights.facts
            if self.primary:
                self.display.say(weights.told)
        reached = int(state.step)
        if parallel.broadcast(reached) != reached:
            raise CheckpointError(f"{self.root} is not the same folder for all processes")
        return state, meta

    def _describe(self, overrides: list[str], resumed: bool) -> None:
        path = self.workdir / "run.json"
        facts = self.task.facts()
        described = describe(overrides=overrides) | {"split": self.split}
        if resumed and path.exists():
            run = read_json(path)
            unchanged(self.workdir, "data", facts.get("source"), facts.get("sha256"))
            before = run.get("resumed", [])
            run["resumptions"] = run.get("resumptions", len(before)) + 1
            run["resumed"] = [*before, {"step": self.start, **described}][-RESUMPTIONS:]
        else:
            count = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
            run = {**described, "data": facts, "parameters": count}
            if self.begun_with is not None:
                run["init_from"] = self.begun_with
        write_json(self.workdir / "config.json", to_json(self.config))
        self.task.keep(self.workdir)
        write_json(path, run)

    def _open(self, meta: dict[str, Any] | None) -> None:
        extra, warn = meta["extra"] if meta else {}, self.display.warn
        there = (self.workdir / LOGS["metrics"]).exists()
        if meta is None and there and (self.workdir / LOGS["metrics"]).stat().st_size:
            warn(f"{self.root} holds no checkpoint: the run starts again from step 0")
        copies = checkpoint.copies(self.root, meta["step"]) if meta else {}
        for name, file in LOGS.items():
            path = self.workdir / file
            if name == "diagnosis" and not (self.config.diagnose.every or path.exists()):
                continue
            log = self.logs[name] = self.files.enter_context(Log(path))
            # Without a checkpoint, rows of an earlier start belong to steps that are done again.
            log.truncate(
                extra.get(f"{name}_bytes", 0),
                warn,
                sha256=extra.get(f"{name}_sha256"),
                copy=copies.get(file),
            )
        step = self.start + 1 if meta else None
        self.events = self.files.enter_context(Events(self.workdir, purge_step=step))

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def take_state(self) -> TrainState:
        """The state of step `start`, as arrays of this process alone, to whoever trains: once."""
        state, self._state = self._state, None
        return state

    def elapsed(self) -> float:
        """Seconds of all starts of the run so far."""
        return self.seconds + time.monotonic() - self.began

    def first_step_done(self, step: int) -> None:
        """The first step of this start is done, as number `step`: what compiled is no part of the
        rate. Into run.json goes how long the start took."""
        seconds = round(time.monotonic() - self.started, 3)
        if self.primary:
            path = self.workdir / "run.json"
            run = read_json(path)
            [run, *run.get("resumed", [])][-1]["start_seconds"] = seconds
            write_json(path, run)
        self.logged_at, self.logged_time = step, time.monotonic()

    def log(self, report: dict[str, float]) -> dict[str, Any]:
        """Write the row of a report of the train step; returns the row."""
        step = int(report["step"])
        now = time.monotonic()
        spent = max(now - self.logged_time - self.aside, 1e-9)
        # The tally may hold steps of an earlier process, and the one that compiled; the rate is of
        # the others, if there are any yet.
        share = (step - self.logged_at) / self.config.train.log_every
        taken = step - self.skipped  # those of the schedule
        row = {
            "step": step,
            "split": "train",
            **tally_means(report),
            "learning_rate": float(self.optimiser.learning_rate(max(taken - 1, 0))),
            **({"skipped": self.skipped} if self.config.train.skip_faults else {}),
            **({self.rate: report["count"] * share / spent} if share else {}),
            "seconds": self.elapsed(),
        }
        self.logged_at, self.logged_time, self.aside = step, now, 0.0
        self._write(row)
        return row

    def _write(self, row: dict[str, Any]) -> None:
        if not self.primary:
            return
        self.logs["metrics"].append(json_row(row))
        self.events.write(row["step"], row["split"], row)
        self.display.row(row)

    def log_gradients(self, step: int, found: dict[str, Any]) -> None:
        """Write what the train step saw of its gradients (`watch`)."""
        if self.primary:
            probe = self.task.probe
            assert probe is not None
            row = diagnosis_row(probe, taps.part_names(probe.net.cell), found)
            self.logs["diagnosis"].append(json_row({"step": step, **row}))

    def log_validation(self, step: int, found: dict[str, float]) -> bool:
        """Write what `Task.evaluate` has found; whether it is the best so far."""
        found["loss"] = parallel.broadcast(found["loss"])  # to the bit: a checkpoint depends on it
        self._write({"step": step, "split": "valid", **found, "seconds": self.elapsed()})
        self.measured_at, self.measured = step, found["loss"]
        if not found["loss"] < self.best:
            return False
        self.best, self.best_step = found["loss"], step
        return True

    def draw(self) -> list[dict[str, Any]]:
        """Draw curves.png of all rows, which are returned."""
        if not self.primary:
            return []
        # Not before the first step: it brings matplotlib.
        from rnnlab.train.curves import draw_curves

        try:
            rows = read_rows(self.workdir / LOGS["metrics"])
        except UsageError as error:
            # This run has written it: the folder has gone, or the disk is at fault.
            raise StorageError(str(error)) from error
        draw_curves(
            rows,
            self.workdir / "curves.png",
            title=self.workdir.name,
            clip_norm=self.config.optim.clip_norm,
            unit=self.task.unit,
            measure=self.task.measure,
            baseline=self.task.baseline,
        )
        return rows

    def sample(self, step: int, params: Params) -> None:
        """Show what the model does now, and keep it."""
        if not self.primary:
            return
        text = self.task.show(params, step)
        self.logs["samples"].append(f"---- step {step} ----\n{text}\n")
        self.display.say(f"---- a sample at step {step} ----\n{text}\n----")

    def save(self, step: int, state: TrainState) -> None:
        """A checkpoint. state: as arrays of this process alone."""
        self.saved_at = step
        sizes: dict[str, Any] = {}
        for name, log in self.logs.items() if self.primary else ():
            log.sync()
            sizes |= {f"{name}_bytes": log.size, f"{name}_sha256": log.sha256}
        checkpoint.save(
            self.root,
            step,
            state,
            metric=self.measured if self.measured_at == step else None,
            extra={
                **sizes,
                "seconds": self.elapsed(),
                "best": self.best,
                "best_step": self.best_step,
                "measured_at": self.measured_at,
            },
            fingerprint=self.task.fingerprint,
            keep=self.keep,
            split=self.split,
            copied=[*(log.path for log in self.logs.values()), *self._described()],
        )

    def _described(self) -> list[Path]:
        return sorted(path for path in self.workdir.glob("[!.]*.json") if path.name != SUMMARY)

    def tell_skips(self, skips: dict[str, Any]) -> None:
        """Tell of the steps that have been skipped since it was last told of some.

        skips: `TrainState.skips`, of a report."""
        for sentence in faults.skip_warnings(
            skips,
            before=self.skipped,
            most=self.config.train.skip_faults,
            names=self.quantities,
            task=self.task,
        ):
            self.display.warn(sentence)
        self.skipped = int(skips["count"])

    def close_diverged(self, state: TrainState) -> DivergedError:
        """The end of a run that has come to a fault: its last good state is saved, and summary.json
        written; returns what is to be said."""
        self.ended = True
        good = int(state.step)
        # A state that no step could have made was damaged from outside: in memory, say.
        damaged = faults.unsound(state)
        # What is there already has its validation loss beside it, which makes it the best or not.
        if good and not damaged and good != self.saved_at:
            self.save(good, state.replace(fault=jax.tree.map(jnp.zeros_like, state.fault)))
        if self.primary:
            summary = self._summary(good, self.draw()) | {"diverged_at": int(state.fault["step"])}
            write_json(self.workdir / SUMMARY, summary)
        kept = f"the last good state, step {self.saved_at}, is kept"
        if self.saved_at < 1:
            kept = "nothing was worth keeping"
        return DivergedError(
            faults.divergence(
                state,
                damaged=damaged,
                kept=kept,
                most=self.config.train.skip_faults,
                threshold=self.config.optim.clip_norm,
                names=self.quantities,
                task=self.task,
            )
        )

    def _summary(self, step: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What summary.json says. rows: those of metrics.jsonl."""
        share = clipped_share(rows)
        rates = sorted(r[self.rate] for r in rows if self.rate in r)
        losses = [r["loss"] for r in rows if r["split"] == "valid"]
        return {
            "valid_loss": self.best if math.isfinite(self.best) else None,
            "valid_step": self.best_step,
            "final_valid_loss": losses[-1] if losses else None,
            "steps": step,
            "seconds": self.elapsed(),
            self.rate: rates[len(rates) // 2] if rates else None,
            "clipped": share if math.isfinite(share) else None,
            **({"skipped": self.skipped} if self.config.train.skip_faults else {}),
        }

    def finish(self, step: int, params: Params) -> dict[str, Any]:
        """The end of the run: summary.json, which is returned."""
        if not self.primary:
            return {"steps": step, "valid_loss": self.best, "valid_step": self.best_step}
        old = self.workdir / SUMMARY
        extra = self.task.finish(params)
        rows = self.draw()
        summary = self._summary(step, rows) | extra
        if old.exists() and read_json(old)["steps"] == step:
            summary["seconds"] = read_json(old)["seconds"]  # nothing was left to train
        write_json(old, summary)
        for name, value in extra.items():
            self.display.say(f"{name.replace('_', ' ')}: {value:.4f}")
        said = (
            f"done: {step} steps in {clock(summary['seconds'])}, best validation {number(self.best)} "
            f"{self.task.measure}/{self.task.unit} at step {self.best_step}; everything is in "
            f"{self.workdir} (curves.png, samples.txt, metrics.jsonl)."
        )
        if self.task.writes:
            sample = command.line("sample", f"--workdir={self.workdir}")
            said += f" Try it: {sample} {self.task.writes}"
        if self.task.draw is not None:
            said += f" See it: {command.line('show', f'--workdir={self.workdir}')}"
        if clipping := describe_clipping(rows, self.config):
            self.display.say(clipping)
        self.display.say(said)
        return summary
