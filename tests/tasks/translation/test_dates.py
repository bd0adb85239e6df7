"""Dates, read back by another program."""

import datetime
import re

import numpy as np

from rnnlab.data import draws
from rnnlab.tasks.translation import dates

TEXT = ["The cat sat on the mat.", "A dog's tail (brown), wagging!", "The café is far-off: 3 km."]


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
