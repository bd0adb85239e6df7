"""Counting: n-gram models, and what of a text was copied."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.errors import UsageError
from rnnlab.tasks.language_model import ngrams


def witten_bell(text: list[int], context: list[int], size: int, places: int) -> np.ndarray:
    """The definition, of what begins at the first `places` of the text."""
    n = len(context)
    below = witten_bell(text, context[1:], size, places) if n else np.full(size, 1.0 / size)
    after = [text[i + n] for i in range(places) if text[i : i + n] == context]
    counts = np.bincount(after, minlength=size)
    kinds = np.count_nonzero(counts)
    return (counts + kinds * below) / (len(after) + kinds) if after else below


@given(st.data())
def test_the_n_gram_model_is_that_of_witten_and_bell(data):
    size = data.draw(st.integers(2, 5))
    symbols = st.integers(0, size - 1)
    text = data.draw(st.lists(symbols, min_size=70, max_size=90))
    model = ngrams.count(np.array(text), size=size)
    n = data.draw(st.integers(0, 5))
    contexts = data.draw(
        st.lists(st.lists(symbols, min_size=n, max_size=n), min_size=2, max_size=2)
    )
    found = ngrams.probabilities(model, np.array(contexts, np.int64).reshape(2, n).T)
    places = len(text) - model.highest + 1
    for row, context in zip(found, contexts, strict=True):
        assert row.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(row, witten_bell(text, context, size, places), rtol=1e-12)


def test_an_n_gram_model_by_hand():
    # a b a c a b a c ...: after "a" b and c, equally often; after "b" always a.
    text = np.tile([0, 1, 0, 2], 100)
    model = ngrams.count(text, size=4)
    assert model.highest == 31
    ones = ngrams.probabilities(model, np.zeros((0, 1), np.int64))[0]
    pairs = ngrams.probabilities(model, np.array([[0, 1, 3]]))
    seen = len(text) - model.highest + 1  # keys
    np.testing.assert_allclose(
        ones[3], 3 / 4 / (seen + 3), rtol=1e-9
    )  # never seen: what the three kinds leave
    assert pairs[0, 1] == pytest.approx(0.5, abs=0.01)
    assert pairs[1, 0] > 0.98
    np.testing.assert_allclose(pairs[2], ones)  # an unseen context has nothing to add
    places = np.arange(200, 300)
    assert ngrams.nats(model, text, places, order=3) < ngrams.nats(model, text, places, order=1)
    with pytest.raises(ValueError, match="at most 31"):
        ngrams.probabilities(model, np.zeros((31, 1), np.int64))
    with pytest.raises(UsageError, match="too short"):
        ngrams.count(text[:30], size=4)


def test_an_n_gram_model_writes_the_same_again_and_each_text_by_itself():
    text = np.random.default_rng(0).integers(0, 5, 400)
    model = ngrams.count(text, size=5)
    options = {"order": 3, "length": 30, "temperature": 1.0}
    first = np.zeros((2, 4), np.int64)
    found = ngrams.generate(model, first, seed=1, **options)
    assert found.shape == (32, 4)
    np.testing.assert_array_equal(found, ngrams.generate(model, first, seed=1, **options))
    np.testing.assert_array_equal(
        found[:, :2], ngrams.generate(model, first[:, :2], seed=1, **options)
    )
    assert (found != ngrams.generate(model, first, seed=2, **options)).any()
    assert len({tuple(column) for column in found.T}) == 4
    greedy = ngrams.generate(model, first, seed=1, **{**options, "temperature": 0.0})
    assert (greedy == greedy[:, :1]).all()


@given(st.text("ab", max_size=60), st.text("abc", max_size=30), st.sampled_from([1, 3, 100]))
def test_what_was_copied_is_found(text, other, depth):
    found = ngrams.matches(ngrams.index(text, depth=depth), other)
    for i, length in enumerate(found):
        longest = max(n for n in range(len(other) - i + 1) if other[i : i + n] in text)
        assert length == min(longest, depth)


def test_the_share_of_new_n_grams():
    found = ngrams.matches(ngrams.index("abcdef", depth=9), "abcxdef")
    np.testing.assert_array_equal(found, [3, 2, 1, 0, 3, 2, 1])
    assert ngrams.novel([found], 1) == pytest.approx(1 / 7)
    assert ngrams.novel([found], 3) == pytest.approx(3 / 5)
    assert ngrams.novel([found, found[:2]], 3) == pytest.approx(3 / 5)
    assert np.isnan(ngrams.novel([found], 8))
