"""One run alone: its train step on the devices there are, one step or several at a dispatch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.train import optim, parallel
from rnnlab.train.from_config import device_request
from rnnlab.train.record import Record
from rnnlab.train.state import TrainState, eval_params
from rnnlab.train.step import make_train_step, steps_per_dispatch
from rnnlab.train.watch import wanted
from rnnlab.types import Config, Params, Task


def _work(config: Config, task: Task) -> float:
    """Floating-point operations of a train step."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return 6.0 * count * config.train.batch_size * config.train.window


class Single:
    """One run, as a `loop.Crew`; what the methods are for is said there."""

    def __init__(
        self,
        config: Config,
        task: Task,
        optimiser: optim.Optimiser,
        signal: Callable[[], int | None],
    ):
        self.config, self.task, self.signal = config, task, signal
        self.split = parallel.choose_split(**device_request(config))
        group = config.train.steps_per_dispatch
        if task.shapes > 1:
            if group > 1:
                raise UsageError(
                    f"train.steps_per_dispatch is {group}: batches of several lengths (data.buckets) go "
                    "one by one, leave it at 0"
                )
            group = 1
        if not (group or self.split.devices):
            group = steps_per_dispatch(_work(config, task))
        self.group, self.every = max(group, 1), config.diagnose.every
        made = functools.partial(
            make_train_step,
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
        watch = wanted(config.diagnose)
        self.watched = made(watch=watch) if watch else None

    def begin(self, record: Record) -> None:
        """Take the state over from the record."""
        self.record, self.records = record, [record]
        self.current = parallel.place_state(self.split, record.take_state())

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

    def gradients_seen(self, report: Any) -> list[Any]:
        """What a step that looked at its gradients saw, record by record; see `watch`."""
        return [jax.tree.map(np.asarray, report["seen"])]

    def signal_caught(self, report: Any) -> int | None:
        """The signal to stop for, which each process has after the same report."""
        if self.split.processes == 1:
            return self.signal()
        return int(report["signal"]) or None if report is not None else None

    def state(self, index: int) -> TrainState:
        """The state of a record, as arrays of this process alone."""
        return parallel.gather_state(self.split, self.current)

    def params(self, index: int) -> Params:
        """What a record is evaluated and sampled with."""
        return parallel.local_copy(self.split, eval_params(self.current))

    def evaluate(self, indices: list[int]) -> list[dict[str, float]]:
        """What `Task.evaluate` finds for these records."""
        return [self.task.evaluate(self.params(index)) for index in indices]

    def on_logged(self, rows: list[dict[str, Any]]) -> None:
        """The rows of a step, one a record; the record has shown it."""

    def on_validated(self, step: int) -> None:
        """All records have been evaluated."""
        self.record.draw()
