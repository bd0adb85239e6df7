"""The train state, which is what a checkpoint holds, and the tally in it that a logged row is made of."""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rnnlab.train.optim import ClipState, Optimiser
from rnnlab.types import Array, Config, Params, Task

TOLD = 16  # of the steps that were skipped a state knows the last so many
# Leaves that checkpoints of older runs lack: 0 in them is what those runs did.
LATER_LEAVES = (
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
    # its gradient, and `where`, a place in `faults.quantities`
    fault: dict[str, Array]
    # Of the steps that were skipped: their count, and of the last TOLD of them number and place, that
    # of the n-th at n % TOLD
    skips: dict[str, Array]


def initial_state(task: Task, optimiser: Optimiser, *, seed: int, average: bool) -> TrainState:
    """The state before the first step. average: whether a moving average of the parameters is kept."""
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
        tally=_empty_tally(),
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


def configured_state(config: Config, task: Task, optimiser: Optimiser) -> TrainState:
    """`initial_state` with the seed of a config, and an average if it asks for one."""
    return initial_state(task, optimiser, seed=config.seed, average=config.optim.ema > 0)


def eval_params(state: TrainState) -> Params:
    """The parameters to evaluate and sample with: the average where there is one."""
    return state.params if state.average is None else state.average


# ---- the tally


# Sums over the steps of an interval, but for "norm_max".
TALLY = ("loss", "count", "norm", "norm_large", "norm_max", "clipped", "ratio", "steps")


def _empty_tally() -> dict[str, Array]:
    return {name: jnp.zeros((), jnp.float32) for name in TALLY}


def interval_tally(state: TrainState, log_every: int) -> dict[str, Array]:
    """The tally of a state as the next step goes on with it: empty after a step that was logged."""
    return jax.tree.map(lambda t: jnp.where(state.step % log_every == 0, 0.0, t), state.tally)


def add_to_tally(
    tally: dict[str, Array], *, loss: Array, count: Array, clip: ClipState, ratio: Array
) -> dict[str, Array]:
    """The tally with one more step in it.

    loss, count: the sum of the loss and of the weights over the batch. clip: what the clip saw.
    ratio: the norm of the update over that of the parameters.
    """
    large = clip.norm > LARGE
    new = {
        "loss": loss,
        "count": count,
        "norm": jnp.where(large, 0.0, clip.norm),
        "norm_large": jnp.where(large, clip.norm / LARGE, 0.0),
        "clipped": clip.clipped,
        "ratio": ratio,
        "steps": jnp.ones(()),
    }
    added = {name: tally[name] + value.astype(jnp.float32) for name, value in new.items()}
    return added | {"norm_max": jnp.maximum(tally["norm_max"], clip.norm.astype(jnp.float32))}


def tally_means(tally: dict[str, float]) -> dict[str, float]:
    """What a logged row says of the steps in a tally (or in a report, which has one): the means, and
    the largest norm; NaN where all steps were skipped."""

    def mean(total: float, count: float) -> float:
        return total / count if count else math.nan

    steps = tally["steps"]
    return {
        "loss": mean(tally["loss"], tally["count"]),
        "grad_norm": mean(tally["norm"] + LARGE * tally["norm_large"], steps),
        "grad_norm_max": tally["norm_max"] if steps else math.nan,
        "clipped": mean(tally["clipped"], steps),
        "update_ratio": mean(tally["ratio"], steps),
    }
