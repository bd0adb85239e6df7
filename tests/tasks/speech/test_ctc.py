"""CTC against the sum over all paths, written out."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.data.draws import Random
from rnnlab.tasks.speech import ctc


def drawn(time, symbols, seed=0, spread=1.0):
    return ctc.log_softmax(spread * Random(seed, 0).normal((time, symbols)))


def enumerated(log_probs):
    """labelling -> ln p, from every path; what a path spells is told by its runs."""
    found = {}
    time, symbols = log_probs.shape
    for path in itertools.product(range(symbols), repeat=time):
        runs = tuple(symbol for symbol, _ in itertools.groupby(path))
        label = tuple(symbol for symbol in runs if symbol != 0)
        found[label] = found.get(label, 0.0) + math.exp(sum(log_probs[range(time), path]))
    return {label: math.log(p) for label, p in found.items()}


def padded(labels):
    lengths = np.array([len(label) for label in labels], np.int32)
    table = np.zeros((max(1, lengths.max()), len(labels)), np.int32)
    for row, label in enumerate(labels):
        table[: len(label), row] = label
    return table, lengths


def test_what_a_path_spells():
    assert ctc.spelled(np.array([0, 1, 1, 0, 1, 2])) == [1, 1, 2]
    assert ctc.spelled(np.array([2, 2, 2])) == [2]
    assert ctc.spelled(np.array([0, 0])) == []
    assert ctc.spelled(np.zeros(0, int)) == []


def test_the_frames_that_labels_need():
    for label in itertools.product((1, 2), repeat=4):
        shortest = next(
            time
            for time in range(4, 8)
            if any(
                tuple(ctc.spelled(np.array(path))) == label
                for path in itertools.product(range(3), repeat=time)
            )
        )
        assert ctc.needed(np.array(label)) == shortest
    assert ctc.needed(np.zeros(0, int)) == 0


def total(logits, lengths, labels, count):
    losses = ctc.loss(logits, lengths, labels, count)
    return losses.sum(), losses


sloped = jax.jit(jax.value_and_grad(total, has_aux=True))


def test_the_loss_is_the_sum_over_all_paths_and_knows_no_padding():
    """Of every labelling of 5 frames over 2 symbols and the blank, with 2 frames and 1 label more
    than there are, whatever they hold."""
    log_probs = drawn(5, 3)
    expected = enumerated(log_probs)
    assert math.fsum(map(math.exp, expected.values())) == pytest.approx(1.0)
    labels, count = padded(list(expected))
    rows, slopes = len(expected), []
    for filled, label in ((0.0, 0), (np.nan, 2)):
        logits = np.full((7, rows, 3), [filled, -filled, 0.0], np.float32)
        logits[:5] = log_probs[:, None] + 3.0
        there = np.arange(6)[:, None] < count
        more = np.where(there, np.pad(labels, ((0, 1), (0, 0))), label)
        (_, found), slope = sloped(logits, np.full(rows, 5), more, count)
        np.testing.assert_allclose(found, [-p for p in expected.values()], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(slope[5:], 0.0)
        assert np.abs(slope[:5]).max() > 0.1
        slopes.append(slope)
    np.testing.assert_array_equal(*slopes)


def test_too_few_frames_have_no_path():
    logits, labels = jnp.zeros((2, 2, 3)), np.array([[1, 1], [1, 2]])
    found = jax.jit(ctc.loss)(logits, np.array([2, 2]), labels, np.array([2, 2]))
    assert found[0] >= 1e5
    assert found[1] == pytest.approx(2 * math.log(3), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_every_labelling_and_its_probability(seed):
    log_probs = drawn(5, 3, seed=seed)
    expected = enumerated(log_probs)
    found = ctc.beam(log_probs, width=1000)
    assert {tuple(label): p for label, p in found} == pytest.approx(expected)
    assert [p for _, p in found] == pytest.approx(sorted(expected.values(), reverse=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_sums_some_of_the_paths(seed):
    log_probs = drawn(5, 4, seed=10 + seed)
    expected = enumerated(log_probs)
    last = -math.inf
    for width in (1, 4, 16, 2000):
        found = ctc.beam(log_probs, width)
        assert len(found) <= width
        assert len({tuple(label) for label, _ in found}) == len(found)
        for label, p in found:
            assert p <= expected[tuple(label)] + 1e-9
        assert found[0][1] >= last - 1e-9 or width < 2000
        last = found[0][1]
    assert tuple(found[0][0]) == max(expected, key=expected.__getitem__)


def test_its_scores_are_the_losses_of_the_model():
    """At a length where paths are too many to list."""
    log_probs = drawn(30, 5, seed=3, spread=8.0)
    found = ctc.beam(log_probs, width=300)[:10]
    labels, lengths = padded([label for label, _ in found])
    logits = jnp.repeat(jnp.asarray(log_probs, jnp.float32)[:, None], len(found), axis=1)
    losses = jax.jit(ctc.loss)(logits, jnp.full(len(found), 30), labels, lengths)
    np.testing.assert_allclose([-p for _, p in found], losses, rtol=2e-3)


@settings(max_examples=200)
@given(
    path=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    seed=st.integers(0, 10**6),
)
def test_a_width_of_one_is_greedy_where_frames_are_sure(path, seed):
    random = Random(seed, 0)
    sure = 2**-0.5 + 1e-3 + (1 - 2**-0.5 - 2e-3) * random.uniform((len(path),))
    rest = random.uniform((len(path), 3)) + 1e-3
    rest[np.arange(len(path)), path] = 0.0
    probs = rest / rest.sum(1, keepdims=True) * (1 - sure)[:, None]
    probs[np.arange(len(path)), path] = sure
    log_probs = np.log(probs)
    assert ctc.greedy(log_probs) == ctc.spelled(np.array(path))
    assert ctc.beam(log_probs, 1)[0][0] == ctc.greedy(log_probs)


def test_a_width_of_one_sums_paths_where_greedy_does_not():
    log_probs = np.log([[0.0 + 1e-9, 1.0 - 2e-9, 1e-9], [0.3, 0.3, 0.4]])
    assert ctc.greedy(log_probs) == [1, 2]
    assert ctc.beam(log_probs, 1)[0][0] == [1]


def test_the_best_path_is_not_the_best_labelling():
    """Graves 2012, figure 7.6: blank 0.7 and 0.6, the best path is all blanks, with 0.42."""
    log_probs = np.log([[0.7, 0.3], [0.6, 0.4]])
    assert ctc.greedy(log_probs) == []
    label, p = ctc.beam(log_probs, 10)[0]
    assert label == [1]
    assert math.exp(p) == pytest.approx(0.58)


def test_an_impossible_symbol_is_never_written():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    found = ctc.beam(log_probs, 10)
    assert [label for label, _ in found] == [[1]]
    assert math.exp(found[0][1]) == pytest.approx(1.0)


def test_no_frames_spell_nothing():
    assert ctc.beam(np.zeros((0, 3)), 4) == [([], 0.0)]
    assert ctc.greedy(np.zeros((0, 3))) == []
