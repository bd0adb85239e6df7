"""Vocabularies of sentences."""

import math

import pytest

from rnnlab.data import words
from rnnlab.errors import UsageError

TEXT = ["The cat sat on the mat.", "A dog's tail (brown), wagging!", "The café is far-off: 3 km."]


@pytest.mark.parametrize("level", words.LEVELS)
def test_a_sentence_comes_back(level):
    units = words.learn(TEXT, level=level, most=200)
    assert units.size <= 200
    for text in TEXT:
        tokens = units.encode(text)
        assert min(tokens) > words.UNKNOWN
        assert units.decode([*tokens, words.END, 9, 9]) == text
    again = words.from_json(units.stored)
    assert again.sha256 == units.sha256
    assert [again.encode(text) for text in TEXT] == [units.encode(text) for text in TEXT]
    assert (words.UNKNOWN in units.encode("☃")) == (level != "bpe")


def test_the_rarest_words_are_unknown():
    units = words.learn(["a a a b b c", "d"], level="word", most=6)
    assert units.symbols == (*words.SPECIAL, "a", "b")
    assert words.learn(["b a", "a"], level="word", most=99, rare=2).symbols[4:] == ("a",)
    assert units.encode("a c b") == [4, words.UNKNOWN, 5]


def test_padding_and_what_a_decoder_learns_by():
    batch = words.taught([[5, 6, 7], [8]], 5)
    assert batch["inputs"].T.tolist() == [[1, 5, 6, 7, 0], [1, 8, 0, 0, 0]]
    assert batch["targets"].T.tolist() == [[5, 6, 7, 2, 0], [8, 2, 0, 0, 0]]
    assert batch["weights"].sum(0).tolist() == [4, 2]
    assert words.padded([[5, 6], [7]], 3).T.tolist() == [[5, 6, 0], [7, 0, 0]]


def test_the_entropy_of_symbols():
    # Of a, a, b and two ends: 2/5, 1/5, 2/5.
    expected = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    assert words.entropy([[4, 4], [5]], 6) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"level": "syllable"}, "one of char, word, bpe"), ({"most": 4}, "at least 5 symbols")],
)
def test_bad_options(change, told):
    with pytest.raises(UsageError, match=told):
        words.learn(TEXT, **{"level": "word", "most": 50, **change})
    with pytest.raises(UsageError, match="no text"):
        words.learn([" "], level="bpe", most=50)


@pytest.mark.parametrize(
    "stored", [{}, [], {"level": "bpe", "model": "AAAA"}, {"level": "word", "symbols": [1]}]
)
def test_a_damaged_vocabulary_is_refused(stored):
    with pytest.raises(UsageError, match="damaged"):
        words.from_json(stored)
