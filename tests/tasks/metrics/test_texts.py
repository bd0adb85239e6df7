"""Scores of texts, by cases that a hand can compute."""

import math

import pytest

from rnnlab.tasks.metrics.texts import (
    best_constant,
    bleu,
    caption_scores,
    error_rates,
    exact_matches,
)


def test_bleu_is_that_of_sacrebleu():
    assert bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) > 99.9
    assert bleu(["a dog"], ["the cat sat on the mat"]) < 10


def test_overlap_is_bleu_and_rouge_of_the_words():
    truths = [("a dog runs", "the brown dog is running fast"), ("two men",)]
    full = caption_scores(["a dog runs", "two men"], truths)
    assert full["bleu1"] == pytest.approx(100)
    assert full["rouge_l"] == pytest.approx(100)
    # Clipped unigrams: a, dog of (a dog dog) and two of (two); 3 of 4. The lengths, 4, are nearest to
    # 3 and 2: a brevity penalty of exp(1 - 5/4).
    found = caption_scores(["a dog dog", "two"], truths)
    assert found["bleu1"] == pytest.approx(100 * math.exp(1 - 5 / 4) * 3 / 4)
    # and of the bigrams "a dog", "dog dog" one of two
    assert found["bleu2"] == pytest.approx(100 * math.exp(1 - 5 / 4) * math.sqrt(3 / 4 * 1 / 2))
    # Longest common subsequences: 2 of 3 and 3; 1 of 1 and 2
    assert found["rouge_l"] == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert exact_matches(["a b", "c"], [("x", "a b"), ("d",)]) == 0.5


def test_errors_by_hand():
    found = error_rates(["SOS", "A DOG"], ["SOS", "A CAT X"], ("cer", "wer"))
    # D for C, O for A, G for T, and " X" is missing: 5 of 10 characters; 2 of 4 words.
    assert found == {"cer": 0.5, "wer": 0.5}
    assert error_rates(["", "1 2"], ["3", "1 2"], ("wer",)) == {"wer": pytest.approx(1 / 3)}


def test_the_constant_text_that_errs_least():
    assert best_constant(["1 2", "1 3", "1 2 4"], "wer", " ") == ("1 2", pytest.approx(2 / 7))
    assert best_constant(["AB", "C"], "cer", "") == ("A", pytest.approx(2 / 3))
    assert best_constant(["A", "B", "C"], "cer", "")[1] == pytest.approx(2 / 3)
