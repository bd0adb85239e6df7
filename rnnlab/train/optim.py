"""Clip, then optimise, on a schedule: one optax chain; and the weight average kept beside it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.errors import UsageError
from rnnlab.types import Array, Params

CLIPS = ("global_norm", "soft", "per_layer", "value", "adaptive")
OPTIMISERS = ("adam", "adamw", "rmsprop", "sgd", "adagrad")
SCHEDULES = ("constant", "cosine", "linear", "step")
# Options of `make_optimiser` and `schedule` that may be JAX scalars, traced or not, which go unchecked: one
# compiled step serves every value of theirs, and `vmap` a population of them.
TRACED = (
    "clip_norm",
    "learning_rate",
    "final_fraction",
    "weight_decay",
    "beta1",
    "beta2",
    "epsilon",
)


SMALLEST, LARGEST = 1.2e-38, 3.4e38  # of float32, which would take what is beyond for 0 or for inf


class ClipState(NamedTuple):
    """What the clip saw at the last step."""

    norm: Array  # the global norm of the gradient before clipping
    clipped: Array  # bool, whether clipping changed it


class Optimiser(NamedTuple):
    """Pure functions: the chain clip -> optimiser, and what is read from it."""

    init: Callable[[Params], Any]
    # (grads, state, params) -> (updates, state)
    update: Callable[[Any, Any, Params], tuple[Any, Any]]
    learning_rate: Callable[[Any], Any]  # step -> the rate used at that step
    watch: Callable[[Any], ClipState]  # the optimiser's state -> what the clip saw


def _known(value: Any) -> bool:
    return not isinstance(value, jax.Array)


def _scaled_norm(tree: Any) -> tuple[Array, Array]:
    """(scale, norm / scale), the scale being the largest entry, so that no square overflows."""
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    total = sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves)
    return scale, jnp.sqrt(total)


def global_norm(tree: Any) -> Array:
    """The Euclidean norm over all leaves.

    It does not overflow where the sum of squares would: at |g| = 1e20 in float32 a plain norm is
    inf, and clipping by it gives a silent zero update.
    """
    scale, rest = _scaled_norm(tree)
    return scale * rest


def _shrink(tree: Any, threshold: Any) -> Any:
    # g T / |g|, not g min(1, T/|g|): below the threshold the gradient keeps its very bits. In two
    # factors, since 1 / |g| is a denormal, flushed to 0, from |g| = 1e38 on.
    scale, rest = _scaled_norm(tree)
    above = scale * rest > threshold
    factor = threshold / jnp.where(rest > 0, rest, 1.0)

    def shrink(g: Array) -> Array:
        return jnp.where(above, (g / scale * factor).astype(g.dtype), g)

    return jax.tree.map(shrink, tree)


def _clip_global(grads: Any, params: Params, threshold: Any) -> Any:
    """Pascanu et al. 2013, algorithm 1: g T / |g| where |g| > T."""
    return _shrink(grads, threshold)


def _clip_soft(grads: Any, params: Params, threshold: Any) -> Any:
    """g T / (T + |g|): every gradient is shortened, none below T / 2 by more than a third, and the
    norm tends to T. Normalised and clipped descent differ by a factor of 2 at most (Zhang et al.
    2020, section 3)."""
    scale, rest = _scaled_norm(grads)
    factor = 1.0 / (1.0 / scale + rest / threshold)  # T / (T + |g|), times the scale
    return jax.tree.map(lambda g: (g / scale * factor).astype(g.dtype), grads)


def _clip_per_layer(grads: Any, params: Params, threshold: Any) -> Any:
    """The same for each layer by itself: every entry of "layers", the readout, the embedding."""
    groups = {name: part for name, part in grads.items() if name != "layers"}
    clipped = {name: _shrink(part, threshold) for name, part in groups.items()}
    layers = [_shrink(part, threshold) for part in grads.get("layers", [])]
    return clipped | ({"layers": layers} if "layers" in grads else {})


def _clip_value(grads: Any, params: Params, threshold: Any) -> Any:
    """Each entry into [-T, T], as char-rnn does; this turns the gradient's direction."""
    return jax.tree.map(lambda g: jnp.clip(g, -threshold, threshold), grads)


def _clip_adaptive(grads: Any, params: Params, threshold: Any) -> Any:
    """Each unit's gradient to T times the norm of its weights; Brock et al. 2021, eq. 3."""
    # optax squares in the gradient's dtype. What is that large exceeds every unit's bound anyway.
    grads = _shrink(grads, 1e15)
    return optax.adaptive_grad_clip(threshold).update(grads, optax.EmptyState(), params)[0]


def clip(kind: str, threshold: float | Array) -> optax.GradientTransformation:
    """The clip as an optax transformation that also records what it saw in a `ClipState`.

    kind: one of CLIPS. threshold: T > 0; inf switches clipping off (the gradient passes untouched).
        See TRACED.

    Raises UsageError for another kind, or a number that is not > 0, or beyond float32.
    """
    if kind not in CLIPS:
        raise UsageError(f"optim.clip must be one of {', '.join(CLIPS)}, got '{kind}'")
    traced = not _known(threshold)
    if not traced and not threshold > 0:
        raise UsageError(
            f"optim.clip_norm must be greater than 0, got {threshold}: 1.0 to 10.0 is a usual "
            "start, inf switches clipping off"
        )
    if not traced and not (SMALLEST <= threshold <= LARGEST or math.isinf(threshold)):
        raise UsageError(
            f"optim.clip_norm must be within float32, {SMALLEST} to {LARGEST}, or inf, got {threshold}"
        )
    rule = {
        "global_norm": _clip_global,
        "soft": _clip_soft,
        "per_layer": _clip_per_layer,
        "value": _clip_value,
        "adaptive": _clip_adaptive,
    }[kind]

    def init(params: Params) -> ClipState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return ClipState(norm=jnp.zeros((), dtype), clipped=jnp.zeros((), bool))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ClipState]:
        norm = global_norm(updates)
        if not traced and math.isinf(threshold):
            return updates, ClipState(norm, jnp.zeros((), bool))
        shrunk = rule(updates, params, threshold)
        if traced:
            off = jnp.isinf(threshold)
            shrunk = jax.tree.map(lambda g, s: jnp.where(off, g, s), updates, shrunk)
        changed = jax.tree.map(lambda a, b: jnp.any(a != b), updates, shrunk)
        return shrunk, ClipState(norm, jnp.any(jnp.stack(jax.tree.leaves(changed))))

    return optax.GradientTransformation(init, update)


def schedule(
    *,
    kind: str,
    learning_rate: float | Array,
    steps: int,
    warmup_steps: int,
    final_fraction: float | Array,
    decay_every: int,
    decay_factor: float,
) -> Callable[[Any], Any]:
    """step -> learning rate: a linear warm-up from 0, then `kind`.

    "constant"; "cosine" and "linear" go to learning_rate * final_fraction at `steps`; "step"
    multiplies by decay_factor every decay_every steps after the warm-up.

    Raises UsageError for another kind, or numbers that make no schedule.
    """
    if kind not in SCHEDULES:
        raise UsageError(f"optim.schedule must be one of {', '.join(SCHEDULES)}, got '{kind}'")
    if _known(learning_rate) and not 0 < learning_rate < math.inf:
        raise UsageError(f"optim.learning_rate must be greater than 0, got {learning_rate}")
    if _known(learning_rate) and not SMALLEST <= learning_rate <= LARGEST:
        raise UsageError(
            f"optim.learning_rate must be within float32, {SMALLEST} to {LARGEST}, got {learning_rate}"
        )
    if not 0 <= warmup_steps < max(steps, 1):
        raise UsageError(
            f"optim.warmup_steps must be in [0, train.steps), got {warmup_steps} of {steps}"
        )
    if _known(final_fraction) and not 0 <= final_fraction <= 1:
        raise UsageError(f"optim.final_fraction must be in [0, 1], got {final_fraction}")
    if decay_every < 1 or not 0 < decay_factor <= 1:
        raise UsageError(
            "optim.decay_every must be at least 1 and optim.decay_factor in (0, 1], got "
            f"{decay_every} and {decay_factor}"
        )
    rest = max(steps - warmup_steps, 1)
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, rest, final_fraction)
    elif kind == "linear":
        after = optax.linear_schedule(learning_rate, learning_rate * final_fraction, rest)
    elif kind == "step":
        after = optax.exponential_decay(learning_rate, decay_every, decay_factor, staircase=True)
    else:
        after = optax.constant_schedule(learning_rate)
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        after = optax.join_schedules([warmup, after], [warmup_steps])
    # Not an int32, with which JAX would reckon in float32 even where float64 is on.
    return lambda step: after(jnp.asarray(step, float))


def make_optimiser(
    *,
    name: str,
    clip: str,
    clip_norm: float | Array,
    momentum: float,
    beta1: float | Array,
    beta2: float | Array,
    epsilon: float | Array,
    rms_decay: float,
    weight_decay: float | Array,
    schedule: Callable[[Any], Any],
) -> Optimiser:
    """The chain clip -> optimiser; decoupled weight decay (adamw) acts on matrices alone.

    Raises UsageError for an unknown name or a value out of range.
    """
    if name not in OPTIMISERS:
        raise UsageError(f"optim.name must be one of {', '.join(OPTIMISERS)}, got '{name}'")
    rates = {"momentum": momentum, "beta1": beta1, "beta2": beta2, "rms_decay": rms_decay}
    for option, value in rates.items():
        if _known(value) and not 0 <= value < 1:
            raise UsageError(f"optim.{option} must be in [0, 1), got {value}")
    if _known(epsilon) and not SMALLEST <= epsilon <= LARGEST:
        raise UsageError(
            f"optim.epsilon must be greater than 0, within float32 ({SMALLEST} to {LARGEST}), got "
            f"{epsilon}"
        )
    if _known(weight_decay) and not 0 <= weight_decay <= LARGEST:
        raise UsageError(
            f"optim.weight_decay must be at least 0 and at most {LARGEST}, got {weight_decay}"
        )
    if _known(weight_decay) and weight_decay and name != "adamw":
        raise UsageError(f"optim.weight_decay is for 'adamw'; optim.name is '{name}'")

    def matrices(params: Params) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    rule = {
        "adam": lambda: optax.adam(schedule, b1=beta1, b2=beta2, eps=epsilon),
        "adamw": lambda: optax.adamw(
            schedule, b1=beta1, b2=beta2, eps=epsilon, weight_decay=weight_decay, mask=matrices
        ),
        "rmsprop": lambda: optax.rmsprop(schedule, decay=rms_decay, eps=epsilon, momentum=momentum),
        "sgd": lambda: optax.sgd(schedule, momentum=momentum or None),
        "adagrad": lambda: optax.adagrad(schedule, eps=epsilon),
    }[name]()
    chain = optax.chain(_clip(clip, clip_norm), rule)
    return Optimiser(
        init=chain.init, update=chain.update, learning_rate=schedule, watch=lambda state: state[0]
    )


_clip = clip  # `make_optimiser` has an option of the same name


def averaged(average: Params, params: Params, step: Array, decay: float | Array) -> Params:
    """The exponential moving average of the weights after `step` updates.

    The decay grows as (1 + step) / (10 + step) up to `decay`, so that the first weights are
    forgotten (TensorFlow's `ExponentialMovingAverage` with num_updates).
    """
    step = step.astype(jnp.float32)
    rate = jnp.minimum(jnp.asarray(decay, jnp.float32), (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: (rate * a + (1.0 - rate) * p).astype(p.dtype), average, params)
