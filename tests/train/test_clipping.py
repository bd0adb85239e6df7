"""The norm of a gradient, and every kind of clipping."""

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
from tests.train.gradients import INF, assert_close, assert_same_bits, norm_of, times, tree

pytestmark = pytest.mark.exact


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
