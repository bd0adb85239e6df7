"""Schedules, optimisers and the average of the weights."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnlab.errors import UsageError
from rnnlab.train import optim
from tests.train.gradients import INF, assert_close, norm_of, times, tree

# Schedules

PLAN = {
    "learning_rate": 0.1,
    "steps": 100,
    "warmup_steps": 0,
    "final_fraction": 0.0,
    "decay_every": 10,
    "decay_factor": 0.5,
}


def closed_form(kind, step, plan):
    peak, warmup = plan["learning_rate"], plan["warmup_steps"]
    if step < warmup:
        return peak * step / warmup
    done = min((step - warmup) / (plan["steps"] - warmup), 1.0)
    low = plan["final_fraction"]
    return (
        peak
        * {
            "constant": 1.0,
            "cosine": low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)),
            "linear": 1 + (low - 1) * done,
            "step": plan["decay_factor"] ** ((step - warmup) // plan["decay_every"]),
        }[kind]
    )


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.25), (20, 0.0), (20, 0.25)])
@pytest.mark.parametrize("kind", optim.SCHEDULES)
def test_schedules_are_their_closed_forms(kind, warmup, final):
    plan = PLAN | {"warmup_steps": warmup, "final_fraction": final}
    rate = optim.schedule(kind=kind, **plan)
    steps = np.array([0, 1, 9, 10, 19, 20, 21, 29, 30, 50, 99, 100])
    found = jax.jit(jax.vmap(rate))(steps)
    expected = [closed_form(kind, step, plan) for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(rate(50), closed_form(kind, 50, plan), rtol=1e-5)  # a Python integer


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("cosin", {}, "optim.schedule"),
        ("constant", {"learning_rate": 0.0}, "optim.learning_rate"),
        ("constant", {"learning_rate": -1.0}, "optim.learning_rate"),
        ("constant", {"learning_rate": 1e-50}, "optim.learning_rate"),
        ("constant", {"learning_rate": 1e50}, "optim.learning_rate"),
        ("constant", {"learning_rate": INF}, "optim.learning_rate"),
        ("constant", {"learning_rate": math.nan}, "optim.learning_rate"),
        ("cosine", {"warmup_steps": 100}, "optim.warmup_steps"),
        ("cosine", {"warmup_steps": -1}, "optim.warmup_steps"),
        ("linear", {"final_fraction": 1.5}, "optim.final_fraction"),
        ("linear", {"final_fraction": math.nan}, "optim.final_fraction"),
        ("step", {"decay_every": 0}, "optim.decay_every"),
        ("step", {"decay_factor": 0.0}, "optim.decay_factor"),
        ("step", {"decay_factor": 1.5}, "optim.decay_factor"),
    ],
)
def test_schedule_refuses(kind, change, named):
    with pytest.raises(UsageError) as error:
        optim.schedule(kind=kind, **PLAN | change)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


# Optimisers

RATE = 0.05
OPTIONS = {
    "clip": "global_norm",
    "clip_norm": INF,
    "momentum": 0.8,
    "beta1": 0.7,
    "beta2": 0.95,
    "epsilon": 1e-6,
    "rms_decay": 0.85,
    "weight_decay": 0.0,
    "schedule": lambda step: RATE / (1 + step),
}
PLAIN = {
    "adam": lambda rate: optax.adam(rate, b1=0.7, b2=0.95, eps=1e-6),
    "adamw": lambda rate: optax.adamw(rate, b1=0.7, b2=0.95, eps=1e-6, weight_decay=0.0),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.85, eps=1e-6, momentum=0.8),
    "sgd": lambda rate: optax.sgd(rate, momentum=0.8),
    "adagrad": lambda rate: optax.adagrad(rate, eps=1e-6),
}


def trained(init, update, params, steps=3, scale=1.0):
    """The parameters after a few steps on gradients that do not depend on them."""

    @jax.jit
    def run(params, grads):
        state = init(params)
        for step in grads:
            updates, state = update(step, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    return run(params, [tree(100 + step, scale, np.float32) for step in range(steps)])


def test_every_optimiser_is_tested():
    assert set(PLAIN) == set(optim.OPTIMISERS)


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_each_optimiser_is_that_of_optax(name):
    made = optim.make_optimiser(name=name, **OPTIONS)
    plain = PLAIN[name](OPTIONS["schedule"])
    params = tree(13, 1.0, np.float32)
    found, state = trained(made.init, made.update, params)
    expected, _ = trained(plain.init, plain.update, params)
    assert_close(found, expected, 1e-6)
    assert not np.any(found["readout"]["kernel"] == params["readout"]["kernel"])
    last = tree(102, 1.0, np.float32)
    np.testing.assert_allclose(made.watch(state).norm, norm_of(last), rtol=1e-6)
    assert made.learning_rate(3) == RATE / 4


def test_the_clip_comes_before_the_optimiser():
    made = optim.make_optimiser(name="sgd", **OPTIONS | {"clip_norm": 0.5, "momentum": 0.0})
    params = tree(14, 1.0, np.float32)
    found, state = trained(made.init, made.update, params, steps=1, scale=10.0)
    grads = tree(100, 10.0, np.float32)
    step = times(grads, np.float32(RATE * 0.5 / norm_of(grads)))
    assert_close(found, jax.tree.map(np.subtract, params, step), 1e-4)
    assert made.watch(state).clipped
    np.testing.assert_allclose(made.watch(state).norm, norm_of(grads), rtol=1e-6)


def test_weight_decay_acts_on_matrices_alone():
    made = optim.make_optimiser(name="adamw", **OPTIONS | {"weight_decay": 0.1})
    params = tree(15, 1.0, np.float32)
    zero = times(params, np.float32(0))
    updates, _ = jax.jit(lambda g, p: made.update(g, made.init(p), p))(zero, params)
    expected = jax.tree.map(lambda p: p * np.float32(-RATE * 0.1 * (p.ndim > 1)), params)
    for found, wanted in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("adamax", {}, "optim.name"),
        ("sgd", {"momentum": 1.0}, "optim.momentum"),
        ("adam", {"beta1": -0.1}, "optim.beta1"),
        ("adam", {"beta2": 1.5}, "optim.beta2"),
        ("adam", {"beta2": math.nan}, "optim.beta2"),
        ("rmsprop", {"rms_decay": 1.0}, "optim.rms_decay"),
        ("adam", {"epsilon": 0.0}, "optim.epsilon"),
        ("adam", {"epsilon": 1e-50}, "optim.epsilon"),  # 0 in float32: 0 / 0 at a gradient of 0
        ("adam", {"epsilon": INF}, "optim.epsilon"),
        ("adamw", {"weight_decay": -1.0}, "optim.weight_decay"),
        ("adamw", {"weight_decay": INF}, "optim.weight_decay"),
        ("adam", {"clip_norm": 1e-50}, "optim.clip_norm"),
        ("adam", {"clip_norm": 1e50}, "optim.clip_norm"),
        ("adam", {"weight_decay": 0.1}, "optim.weight_decay"),
        ("adam", {"clip_norm": 0.0}, "optim.clip_norm"),
        ("adam", {"clip": "none"}, "optim.clip"),
    ],
)
def test_make_refuses(name, change, named):
    with pytest.raises(UsageError) as error:
        optim.make_optimiser(name=name, **OPTIONS | change)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


# The average of the weights


def test_the_average_is_its_recursion():
    decay, average = 0.3, np.float64(1.0)
    found = {"a": jnp.ones(2, jnp.float32)}
    rng = np.random.default_rng(0)
    update = jax.jit(functools.partial(optim.averaged, decay=decay))
    for step in range(1, 12):
        new = rng.normal()
        rate = min(decay, (1 + step) / (10 + step))
        average = rate * average + (1 - rate) * new
        found = update(found, {"a": jnp.full(2, new, jnp.float32)}, jnp.int32(step))
        np.testing.assert_allclose(found["a"], average, rtol=1e-5)
    assert found["a"].dtype == jnp.float32


def test_the_average_forgets_the_first_weights():
    start, now = {"a": jnp.ones(1)}, {"a": jnp.zeros(1)}
    np.testing.assert_allclose(
        optim.averaged(start, now, jnp.int32(1), 0.999)["a"], 2 / 11, rtol=1e-6
    )
    np.testing.assert_allclose(
        optim.averaged(start, now, jnp.int32(10**6), 0.999)["a"], 0.999, rtol=1e-6
    )
