"""Vocabularies of sentences, and dates read back by another program."""

import datetime
import math
import re

import numpy as np
import pytest

from rnnlab.data import draws, words
from rnnlab.errors import UsageError
from rnnlab.tasks.translation import dates

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
    assert words.UNKNOWN in units.encode("☃")


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


# ---- dates


NUMBERS = {name: n for n, name in enumerate(dates.ONES)} | {
    name: 10 * n for n, name in enumerate(dates.TENS)
}


def number(text):
    """Of "twenty-third", "nineteen", "first" ..."""
    irregular = {"first": "one", "second": "two", "third": "three", "fifth": "five"}
    irregular |= {"eighth": "eight", "ninth": "nine", "twelfth": "twelve"}
    total = 0
    for word in text.split("-"):
        word = irregular.get(word, word)
        if word not in NUMBERS:
            word = re.sub("ieth$", "y", word)
            word = re.sub("th$", "", word)
        total += NUMBERS[word]
    return total


def read(text):
    """The date that a person reads in `text`."""
    if match := re.fullmatch(r"(\d\d)\.(\d\d)\.(\d{4})", text):
        return datetime.date(int(match[3]), int(match[2]), int(match[1]))
    months = [
        n
        for n, name in enumerate(dates.MONTHS, start=1)
        if re.search(rf"\b({name}|{name[:3].lower()})\b", text)
    ]
    assert len(months) == 1, text
    if year := re.search(r"\d{4}", text):
        day = re.search(r"\b(\d{1,2})(st|nd|rd|th)?\b(?!\d)", text)
        return datetime.date(int(year[0]), months[0], int(day[1]))
    if match := re.fullmatch(r"(\S+) of \w+ (.*)", text):
        day, year = match.groups()
    else:
        day, year = re.fullmatch(r"\w+ the (\S+), (.*)", text).groups()
    parts = year.replace(" and ", " ").replace(" oh ", " ").split()
    if parts[1:2] == ["thousand"]:
        value = 1000 * number(parts[0]) + sum(map(number, parts[2:]))
    elif parts[1:2] == ["hundred"]:
        value = 100 * number(parts[0])
    else:
        value = 100 * number(parts[0]) + number(parts[1])
    return datetime.date(value, months[0], number(day))


def test_a_date_says_what_its_answer_does():
    styles = set()
    for n in range(3000):
        text, answer = dates.drawn(draws.Random(3, draws.TRAIN, n))
        assert len(text) < dates.LONGEST
        assert len(answer) == dates.ISO
        assert read(text).isoformat() == answer
        styles.add(re.sub(r"[A-Za-z]+", "x", re.sub(r"\d+", "9", text)))
        weekday = [day for day in dates.DAYS if re.match(rf"{day}|{day[:3]} ", text)]
        if weekday:
            assert dates.DAYS[datetime.date.fromisoformat(answer).weekday()] == weekday[0]
    assert len(styles) >= len(dates.STYLES)
    longest = max(
        len(style(datetime.date(2099, 1, 1) - datetime.timedelta(days=n)))
        for style in dates.STYLES
        for n in range(0, 180000, 7)
    )
    assert longest < dates.LONGEST


def test_each_date_is_a_function_of_its_number():
    drawn = [dates.drawn(draws.Random(1, draws.TRAIN, n)) for n in range(50)]
    assert drawn == [dates.drawn(draws.Random(1, draws.TRAIN, n)) for n in range(50)]
    assert len(set(drawn)) == 50
    years = np.array([int(answer[:4]) for _, answer in drawn])
    assert years.min() < 1750
    assert years.max() > 1950
