import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.tasks.metrics import tokens

T, B, V = 5, 3, 7
EVERY = tuple(tokens.TOKEN_METRICS)
sums = jax.jit(tokens.sums, static_argnums=0)


def example(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    outputs = (3 * rng.normal(size=(T, B, V))).astype(dtype)
    targets = rng.integers(0, V, (T, B)).astype(np.int32)
    weights = rng.random((T, B)) < 0.6
    weights[0, 0], weights[1, 0] = True, False
    return outputs, targets, weights


def by_hand(outputs, targets):
    """metric -> its value at each token, from the definitions."""
    outputs = np.float64(outputs)
    loss, accuracy = np.empty((T, B)), np.empty((T, B))
    for t in range(T):
        for b in range(B):
            row, target = outputs[t, b], targets[t, b]
            loss[t, b] = np.log(np.sum(np.exp(row))) - row[target]
            accuracy[t, b] = np.all(row[target] >= row)
    return {"loss": loss, "accuracy": accuracy}


def test_every_metric_is_tested():
    assert set(by_hand(*example()[:2])) == set(EVERY)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_agree_with_numpy(weighted):
    outputs, targets, weights = example()
    found = sums(EVERY, outputs, targets, weights if weighted else None)
    chosen = weights if weighted else np.ones((T, B), bool)
    assert set(found) == set(EVERY)
    for name, values in by_hand(outputs, targets).items():
        total, count = found[name]
        assert total.dtype == count.dtype == np.float64
        np.testing.assert_allclose(total, values[chosen].sum(), rtol=1e-14)
        assert count == chosen.sum()


def test_only_what_is_named_is_computed():
    outputs, targets, _ = example(1, np.float32)
    assert list(tokens.sums(("accuracy",), outputs, targets)) == ["accuracy"]


def test_nothing_counts_where_no_weight_is_true():
    outputs, targets, _ = example(2, np.float32)
    for total, count in sums(EVERY, outputs, targets, np.zeros((T, B), bool)).values():
        assert (float(total), float(count)) == (0, 0)


@pytest.mark.usefixtures("float64")
def test_padding_reaches_neither_value_nor_gradient():
    outputs, targets, weights = example(3)

    @jax.jit
    def mean(outputs, targets):
        total, count = tokens.sums(("loss",), outputs, targets, weights)["loss"]
        return total / count

    clean = jax.value_and_grad(mean)(outputs, targets)
    # A token of padding may be none of the vocabulary.
    wrong = np.where(weights, targets, np.int32(-1)), np.where(weights, targets, np.int32(V + 3))
    for number, labels in zip((np.nan, np.inf, -np.inf), (targets, *wrong), strict=True):
        dirty = np.where(weights[..., None], outputs, number)
        value, gradient = jax.value_and_grad(mean)(dirty, labels)
        assert value == clean[0]
        np.testing.assert_array_equal(gradient, clean[1])
        np.testing.assert_array_equal(gradient[~weights], 0)
    probabilities = jax.nn.softmax(outputs) - jax.nn.one_hot(targets, V)
    expected = np.where(weights[..., None], probabilities, 0) / weights.sum()
    np.testing.assert_allclose(clean[1], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_outputs_are_counted_exactly(dtype):
    outputs = jnp.zeros((257, 3, 4), dtype)
    targets = np.zeros((257, 3), np.int32)
    for weights in (None, np.ones((257, 3), bool)):
        total, count = sums(("loss",), outputs, targets, weights)["loss"]
        assert (total.dtype, float(count)) == (jnp.float32, 771)
        np.testing.assert_allclose(total / count, math.log(4), rtol=1e-6)


def test_large_logits_do_not_overflow():
    outputs = np.array([[[1e4, 0.0, -1e4]]], np.float32)
    for target, expected in ((0, 0.0), (1, 1e4), (2, 2e4)):
        value = tokens.cross_entropy(outputs, np.full((1, 1), target))
        np.testing.assert_allclose(value, [[expected]], rtol=1e-6)


def test_bits_and_perplexity():
    assert tokens.bits(math.log(2)) == 1
    assert tokens.bits(0.0) == 0
    np.testing.assert_allclose(tokens.perplexity(math.log(65)), 65, rtol=1e-15)
    assert tokens.perplexity(1e6) == math.inf
    assert tokens.perplexity(math.inf) == math.inf
    assert math.isnan(tokens.perplexity(math.nan))


# real values


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weighted", [False, True])
def test_real_metrics_agree_with_numpy(weighted):
    rng = np.random.default_rng(1)
    targets, noise = rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, 2))
    outputs, weights = targets + 0.05 * noise, rng.random((T, B)) < 0.6
    found = tokens.sums(
        tuple(tokens.REAL_METRICS), outputs, targets, weights if weighted else None,
        tokens.REAL_METRICS,
    )  # fmt: skip
    chosen = weights if weighted else np.ones((T, B), bool)
    off = (outputs - targets)[chosen]
    expected = {"loss": (off**2).mean(1).sum(), "accuracy": (abs(off).max(1) <= 0.04).sum()}
    assert 0 < expected["accuracy"] < chosen.sum()
    assert set(found) == set(tokens.REAL_METRICS) == set(expected)
    for name, (total, count) in found.items():
        assert total == pytest.approx(expected[name], rel=1e-12)
        assert count == chosen.sum()


def test_real_values_without_weight_reach_nothing():
    targets, weights = np.zeros((T, B, 1), np.float32), np.zeros((T, B), bool)
    weights[1, 2] = True
    outputs = np.full((T, B, 1), np.nan, np.float32)
    outputs[1, 2] = 3.0

    def loss(x):
        return tokens.sums(("loss",), x, targets, weights, tokens.REAL_METRICS)["loss"][0]

    assert loss(outputs) == 9.0
    gradient = np.asarray(jax.grad(loss)(outputs))
    assert gradient[1, 2] == 6.0
    assert np.count_nonzero(gradient) == 1


def test_sequence_error_counts_sequences():
    right = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]], np.float32)  # [T, B]
    weights = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]], bool)
    total, count = tokens.sequence_error(jnp.asarray(right), jnp.asarray(weights))
    assert (float(total), float(count)) == (1.0, 3.0)  # the second; the fourth has no answer
