import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.errors import UsageError
from rnnlab.train import optim

INF = float("inf")


def tree(seed=0, scale=1.0, dtype=np.float64):
    """A gradient, or parameters, in the form of a model's."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (scale * rng.normal(size=shape)).astype(dtype)

    return {
        "layers": [{"kernel": draw(3, 8)}, {"kernel": draw(2, 8), "bias": draw(8)}],
        "readout": {"kernel": draw(2, 5)},
    }


def norm_of(part):
    return math.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(part)))


def times(part, factor):
    return jax.tree.map(lambda leaf: leaf * factor, part)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


def assert_close(a, b, rtol):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=0)


@functools.cache
def update_of(kind, threshold):
    transformation = optim.clip(kind, threshold)

    def update(grads, params):
        return transformation.update(grads, transformation.init(params), params)

    return jax.jit(update)


def clipped(kind, threshold, grads, params=None):
    """(the clipped gradient, what was recorded)."""
    return update_of(kind, threshold)(grads, grads if params is None else params)


# The norm


global_norm = jax.jit(optim.global_norm)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20, 1e37])
def test_global_norm_in_float32_neither_overflows_nor_vanishes(scale):
    grads = tree(1, scale, np.float32)
    found = global_norm(grads)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, norm_of(grads), rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_global_norm_is_the_euclidean_one():
    np.testing.assert_allclose(global_norm(tree(2)), norm_of(tree(2)), rtol=1e-15)


@pytest.mark.parametrize("bad", [INF, -INF, math.nan])
def test_global_norm_is_finite_only_where_all_is(bad):
    grads = tree(0, 1.0, np.float32)
    grads["readout"]["kernel"][1, 2] = bad
    assert not np.isfinite(global_norm(grads))


# Clipping by the norm


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("threshold", [1.0, 0.37])
@given(seed=st.integers(0, 2**32 - 1), ratio=st.floats(1.0, 1e9, exclude_min=True))
def test_clip_above_the_threshold_is_g_T_over_norm(threshold, seed, ratio):
    grads = tree(seed)
    grads = times(grads, (1 + 1e-9) * ratio * threshold / norm_of(grads))
    after, recorded = clipped("global_norm", threshold, grads)
    assert_close(after, times(grads, threshold / norm_of(grads)), 1e-15)
    np.testing.assert_allclose(norm_of(after), threshold, rtol=1e-15)
    pairs = zip(*map(jax.tree.leaves, (after, grads)), strict=True)
    cosine = sum(np.vdot(a, b) for a, b in pairs) / (norm_of(after) * norm_of(grads))
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-14)
    np.testing.assert_allclose(recorded.norm, norm_of(grads), rtol=1e-15)
    assert recorded.clipped


@pytest.mark.parametrize("kind", [kind for kind in optim.CLIPS if kind != "soft"])
def test_clip_below_the_threshold_changes_no_bit(kind):
    grads = tree(3, 1.0, np.float32)
    grads["readout"]["kernel"][0, 0] = -0.0
    grads = times(grads, np.float32(0.999 / norm_of(grads)))
    after, recorded = clipped(kind, 1.0, grads, times(grads, np.float32(1.001)))
    assert_same_bits(after, grads)
    np.testing.assert_allclose(recorded.norm, norm_of(grads), rtol=1e-6)
    assert not recorded.clipped


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_an_infinite_threshold_changes_no_bit(kind):
    unit = jax.tree.map(lambda leaf: np.clip(leaf, -1, 1), tree(4, 1.0, np.float32))
    for scale in (1e-30, 1.0, 1e20, 3e38):
        grads = times(unit, np.float32(scale))
        after, recorded = clipped(kind, INF, grads)
        assert_same_bits(after, grads)
        assert not recorded.clipped
        assert np.isinf(recorded.norm) == (scale == 3e38)


@pytest.mark.parametrize("size", [1e-30, 0.5, 2.0, 1e30])
def test_the_soft_clip_is_g_T_over_T_plus_its_norm(size):
    grads = tree(3, 1.0, np.float32)
    grads = times(grads, np.float32(size / norm_of(grads)))
    after, recorded = clipped("soft", 2.0, grads)
    norm = float(norm_of(grads))
    jax.tree.map(
        lambda a, g: np.testing.assert_allclose(
            a, g / norm * (norm * 2.0 / (2.0 + norm)), rtol=3e-6
        ),
        after,
        grads,
    )
    np.testing.assert_allclose(recorded.norm, norm, rtol=1e-6)
    assert recorded.clipped


def groups_of(whole, kind):
    """The parts of a gradient that have a norm of their own."""
    return [whole["readout"], *whole["layers"]] if kind == "per_layer" else [whole]


@pytest.mark.parametrize("threshold", [1e-3, 1.0])
@pytest.mark.parametrize("kind", ["global_norm", "per_layer"])
def test_a_huge_gradient_is_clipped_and_not_zeroed(kind, threshold):
    grads = tree(5, 1.0, np.float32)
    for scale in (1e20, 1e36, 1e38):
        after, recorded = clipped(kind, threshold, times(grads, np.float32(scale)))
        for before, part in zip(groups_of(grads, kind), groups_of(after, kind), strict=True):
            assert_close(part, times(before, np.float32(threshold / norm_of(before))), 1e-5)
        norm = scale * norm_of(grads)
        norm = norm if norm < float(np.finfo(np.float32).max) else INF
        np.testing.assert_allclose(recorded.norm, norm, rtol=1e-5)
        assert recorded.clipped


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_a_gradient_of_zero_stays_zero(kind):
    zero = jax.tree.map(np.zeros_like, tree(0, 1.0, np.float32))
    after, recorded = clipped(kind, 1.0, zero, tree(1, 1.0, np.float32))
    assert_same_bits(after, zero)
    assert (recorded.norm, recorded.clipped) == (0, False)


def test_clip_agrees_with_optax():
    theirs = jax.jit(lambda g: optax.clip_by_global_norm(1.0).update(g, optax.EmptyState())[0])
    for scale in (1e-3, 0.1, 1.0, 100.0):
        grads = tree(6, scale, np.float32)
        assert_close(clipped("global_norm", 1.0, grads)[0], theirs(grads), 1e-6)


# The other kinds


@pytest.mark.parametrize("threshold", [0.3, 2.0])
def test_clip_by_value(threshold):
    grads = tree(7, 1.0, np.float32)
    after, recorded = clipped("value", threshold, grads)
    assert_same_bits(after, jax.tree.map(lambda g: np.clip(g, -threshold, threshold), grads))
    assert recorded.clipped
    np.testing.assert_allclose(recorded.norm, norm_of(grads), rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_clip_per_layer():
    grads = tree(8)
    grads["layers"][0] = times(grads["layers"][0], 10.0)
    grads["readout"] = times(grads["readout"], 1e-2)
    after, recorded = clipped("per_layer", 2.0, grads)
    assert recorded.clipped
    np.testing.assert_allclose(recorded.norm, norm_of(grads), rtol=1e-15)

    norms = []
    for before, part in zip(*(groups_of(g, "per_layer") for g in (grads, after)), strict=True):
        norm = norm_of(before)
        norms.append(norm)
        if norm > 2.0:
            assert_close(part, times(before, 2.0 / norm), 1e-15)
        else:
            assert_same_bits(part, before)
    assert min(norms) < 2.0 < max(norms)


def test_clip_per_layer_of_other_parameters():
    grads = {"readout": np.full(4, 3.0, np.float32), "embedding": np.full(4, 0.1, np.float32)}
    after, _ = clipped("per_layer", 1.0, grads)
    np.testing.assert_allclose(after["readout"], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(after["embedding"], grads["embedding"])


def test_adaptive_clip_agrees_with_optax():
    rule = optax.adaptive_grad_clip(1.0)
    theirs = jax.jit(lambda g, p: rule.update(g, optax.EmptyState(), p)[0])
    params, flags = tree(10, 1.0, np.float32), []
    for scale in (0.01, 0.7, 30.0):
        grads = tree(9, scale, np.float32)
        after, recorded = clipped("adaptive", 1.0, grads, params)
        expected = theirs(grads, params)
        assert_close(after, expected, 1e-6)
        np.testing.assert_allclose(recorded.norm, norm_of(grads), rtol=1e-6)
        pairs = zip(*map(jax.tree.leaves, (expected, grads)), strict=True)
        assert recorded.clipped == any(np.any(a != b) for a, b in pairs)
        flags.append(bool(recorded.clipped))
    assert flags == [False, True, True]


def test_adaptive_clip_of_a_huge_gradient():
    grads, params = tree(11, 1.0, np.float32), tree(12, 1.0, np.float32)
    large, _ = clipped("adaptive", 1.0, times(grads, np.float32(1e6)), params)
    huge, recorded = clipped("adaptive", 1.0, times(grads, np.float32(1e20)), params)
    assert_close(huge, large, 1e-5)
    assert recorded.clipped


@pytest.mark.parametrize("threshold", [0, 0.0, -1.0, -INF, math.nan])
@pytest.mark.parametrize("kind", optim.CLIPS)
def test_clip_refuses_thresholds(kind, threshold):
    with pytest.raises(UsageError, match=r"optim\.clip_norm must be greater than 0") as error:
        optim.clip(kind, threshold)
    assert "\n" not in str(error.value)


def test_clip_refuses_kinds():
    with pytest.raises(
        UsageError, match=r"optim\.clip must be one of global_norm.*'norm'"
    ) as error:
        optim.clip("norm", 1.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_clip_of_a_population_is_that_of_each_member(kind):
    members = [tree(seed, 10.0**seed, np.float32) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    after, recorded = jax.jit(jax.vmap(update_of(kind, 1.0)))(stacked, stacked)
    for index, member in enumerate(members):
        alone, saw = clipped(kind, 1.0, member)
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], after), alone, 1e-5)
        np.testing.assert_allclose(recorded.norm[index], saw.norm, rtol=1e-6)
        assert recorded.clipped[index] == saw.clipped


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_a_traced_threshold_is_that_number(kind):
    """One program for every threshold, infinity included, and vmap over several."""
    thresholds = jnp.array([1e-3, 1.0, INF], jnp.float32)

    def update(threshold, grads, params):
        transformation = optim.clip(kind, threshold)
        return transformation.update(grads, transformation.init(params), params)

    compiled, population = jax.jit(update), jax.jit(jax.vmap(update, in_axes=(0, None, None)))
    unit = jax.tree.map(lambda leaf: np.clip(leaf, -1, 1), tree(4, 1.0, np.float32))
    for scale in (1e-30, 1.0, 1e20, 3e38):
        grads = times(unit, np.float32(scale))
        params = times(grads, np.float32(0.5))  # no unit lies at its bound
        together, saw = population(thresholds, grads, params)
        for index, threshold in enumerate(thresholds):
            wanted, recorded = clipped(kind, float(threshold), grads, params)
            alone, also = compiled(threshold, grads, params)
            one = jax.tree.map(lambda leaf, i=index: leaf[i], together)
            for found, seen in ((alone, also.clipped), (one, saw.clipped[index])):
                assert_close(found, wanted, 1e-5)
                assert seen == recorded.clipped
            if threshold == INF:
                assert_same_bits(one, grads)
    assert compiled._cache_size() == 1


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
