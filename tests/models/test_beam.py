"""Beam search against all that can be said, and greedy search against a loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.models import beam

V, T, END = 4, 4, 3


def chain(seed):
    """(advance, state [2, 5], first): a small random network whose next symbol depends on all before."""
    keys = jax.random.split(jax.random.key(seed), 4)
    embed, mix, read = (
        jax.random.normal(k, s) * 1.5 for k, s in zip(keys, [(V, 5), (5, 5), (5, V)], strict=False)
    )

    def advance(state, token):
        state = jnp.tanh(state @ mix + embed[token])
        return state, jax.nn.log_softmax(state @ read)

    return advance, jax.random.normal(keys[3], (2, 5)), jnp.array([0, 2])


def score_of(advance, state, first, tokens, end):
    """Log-probability of `tokens` after one row's state, up to and with `end`."""
    total, state, token = 0.0, state[None], first[None]
    for chosen in tokens:
        state, logs = advance(state, token)
        total += float(logs[0, chosen])
        if chosen == end:
            break
        token = jnp.array([chosen])
    return total


def everything(advance, state, first, end):
    """Every continuation of at most T symbols with its score, best first."""
    found = {}
    for tokens in itertools.product(range(V), repeat=T):
        if end in tokens:
            tokens = tokens[: tokens.index(end) + 1]
        if tokens not in found:
            found[tokens] = score_of(advance, state, first, tokens, end)
    return sorted(found.items(), key=lambda pair: -pair[1])


@pytest.mark.parametrize("end", [END, None])
def test_a_wide_beam_is_exact(end):
    advance, state, first = chain(1)
    found = beam.search(advance, state, first, length=T, width=V ** (T - 1), end=end)
    for row in range(2):
        best = everything(advance, state[row], first[row], end)[:5]
        for place, (tokens, score) in enumerate(best):
            count = int(found.lengths[row, place])
            assert tuple(np.asarray(found.tokens[row, place])[:count]) == tokens
            assert set(np.asarray(found.tokens[row, place])[count:]) <= {end}
            np.testing.assert_allclose(found.scores[row, place], score, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_scores_are_the_models_own_and_a_beam_of_one_is_greedy(width):
    advance, state, first = chain(2)
    found = beam.search(advance, state, first, length=6, width=width, end=END)
    for row in range(2):
        for place in range(width):
            tokens = np.asarray(found.tokens[row, place])[: int(found.lengths[row, place])]
            expected = score_of(advance, state[row], first[row], tokens, END)
            np.testing.assert_allclose(found.scores[row, place], expected, rtol=1e-5)
        assert (np.diff(np.asarray(found.scores[row])) <= 0).all()
        if width == 1:
            here, token, said = state[row][None], first[row][None], []
            while len(said) < 6 and (not said or said[-1] != END):
                here, logs = advance(here, token)
                token = logs.argmax(-1)
                said.append(int(token[0]))
            assert list(np.asarray(found.tokens[row, 0])[: len(said)]) == said


def test_rows_do_not_know_of_each_other():
    advance, state, first = chain(3)
    both = beam.search(advance, state, first, length=5, width=3, end=END)
    for row in range(2):
        one = beam.search(
            advance, state[row : row + 1], first[row : row + 1], length=5, width=3, end=END
        )
        np.testing.assert_array_equal(both.tokens[row], one.tokens[0])
        np.testing.assert_allclose(both.scores[row], one.scores[0], rtol=1e-6)


def test_a_penalty_ranks_by_the_score_over_the_length():
    # p(end) = 0.4 at once; else symbol 0, then end for sure: the mean per symbol favours the longer.
    logs = jnp.log(jnp.array([[0.6, 1e-9, 1e-9, 0.4], [1e-9, 1e-9, 1e-9, 1.0]]))

    def advance(state, token):
        return jnp.minimum(state + 1, 1), logs[state[:, 0]]

    start, first = jnp.zeros((1, 1), jnp.int32), jnp.array([1])
    plain = beam.search(advance, start, first, length=3, width=2, end=END)
    assert [int(n) for n in plain.lengths[0]] == [2, 1]  # 0.6 beats 0.4
    shorter = jnp.log(jnp.array([[0.4, 1e-9, 1e-9, 0.6], [1e-9, 1e-9, 1e-9, 1.0]]))

    def other(state, token):
        return jnp.minimum(state + 1, 1), shorter[state[:, 0]]

    assert int(beam.search(other, start, first, length=3, width=2, end=END).lengths[0, 0]) == 1
    ranked = beam.search(other, start, first, length=3, width=2, end=END, penalty=5.0)
    assert int(ranked.lengths[0, 0]) == 2
    np.testing.assert_allclose(ranked.scores[0, 0], np.log(0.4), rtol=1e-5)  # and the score is bare
