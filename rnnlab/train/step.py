"""The train step: one pure function, jitted once, its state donated.

It is made of two, the gradient of a batch and the update that it brings, so that `parallel` can
take the gradients of several devices for one update.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.train import optim, parallel
from rnnlab.train.faults import fault_place, finite_leaves, is_sound
from rnnlab.train.omega import penalty
from rnnlab.train.state import TOLD, TrainState, add_to_tally, interval_tally
from rnnlab.train.watch import means_over_rows, slots_of, sums_over_rows
from rnnlab.types import Array, Params, Probe, Task

REDUCTIONS = ("mean", "sum_over_time")


def steps_per_dispatch(work: float) -> int:
    """K, how many train steps of `work` floating-point operations to take at one dispatch.

    A dispatch costs the host as much as 40 million operations take or more, which it can do while
    the device is busy with the step before, unless that is shorter.
    """
    return max(1, min(16, int(40e6 // work)))


def _chosen(first: Array, one: Any, other: Any) -> Any:
    """`one` where `first` holds, else `other`; what is the same in both as it is."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(first, a, b), one, other)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """The train step of a loss as pure functions, not jitted: for `make_train_step`, and for a
    population of runs.

    loss: a `Task.loss`.
    average_decay: of the moving average, where the state has one; a JAX scalar may be traced.
    reduction: the loss that is differentiated, "mean" per token, or "sum_over_time", that mean
        times T: the clipping thresholds of Pascanu et al. 2013 are for the latter. What is
        reported as `loss` is the mean in both cases. T is the leading axis of the batch's first
        leaf of rank >= 2.
    log_every: the report of a step has the tally, scalars summed since the last multiple of it, to be
        divided once; a buffer of its own, so that reading it never waits for the next step.
    probe: of the task. omega: the weight of Pascanu's regulariser in what is differentiated, see
        `omega`. watch: of `watch.WATCHES`, what the report has as "seen" too. Both need the probe.
    skip: how many steps that are not finite a run may leave out. The report has its "skips" if > 0.

    A step whose loss, gradient or result is not finite changes nothing but `fault`, and so do all
    after it. (The result: at |g| = 1e20 Adam's second moment overflows in float32, and would hold
    its parameter still for good.) One that may be skipped counts as a step, and is in `skips`; what
    it hands on is what it was given, and if that is not finite itself, it is never skipped.

    Raises UsageError for another reduction, a decay outside [0, 1), a negative omega, or a probe
    that is not there.
    """

    loss: Callable[..., Any]
    optimiser: optim.Optimiser
    _: dataclasses.KW_ONLY
    average_decay: float | Array
    reduction: str
    log_every: int
    probe: Probe | None = None
    omega: float = 0.0
    watch: str = ""
    skip: int = 0

    def __post_init__(self):
        if not 0 <= self.omega < math.inf:
            raise UsageError(f"optim.omega must be at least 0, got {self.omega}")
        if self.probe is None and (self.omega or self.watch):
            wanted = "optim.omega" if self.omega else "diagnose.every"
            raise UsageError(f"this task's model has no layers to look into: set {wanted} to 0")
        if self.reduction not in REDUCTIONS:
            raise UsageError(
                f"optim.reduction must be one of {', '.join(REDUCTIONS)}, got '{self.reduction}'"
            )
        if not isinstance(self.average_decay, jax.Array) and not 0 <= self.average_decay < 1:
            raise UsageError(f"optim.ema must be in [0, 1), got {self.average_decay}")

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        """(state, report) after one step."""
        key = jax.random.fold_in(state.key, state.step)
        found = self._gradient(state.params, state.carry, batch, key, mean=True)
        return self._update(state, *found)

    # The same in two programs, see `parallel.step_in_shares`: of a share of the batch neither mean nor
    # count is known.

    def share_gradient(
        self, params: Params, carry: Any, batch: Any, key: Array, number: Array
    ) -> Any:
        """(gradient, carry, total, count, seen) of a share of the batch of step `number`, all of them
        sums over its rows."""
        key = jax.random.fold_in(key, number)
        return self._gradient(params, carry, batch, key, mean=False)

    def update_from_shares(
        self, state: TrainState, grads: Params, carry: Any, total: Array, count: Array, seen: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        """(state, report) after the step whose shares add up to these."""
        mean = jax.tree.map(lambda g: (g / count).astype(g.dtype), grads)
        if seen is not None:
            seen = seen | {"flow": [norms / count.astype(norms.dtype) for norms in seen["flow"]]}
        return self._update(state, mean, carry, total, count, seen)

    def report(self, state: TrainState) -> dict[str, Any]:
        """What the host reads of a step: the tally, the step's number and the faults."""
        report = {**state.tally, "step": state.step, "fault": state.fault["step"]}
        return report | {"skips": state.skips} if self.skip else report

    # The gradient

    def _scale(self, batch: Any) -> int:
        """By what the mean of the loss is multiplied: 1, or T."""
        if self.reduction == "mean":
            return 1
        return next(leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.ndim > 1)

    def _gradient(self, params: Params, carry: Any, batch: Any, key: Array, *, mean: bool) -> Any:
        """(gradient, carry, total, count, seen) of a batch, of the mean or the sum of its loss.

        total, count: of the loss and of its weights, sums. seen: see `watch.sums_over_rows`, or None.
        """
        probe, watch = self.probe, self.watch

        def objective(params: Params, slots: Any) -> tuple[Array, Any]:
            options = {} if slots is None else {"taps": slots}
            after, sums = self.loss(params, carry, batch, key, **options)
            total, count = sums["loss"]
            value = total / count * self._scale(batch) if mean else total * self._scale(batch)
            if self.omega:
                assert probe is not None
                weight = self.omega if mean else self.omega * count
                value = value + weight * penalty(probe, params, carry, batch)
            return value, (after, total, count)

        slots = slots_of(probe, params, batch) if watch and probe else None
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (_, (after, total, count)), (grads, slots) = gradient(params, slots)
        seen = None
        if watch and probe:
            seen = sums_over_rows(probe, params, carry, batch, slots, watch)
        return grads, after, total, count, seen

    # The update

    def _update(
        self, state: TrainState, grads: Params, carry: Any, total: Array, count: Array, seen: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        """(state, report) after the update by the gradient of the mean."""
        norm = optim.global_norm(grads)
        updates, inner = self.optimiser.update(grads, state.optimiser, state.params)
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
        size = optim.global_norm(params)
        ratio = optim.global_norm(updates) / jnp.where(size > 0, size, 1.0)
        average = state.average
        if average is not None:
            average = optim.averaged(average, params, state.step + 1, self.average_decay)
        unseen = state.fault["step"] == 0
        # What is not finite in the parameters is not in their average either.
        handed = (params if average is None else average, inner, carry)
        fine = jnp.stack([jnp.isfinite(total), jnp.isfinite(norm), *finite_leaves(handed)]).all()

        def found() -> tuple[Array, Array]:
            """(where in `quantities`, whether the state was sound), for a step that is not fine."""
            where = fault_place(total, grads, norm, (params, average, inner, carry))
            return where, is_sound(state) if self.skip else jnp.ones((), bool)

        where, sound = jax.lax.cond(
            fine, lambda: (jnp.zeros((), jnp.int32), jnp.ones((), bool)), found
        )
        clip, tally = self.optimiser.watch(inner), interval_tally(state, self.log_every)
        after = state.replace(
            step=state.step + 1,
            params=params,
            average=average,
            optimiser=inner,
            carry=carry,
            tally=add_to_tally(tally, loss=total, count=count, clip=clip, ratio=ratio),
        )
        fault = {
            "step": state.step + 1,
            "loss": (total / count).astype(jnp.float32),
            "norm": norm.astype(jnp.float32),
            "where": where,
        }
        stay = self._without_the_step(state, fault, unseen, sound, tally)
        state = _chosen(fine & unseen, after, stay)
        report: dict[str, Any] = self.report(state)
        return state, report if seen is None else report | {"seen": means_over_rows(seen)}

    def _without_the_step(
        self,
        state: TrainState,
        fault: dict[str, Array],
        unseen: Array,
        sound: Array,
        tally: dict[str, Array],
    ) -> TrainState:
        """The state after a step that was not finite: it skips the step, if it may, or else stops for
        good, with the first `fault` in it.

        unseen: whether there was none before. sound: whether the state itself was finite. tally: that
        of the interval, without the step.
        """
        first = jax.tree.map(lambda a, b: jnp.where(unseen, a, b), fault, state.fault)
        stopped = state.replace(fault=first)
        if not self.skip:
            return stopped
        passed = unseen & sound & (state.skips["count"] < self.skip)
        at = state.skips["count"] % TOLD
        skips = {
            "count": state.skips["count"] + 1,
            "steps": state.skips["steps"].at[at].set(state.step + 1),
            "where": state.skips["where"].at[at].set(fault["where"]),
        }
        skipped = state.replace(step=state.step + 1, tally=tally, skips=skips)
        return _chosen(passed, skipped, stopped)


def make_train_step(
    task: Task,
    optimiser: optim.Optimiser,
    *,
    average_decay: float,
    reduction: str,
    log_every: int,
    omega: float = 0.0,
    watch: str = "",
    skip: int = 0,
    split: parallel.Split = parallel.SINGLE,
    group: int = 1,
    signal: Callable[[], int | None] = lambda: None,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """The jitted train step: (state, batch) -> (state, report). The state is donated.

    average_decay, reduction, log_every, omega, watch, skip: see `TrainStep`.
    split: over which devices; the state must be there (`parallel.place_state`). The mean is over the
        tokens of the whole batch, and the clip after it.
    group: if > 1, the second argument is a list of 1 to `group` batches, and so many steps are
        one dispatch. One program serves every length of the list, so that how steps are grouped
        changes no bit. Not for CPU devices.
    signal: see `parallel.step_on_mesh`; over several processes the report has a "signal".

    Raises UsageError for what `TrainStep` refuses, or a group or omega over CPU devices.
    """
    alone = len(split.devices) < 2
    if omega and split.mesh is None and not alone:
        raise UsageError(
            f"optim.omega is a mean over the whole batch, which is split over {len(split.devices)} "
            "devices of a CPU: set parallel.devices to 1"
        )
    if group > 1 and split.mesh is None and not alone:
        raise UsageError(
            f"train.steps_per_dispatch is {group}: over {len(split.devices)} devices of a CPU it "
            "must be 0 or 1 (parallel.devices=1 uses one)"
        )
    pure = TrainStep(
        task.loss,
        optimiser,
        average_decay=average_decay,
        reduction=reduction,
        log_every=log_every,
        probe=task.probe,
        omega=omega,
        watch=watch,
        skip=skip,
    )
    if split.mesh is None and not alone:
        return parallel.step_in_shares(split, pure.share_gradient, pure.update_from_shares)
    program = pure.step if group == 1 else _several_steps(pure)
    if split.mesh is not None:
        program = parallel.step_on_mesh(split, program, grouped=group > 1, signal=signal)
    else:
        program = jax.jit(program, donate_argnums=0)
    return program if group == 1 else _of_a_list(program, group)


def _several_steps(pure: TrainStep) -> Callable[..., Any]:
    """(state, batches stacked along a new first axis, count) -> (state, report): the first `count`
    steps."""

    def several(state: TrainState, batches: Any, count: Array) -> Any:
        def one(i: Array, state: TrainState) -> TrainState:
            return pure.step(state, jax.tree.map(lambda leaf: leaf[i], batches))[0]

        # A traced count: the same program, whatever a log row or a signal does to the groups.
        state = jax.lax.fori_loop(0, count, one, state)
        return state, pure.report(state)

    return several


def _of_a_list(program: Callable[..., Any], group: int) -> Callable[..., Any]:
    """(state, a list of 1 to `group` batches) -> (state, report), of a jitted `_several_steps`."""

    def grouped(state: TrainState, batches: list[Any]) -> Any:
        filled = [*batches, *batches[-1:] * (group - len(batches))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        return program(state, stacked, np.int32(len(batches)))

    return grouped
