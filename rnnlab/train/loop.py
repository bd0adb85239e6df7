"""The training loop: what is due at a step is done for every run that trains.

The runs are a `Crew`, which takes the steps: one run (`single.Single`), or many in one program
(`rnnlab.sweep.population.Population`).
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from rnnlab.errors import Interrupted
from rnnlab.run.display import Display
from rnnlab.train.record import Record
from rnnlab.train.state import TrainState
from rnnlab.types import Config, Params


class Crew(Protocol):
    """The runs that train in step, and what takes their steps.

    An index is a place in `records`. A report is what a train step returns beside the state, for all
    runs at once; it may still be on its way when `advance` returns.
    """

    @property
    def records(self) -> Sequence[Record | None]:
        """The record of each run; None for one that has ended before."""
        ...

    @property
    def every(self) -> int:
        """After how many steps a step looks at its gradients (`watch`); 0 for never."""
        ...

    def advance(self, done: int, most: int) -> tuple[Any, int]:
        """Take one step or more, up to number `most`, after `done` of them: (report, the number of
        the last)."""
        ...

    def reports(self, report: Any) -> Sequence[dict[str, float]]:
        """The numbers of a report, run by run; it waits for its step."""
        ...

    def gradients_seen(self, report: Any) -> Sequence[Any]:
        """What a step that looked at its gradients saw, run by run; see `watch.means_over_rows`."""
        ...

    def signal_caught(self, report: Any) -> int | None:
        """The signal to stop for, which each process has after the same report; None is none. report:
        of the dispatch before, None at the first."""
        ...

    def state(self, index: int) -> TrainState:
        """The state of a run, as arrays of this process alone."""
        ...

    def params(self, index: int) -> Params:
        """What a run is evaluated and sampled with."""
        ...

    def evaluate(self, indices: list[int]) -> Sequence[dict[str, float]]:
        """What `Task.evaluate` finds for these runs."""
        ...

    def on_logged(self, rows: list[dict[str, Any]]) -> None:
        """Gets the rows of a step, one a run, when each record has written its own."""
        ...

    def on_validated(self, step: int) -> None:
        """Called when all runs have been evaluated at a step."""
        ...


def run_steps(crew: Crew, config: Config, *, display: Display, again: str, until: int = 0) -> None:
    """Train the runs of a crew to their last step; what falls on a step is done for every run.

    crew: begun. config: `train` of the config of them all. again: the command that goes on after an
        interruption. until: a step to stop at sooner, with all that is done at the last one; 0 for none.

    A run that comes to a step that is not finite, and may not skip it, is closed; the others go on.
    Raises DivergedError when none is left, and `Interrupted` after SIGINT or SIGTERM, the states saved.
    """
    alive = {index: record for index, record in enumerate(crew.records) if record is not None}
    done = first = next(iter(alive.values())).start
    every = (config.log_every, config.eval_every, config.sample_every, config.checkpoint_every)
    end = min(until or config.steps, config.steps)
    before = pending = None  # reports: of the dispatch before, and of one that awaits its rows
    while done < end:
        most = min(end, *((done // n + 1) * n for n in every if n))
        report, number = crew.advance(done, most)
        if done == first:  # it compiled: no part of the rate
            jax.block_until_ready(report)
            for record in alive.values():
                record.first_step_done(number)
            display.resume(number)
        done = number
        # Read one dispatch late: the device always has the next one to work on.
        if before is not None:
            _check(crew, alive, before, config, display)
        if pending is not None:
            _log(crew, alive, *pending, config)
        # Of several processes one may have the signal: they learn it from the same report.
        received = crew.signal_caught(before)
        due = [n for n in (config.log_every, crew.every) if n and done % n == 0]
        before, pending = report, (report, done) if due else None
        display.tick(done)
        # What falls on this step is done even now: the rows of a run do not depend on signals.
        last = done == end
        evaluate, sample, save = (last or (n > 0 and done % n == 0) for n in every[1:])
        if not (evaluate or sample or save or received):
            continue
        _check(crew, alive, report, config, display)
        if pending is not None:
            _log(crew, alive, *pending, config)
            pending = None
        paused = time.monotonic()
        if evaluate:
            # The best is kept; and where one is saved all are, so that they have steps in common.
            save |= _evaluate(crew, alive, done)
        if sample:
            for index, record in alive.items():
                record.sample(done, crew.params(index))
        if save or received:
            for index, record in alive.items():
                record.save(done, crew.state(index))
        for record in alive.values():
            record.aside += time.monotonic() - paused
        if received and not last:
            raise Interrupted(
                f"interrupted after step {done}; the state is saved: resume with {again}", received
            )


def _check(
    crew: Crew, alive: dict[int, Record], report: Any, config: Config, display: Display
) -> None:
    """Tell of the steps that a report has skipped, and close the runs that have come to a fault, which
    leave `alive`. Raises DivergedError when none is left."""
    if config.skip_faults:
        counts = np.atleast_1d(np.asarray(report["skips"]["count"]))
        for index, record in alive.items():
            if counts[index] != record.skipped:
                skips = jax.tree.map(np.asarray, report["skips"])
                single = not skips["count"].ndim
                record.tell_skips(skips if single else {k: v[index] for k, v in skips.items()})
    faults = np.atleast_1d(np.asarray(report["fault"]))
    for index in [index for index in alive if faults[index]]:
        record = alive[index]
        error = record.close_diverged(crew.state(index))
        del alive[index]
        if len(crew.records) > 1:
            display.say(f"{record.workdir.name}: {error}")
        if not alive:
            raise error


def _log(crew: Crew, alive: dict[int, Record], report: Any, number: int, config: Config) -> None:
    """Write what is due of the report of step `number`: the rows, and what was seen of the gradients."""
    if number % config.log_every == 0:
        found = crew.reports(report)
        crew.on_logged([record.log(found[index]) for index, record in alive.items()])
    if crew.every and number % crew.every == 0:
        looks = crew.gradients_seen(report)
        for index, record in alive.items():
            record.log_gradients(number, looks[index])


def _evaluate(crew: Crew, alive: dict[int, Record], done: int) -> bool:
    """Validate the runs that were not at this step yet; whether one is better than ever."""
    wanted = [
        i for i, record in alive.items() if record.measured_at != done
    ]  # not resumed at the end
    found = zip(wanted, crew.evaluate(wanted), strict=True)
    better = [alive[index].log_validation(done, values) for index, values in found]
    crew.on_validated(done)
    return any(better)
