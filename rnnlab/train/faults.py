"""Steps that are not finite: what is looked at, where it is found, and how it is told.

A fault's `where` is a place in `quantities`, whose order is that in which one step makes them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.train.state import TOLD, TrainState
from rnnlab.types import Array, Params, Task

# ---- which numbers


def _inexact(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _named(what: str, tree: Any) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [
        f"{what} {jax.tree_util.keystr(path, simple=True, separator='/')}"
        for path, leaf in found
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def _handed_on(state: TrainState) -> tuple[Any, ...]:
    """What a step hands to the next, and must be finite."""
    return state.params, state.average, state.optimiser, state.carry


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


# ---- in a step


def finite_leaves(tree: Any) -> list[Array]:
    """bool for each leaf that may hold inf or NaN: whether it holds neither."""
    return [jnp.isfinite(leaf).all() for leaf in _inexact(tree)]


def fault_place(loss: Array, grads: Params, norm: Array, handed: tuple[Any, ...]) -> Array:
    """int32: where in `quantities` the first is that is not finite.

    handed: what the step hands on (parameters, their average, the optimiser's state, the carry).
    """
    finite = [jnp.isfinite(loss), *finite_leaves(grads), jnp.isfinite(norm)]
    finite += finite_leaves(handed)
    return jnp.argmin(jnp.stack(finite)).astype(jnp.int32)


def is_sound(state: TrainState) -> Array:
    """bool: whether all is finite that the step before has handed on."""
    return jnp.stack(finite_leaves(_handed_on(state))).all()


# ---- in words


def unsound(state: TrainState) -> str:
    """The first number of a state, as arrays, that no step could have made; "" if all are finite."""
    for what, tree in zip(
        ("the parameter", "the average of", "the optimiser's", "the carried state"),
        _handed_on(state),
        strict=True,
    ):
        for name, leaf in zip(_named(what, tree), _inexact(tree), strict=True):
            if not np.isfinite(np.asarray(leaf)).all():
                return name
    return ""


def _of_the_data(task: Task, step: int) -> str:
    """What is not finite in the batch of a step, as the end of a sentence; "" if all is."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(task.batch(step - 1)):
        leaf = np.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return f", and neither is {name} in its batch: look at the data"
    return ""


def skip_warnings(
    skips: dict[str, Any], *, before: int, most: int, names: list[str], task: Task
) -> list[str]:
    """A sentence for each step that has been skipped since `before` of them were told.

    skips: `TrainState.skips`, as arrays of the host. most: how many may be skipped. names: `quantities`.
    """
    count, sentences = int(skips["count"]), []
    for n in range(max(before, count - TOLD), count):
        step, where = (int(skips[name][n % TOLD]) for name in ("steps", "where"))
        sentences.append(
            f"step {step} is skipped, {n + 1} of {most}: "
            f"{names[where]} is not finite{_of_the_data(task, step)}"
        )
    return sentences


def divergence(
    state: TrainState, *, damaged: str, kept: str, most: int, threshold: float, names: list[str],
    task: Task,
) -> str:  # fmt: skip
    """What is said of a run that has come to a fault: the step, what was not finite, and what to do.

    damaged: what `unsound` says of the state. kept: what is left of the run, in words. most: how many
    steps may be skipped. threshold: of the clip. names: `quantities`.
    """
    fault = {name: float(value) for name, value in state.fault.items()}
    step, skipped = int(fault["step"]), int(state.skips["count"])
    told = f"{names[int(fault['where'])]} is not finite{_of_the_data(task, step)}"
    if skipped:
        steps = [int(state.skips["steps"][n % TOLD]) for n in range(skipped)]
        last = ", ".join(map(str, steps[-TOLD:]))
        told += f"; {skipped} of {most} steps had been skipped before: {last}"
    advice = (
        "lower optim.learning_rate or optim.clip_norm, or give --config.train.skip_faults="
        f"{skipped + 1} with --config=FILE to leave such a step out"
    )
    if damaged:
        advice = (
            f"before that step {damaged} was not finite already, which no step of a run brings "
            "about: the same command goes on from what is kept"
        )
    return (
        f"diverged at step {step}: {told} (the loss is {fault['loss']:.4g}, the norm of the "
        f"gradient {fault['norm']:.4g}, the clipping threshold {threshold:g}); "
        f"{kept}: {advice}"
    )
