"""Ranking of units by labels against brute force, and against what noise reaches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from rnnlab.diagnose import ranking


def auc(values, label):
    above = values[label][:, None] - values[~label][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def rank(values, found, *, top=3, shifts=10, seed=0):
    return ranking.rank(values, found, top=top, shifts=shifts, seed=seed)


def slow(random, shape, keep=0.99):
    """Noise that wanders: each value is `keep` times the last, and something new."""
    return signal.lfilter([1.0], [1.0, -keep], random.normal(size=shape), axis=0)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([1, 4, 1000]))
def test_measures_by_brute_force(seed, coarse):
    random = np.random.default_rng(seed)
    values = np.round(random.normal(size=(130, 5)) * coarse) / coarse  # coarse: many ties
    values[:, 3] = 0.25
    found = {"binary": random.random(130) < 0.5, "number": random.integers(0, 3, 130)}
    binary, number = rank(values, found, top=5)
    for column, value in zip(binary.columns, binary.values, strict=True):
        np.testing.assert_allclose(value, auc(values[:, column], found["binary"]), atol=1e-6)
    for column, value in zip(number.columns, number.values, strict=True):
        if column != 3:
            wanted = stats.spearmanr(values[:, column], found["number"]).statistic
            np.testing.assert_allclose(value, wanted, atol=1e-6)
    assert binary.values[binary.columns.index(3)] == 0.5  # it never moves
    assert number.values[number.columns.index(3)] == 0.0
    assert sorted(binary.columns) == sorted(number.columns) == [0, 1, 2, 3, 4]
    distance = np.abs(np.array(binary.values) - 0.5)
    assert (np.diff(distance) <= 0).all()
    assert (np.diff(np.abs(number.values)) <= 0).all()
    assert binary.share == found["binary"].mean()


def test_chance_is_the_best_of_all_units_and_shifts():
    random = np.random.default_rng(1)
    values = random.normal(size=(150, 4))
    found = {"binary": slow(random, 150, keep=0.5) > 0, "number": random.integers(0, 9, 150)}
    binary, number = rank(values, found, shifts=7, seed=5)
    offsets = np.random.default_rng(5).integers(15, 135, 7)
    wanted = {"binary": 0.0, "number": 0.0}
    for offset in offsets:
        for unit in values.T:
            area = auc(unit, np.roll(found["binary"], offset))
            rho = stats.spearmanr(unit, np.roll(found["number"], offset)).statistic
            wanted["binary"] = max(wanted["binary"], area, 1 - area)
            wanted["number"] = max(wanted["number"], abs(rho))
    np.testing.assert_allclose(binary.chance, wanted["binary"], atol=1e-6)
    np.testing.assert_allclose(number.chance, wanted["number"], atol=1e-6)


def test_noise_that_wanders_does_not_beat_chance():
    beaten, naive = 0, 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        values = slow(random, (1500, 60))
        found = {"slow": slow(random, 1500) > 0}
        (result,) = rank(values, found, shifts=60, seed=seed)
        beaten += result.follows
        # What independent characters would allow: 5 standard deviations of the AUC.
        naive += result.best > 0.5 + 5 * np.sqrt(1 / (12 * 1500 * 0.25))
    assert beaten <= 2  # 30 / 61 are expected
    assert naive == 30


@pytest.mark.parametrize("sign", [1, -1])
def test_a_unit_that_follows_is_found_among_noise(sign):
    random = np.random.default_rng(3)
    values = slow(random, (2000, 200)).astype(np.float32)
    number = random.integers(0, 57, 2000)
    label = slow(random, 2000, keep=0.9) > 0
    values[:, 17] = sign * (label + 0.01 * random.normal(size=2000))
    values[:, 23] = sign * np.sqrt(number)
    binary, numeric = rank(values, {"label": label, "number": number}, shifts=50)
    assert binary.columns[0] == 17
    np.testing.assert_allclose(binary.values[0], 0.5 + sign / 2, atol=1e-6)
    np.testing.assert_allclose(binary.best, 1.0, atol=1e-6)
    assert binary.accuracies[0] == 1.0
    assert binary.follows
    assert numeric.columns[0] == 23
    np.testing.assert_allclose(numeric.values[0], sign, atol=1e-6)
    assert numeric.follows
    assert np.isnan(numeric.accuracies).all()


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.sampled_from([2, 1000]), st.sampled_from([np.float32, np.float64]))
def test_accuracy_by_trying_every_threshold(seed, coarse, dtype):
    random = np.random.default_rng(seed)
    label = random.random(90) < 0.4
    noisy = np.round((label * random.choice([-1, 1]) + random.normal(size=90)) * coarse) / coarse
    values = noisy.astype(dtype)
    first, second = slice(0, 45), slice(45, 90)

    def balanced(part, threshold, high):
        told = (values[part] > threshold) == high
        truth = label[part]
        return (told[truth].mean() + (~told[~truth]).mean()) / 2

    distinct = np.unique(values[first]).astype(np.float64)
    middles = (distinct[1:] + distinct[:-1]) / 2
    tried = {(m, high): balanced(first, m, high) for m in middles for high in (True, False)}
    best = max(tried.values())
    allowed = [balanced(second, *key) for key, v in tried.items() if np.isclose(v, best)]
    assert np.isclose(allowed, ranking.accuracy(values, label)).any()


def test_accuracy_is_of_the_half_that_did_not_choose():
    label = np.tile([True, False], 100)
    values = np.where(label, 1.0, -1.0)
    values[100:] *= -1
    assert ranking.accuracy(values, label) == 0.0
    assert ranking.accuracy(np.zeros(200), label) == 0.5


@pytest.mark.parametrize(("first", "second"), [(19, 30), (30, 19), (30, 81), (0, 0), (100, 100)])
def test_a_rare_label_is_not_ranked(first, second):
    label = np.zeros(200, bool)
    label[:first] = label[100 : 100 + second] = True
    values = np.random.default_rng(0).normal(size=(200, 3))
    for each in (label, 5 * label):
        (result,) = rank(values, {"rare": each})
        assert result.columns == ()
        assert not result.follows
        assert np.isnan(result.best)
    assert rank(values, {"numbers": np.arange(200) % 7 + first})[0].columns
    label[:20] = label[100:120] = True
    label[20:100] = label[120:] = False
    assert rank(values, {"enough": label})[0].columns
