"""The train state and the train step: one pure function, jitted once, its state donated.

It is made of two, the gradient of a batch and the update that it brings, so that `parallel` can
take the gradients of several devices for one update.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.train import optim, parallel
from rnnlab.train.omega import penalty
from rnnlab.train.watch import meant, seen_in, slots_of
from rnnlab.types import Array, Params, Probe, Task

REDUCTIONS = ("mean", "sum_over_time")
TOLD = 16  # of the steps that were skipped a state knows the last so many
# Leaves that checkpoints of older runs lack: 0 in them is what those runs did.
LATER = (
    *(".fault['where']", ".skips['count']", ".skips['steps']", ".skips['where']"),
    ".tally['norm_large']",
)
# A norm above LARGE counts in the tally's "norm_large", in units of LARGE: some hundred of the largest
# add up to more than float32 has.
LARGE = 2.0**100


class TrainState(flax.struct.PyTreeNode):
    """All that the next step depends on; what a checkpoint holds."""

    step: Array  # int32, updates done
    params: Params
    average: Params  # the moving average of the parameters, None if off
    optimiser: Any
    carry: Any  # the recurrent state handed from window to window
    key: Array  # the seed's key; never advanced, every step folds its number in
    tally: dict[str, Array]  # sums since the last logged step
    # The first step that was not finite and not skipped: its number (0 is none), its loss, the norm of
    # its gradient, and `where`, a place in `quantities`
    fault: dict[str, Array]
    # Of the steps that were skipped: their count, and of the last TOLD of them number and place, that
    # of the n-th at n % TOLD
    skips: dict[str, Array]


def _no_tally() -> dict[str, Array]:
    names = ("loss", "count", "norm", "norm_large", "norm_max", "clipped", "ratio", "steps")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def start(task: Task, optimiser: optim.Optimiser, *, seed: int, average: bool) -> TrainState:
    """The state before the first step."""
    key = jax.random.key(seed)
    key_init, key_steps = jax.random.split(key)
    params = task.init(key_init)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average=jax.tree.map(jnp.copy, params) if average else None,
        optimiser=optimiser.init(params),
        carry=task.carry(),
        key=key_steps,
        tally=_no_tally(),
        fault={
            "step": jnp.zeros((), jnp.int32),
            "loss": jnp.zeros((), jnp.float32),
            "norm": jnp.zeros((), jnp.float32),
            "where": jnp.zeros((), jnp.int32),
        },
        skips={
            "count": jnp.zeros((), jnp.int32),
            "steps": jnp.zeros(TOLD, jnp.int32),
            "where": jnp.zeros(TOLD, jnp.int32),
        },
    )


def served(state: TrainState) -> Params:
    """The parameters to evaluate and sample with: the average where there is one."""
    return state.params if state.average is None else state.average


def _inexact(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _finite(tree: Any) -> list[Array]:
    """bool for each leaf that may hold inf or NaN: whether it holds neither."""
    return [jnp.isfinite(leaf).all() for leaf in _inexact(tree)]


def _named(what: str, tree: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [
        f"{what} {jax.tree_util.keystr(path, simple=True, separator='/')}"
        for path, leaf in found
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def quantities(state: TrainState) -> list[str]:
    """What a step checks, in words and in its order: cause before effect. A fault's `where` is a place
    in it. state: of the run, as arrays or as shapes."""
    return [
        "the loss",
        *_named("the gradient of", state.params),
        "the norm of the gradient",
        *_named("the updated parameter", state.params),
        *_named("the average of", state.average),
        *_named("the optimiser's", state.optimiser),
        *_named("the carried state", state.carry),
    ]


def _kept(state: TrainState) -> tuple[Any, ...]:
    """What a step hands to the next, and must be finite."""
    return state.params, state.average, state.optimiser, state.carry


def unsound(state: TrainState) -> str:
    """The first number of a state, as arrays, that no step could have made; "" if all are finite."""
    for what, tree in zip(
        ("the parameter", "the average of", "the optimiser's", "the carried state"),
        _kept(state),
        strict=True,
    ):
        for name, leaf in zip(_named(what, tree), _inexact(tree), strict=True):
            if not np.isfinite(np.asarray(leaf)).all():
                return name
    return ""


def steps_per_dispatch(work: float) -> int:
    """K, how many train steps of `work` floating-point operations to take at one dispatch.

    A dispatch costs the host as much as 40 million operations take or more, which it can do while
    the device is busy with the step before, unless that is shorter.
    """
    return max(1, min(16, int(40e6 // work)))


def _report(state: TrainState, skip: int) -> dict[str, Any]:
    report = {**state.tally, "step": state.step, "fault": state.fault["step"]}
    return report | {"skips": state.skips} if skip else report


def _chosen(first: Array, one: Any, other: Any) -> Any:
    """`one` where `first` holds, else `other`; what is the same in both as it is."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(first, a, b), one, other)


class Programs(NamedTuple):
    """The train step as pure functions, not jitted."""

    step: Callable[..., Any]  # (state, batch) -> (state, report)
    # The same in two, of a share of the batch each: see `parallel.apart`.
    # (params, carry, batch, key, number) -> (grads, carry, total, count, seen)
    share: Callable[..., Any]
    update: Callable[..., Any]  # (state, grads, carry, total, count, seen) -> (state, report)


def programs(
    loss: Callable[..., Any],
    optimiser: optim.Optimiser,
    *,
    average_decay: float | Array,
    reduction: str,
    log_every: int,
    probe: Probe | None = None,
    omega: float = 0.0,
    watch: str = "",
    skip: int = 0,
) -> Programs:
    """The train step of a loss (`Task.loss`), for `make` and for a population of runs.

    reduction: the loss that is differentiated, "mean" per token, or "sum_over_time", that mean
        times T: the clipping thresholds of Pascanu et al. 2013 are for the latter. What is
        reported as `loss` is the mean in both cases. T is the leading axis of the batch's first
        leaf of rank >= 2.
    average_decay: of the moving average, where the state has one; a JAX scalar may be traced.
    probe: of the task. omega: the weight of Pascanu's regulariser in what is differentiated, see
        `omega`. watch: of `seen.WATCHES`, what the report has as "seen" too. Both need the
        probe.
    report: scalars summed since the last multiple of `log_every`, to be divided once; a buffer of
        its own, so that reading it never waits for the next step.
    skip: how many steps that are not finite a run may leave out. The report has its "skips" if > 0.

    A step whose loss, gradient or result is not finite changes nothing but `fault`, and so do all
    after it. (The result: at |g| = 1e20 Adam's second moment overflows in float32, and would hold
    its parameter still for good.) One that may be skipped counts as a step, and is in `skips`; what
    it hands on is what it was given, and if that is not finite itself, it is never skipped.

    Raises UsageError for another reduction, a decay outside [0, 1), a negative omega, or a probe
    that is not there.
    """
    if not 0 <= omega < math.inf:
        raise UsageError(f"optim.omega must be at least 0, got {omega}")
    if probe is None and (omega or watch):
        wanted = "optim.omega" if omega else "diagnose.every"
        raise UsageError(f"this task's model has no layers to look into: set {wanted} to 0")
    if reduction not in REDUCTIONS:
        raise UsageError(
            f"optim.reduction must be one of {', '.join(REDUCTIONS)}, got '{reduction}'"
        )
    if not isinstance(average_decay, jax.Array) and not 0 <= average_decay < 1:
        raise UsageError(f"optim.ema must be in [0, 1), got {average_decay}")

    def scale(batch: Any) -> int:
        if reduction == "mean":
            return 1
        return next(leaf.shape[0] for leaf in jax.tree.leaves(batch) if leaf.ndim > 1)

    def differentiated(params: Params, carry: Any, batch: Any, key: Array, mean: bool) -> Any:
        """(gradient, carry, total, count, seen) of a batch, of the sum or the mean of its loss."""

        def objective(params: Params, slots: Any) -> tuple[Array, Any]:
            options = {} if slots is None else {"taps": slots}
            after, sums = loss(params, carry, batch, key, **options)
            total, count = sums["loss"]
            value = total / count * scale(batch) if mean else total * scale(batch)
            if omega:
                assert probe is not None
                weight = omega if mean else omega * count
                value = value + weight * penalty(probe, params, carry, batch)
            return value, (after, total, count)

        slots = slots_of(probe, params, batch) if watch and probe else None
        gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (_, (after, total, count)), (grads, slots) = gradient(params, slots)
        seen = seen_in(probe, params, carry, batch, slots, watch) if watch and probe else None
        return grads, after, total, count, seen

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(state.key, state.step)
        return update(state, *differentiated(state.params, state.carry, batch, key, True))

    def update(
        state: TrainState, grads: Params, carry: Any, total: Array, count: Array, seen: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        norm = optim.global_norm(grads)

        updates, inner = optimiser.update(grads, state.optimiser, state.params)
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), state.params, updates)
        size = optim.global_norm(params)
        ratio = optim.global_norm(updates) / jnp.where(size > 0, size, 1.0)
        average = state.average
        if average is not None:
            average = optim.averaged(average, params, state.step + 1, average_decay)
        unseen = state.fault["step"] == 0
        # What is not finite in the parameters is not in their average either.
        handed = (params if average is None else average, inner, carry)
        fine = jnp.stack([jnp.isfinite(total), jnp.isfinite(norm), *_finite(handed)]).all()

        def found() -> tuple[Array, Array]:
            """(where in `quantities`, whether the state was sound), for a step that is not fine."""
            finite = [jnp.isfinite(total), *_finite(grads), jnp.isfinite(norm)]
            finite += _finite((params, average, inner, carry))
            sound = jnp.stack(_finite(_kept(state))).all() if skip else jnp.ones((), bool)
            return jnp.argmin(jnp.stack(finite)).astype(jnp.int32), sound

        where, sound = jax.lax.cond(
            fine, lambda: (jnp.zeros((), jnp.int32), jnp.ones((), bool)), found
        )
        fine &= unseen
        clip = optimiser.watch(inner)
        large = clip.norm > LARGE
        new = {
            "loss": total,
            "count": count,
            "norm": jnp.where(large, 0.0, clip.norm),
            "norm_large": jnp.where(large, clip.norm / LARGE, 0.0),
            "clipped": clip.clipped,
            "ratio": ratio,
            "steps": jnp.ones(()),
        }
        old = jax.tree.map(lambda t: jnp.where(state.step % log_every == 0, 0.0, t), state.tally)
        tally = {name: old[name] + value.astype(jnp.float32) for name, value in new.items()}
        tally["norm_max"] = jnp.maximum(old["norm_max"], clip.norm.astype(jnp.float32))
        after = state.replace(
            step=state.step + 1,
            params=params,
            average=average,
            optimiser=inner,
            carry=carry,
            tally=tally,
        )
        fault = {
            "step": state.step + 1,
            "loss": (total / count).astype(jnp.float32),
            "norm": norm.astype(jnp.float32),
            "where": where,
        }
        fault = jax.tree.map(lambda a, b: jnp.where(unseen, a, b), fault, state.fault)
        stay = state.replace(fault=fault)
        if skip:
            passed = unseen & sound & (state.skips["count"] < skip)
            at = state.skips["count"] % TOLD
            skips = {
                "count": state.skips["count"] + 1,
                "steps": state.skips["steps"].at[at].set(state.step + 1),
                "where": state.skips["where"].at[at].set(where),
            }
            on = state.replace(step=state.step + 1, tally=old, skips=skips)
            stay = _chosen(passed, on, stay)
        state = _chosen(fine, after, stay)
        report: dict[str, Any] = _report(state, skip)
        return state, report if seen is None else report | {"seen": meant(seen)}

    # The same in two programs: of a share of the batch neither mean nor count is known.
    def share(params: Params, carry: Any, batch: Any, key: Array, number: Array) -> Any:
        return differentiated(params, carry, batch, jax.random.fold_in(key, number), False)

    def update_by_sum(
        state: TrainState, grads: Params, carry: Any, total: Array, count: Array, seen: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        mean = jax.tree.map(lambda g: (g / count).astype(g.dtype), grads)
        if seen is not None:
            seen = seen | {"flow": [norms / count.astype(norms.dtype) for norms in seen["flow"]]}
        return update(state, mean, carry, total, count, seen)

    return Programs(step, share, update_by_sum)


def make(
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

    average_decay, reduction, log_every, omega, watch, skip: see `programs`.
    split: over which devices; the state must be there (`parallel.place`). The mean is over the
        tokens of the whole batch, and the clip after it.
    group: if > 1, the second argument is a list of 1 to `group` batches, and so many steps are
        one dispatch. One program serves every length of the list, so that how steps are grouped
        changes no bit. Not for CPU devices.
    signal: see `parallel.meshed`; over several processes the report has a "signal".

    Raises UsageError for what `programs` refuses, or a group or omega over CPU devices.
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
    pure = programs(
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

    def several(state: TrainState, batches: Any, count: Array) -> Any:
        def one(i: Array, state: TrainState) -> TrainState:
            return pure.step(state, jax.tree.map(lambda leaf: leaf[i], batches))[0]

        # A traced count: the same program, whatever a log row or a signal does to the groups.
        state = jax.lax.fori_loop(0, count, one, state)
        return state, _report(state, skip)

    if split.mesh is None and not alone:
        return parallel.apart(split, pure.share, pure.update)
    program = pure.step if group == 1 else several
    if split.mesh is not None:
        program = parallel.meshed(split, program, grouped=group > 1, signal=signal)
    else:
        program = jax.jit(program, donate_argnums=0)
    if group == 1:
        return program

    def grouped(state: TrainState, batches: list[Any]) -> Any:
        filled = [*batches, *batches[-1:] * (group - len(batches))]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        return program(state, stacked, np.int32(len(batches)))

    return grouped
