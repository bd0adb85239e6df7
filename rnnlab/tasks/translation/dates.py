"""Dates as people write them, and as ISO 8601 does: a small translation whose answers are known."""

import datetime

from rnnlab.data.draws import Random

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ONES = (
    *("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
FIRST, LAST = datetime.date(1600, 1, 1), datetime.date(2100, 1, 1)  # LAST is not drawn
LONGEST = 60  # characters that no written date exceeds
ISO = 10  # characters of an answer


def drawn(random: Random) -> tuple[str, str]:
    """(a date as written, the same as YYYY-MM-DD). The days from 1600 to 2099 are equally probable,
    and so are the nine ways to write one."""
    span = (LAST - FIRST).days
    day = FIRST + datetime.timedelta(days=int(random.integers(0, span, (1,))[0]))
    style = int(random.integers(0, len(STYLES), (1,))[0])
    return STYLES[style](day), day.isoformat()


def below_100(number: int) -> str:
    """A number from 1 to 99 in words."""
    if number < len(ONES):
        return ONES[number]
    return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")


def year_in_words(year: int) -> str:
    """ "nineteen eighty-four", "nineteen oh four", "nineteen hundred", "two thousand and four"."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return "two thousand" + (f" and {ONES[rest]}" if rest else "")
    if not rest:
        return f"{below_100(century)} hundred"
    return f"{below_100(century)} {'oh ' if rest < 10 else ''}{below_100(rest)}"


def ordinal(day: int) -> str:
    """ "1st", "2nd", "3rd", "4th" ..."""
    if day % 100 in (11, 12, 13):
        return f"{day}th"
    return f"{day}{({1: 'st', 2: 'nd', 3: 'rd'}).get(day % 10, 'th')}"


_IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth"}
_IRREGULAR |= {"eight": "eighth", "nine": "ninth", "twelve": "twelfth"}


def ordinal_in_words(day: int) -> str:
    """ "first", "twenty-second", "thirtieth" ..."""
    head, dash, last = below_100(day).rpartition("-")
    last = _IRREGULAR.get(last) or (f"{last[:-1]}ieth" if last[-1] == "y" else f"{last}th")
    return head + dash + last


STYLES = (
    lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    lambda d: f"{d.day} {MONTHS[d.month - 1][:3].lower()} {d.year}",
    lambda d: f"the {ordinal(d.day)} of {MONTHS[d.month - 1]} {d.year}",
    lambda d: f"{DAYS[d.weekday()]}, {MONTHS[d.month - 1]} {ordinal(d.day)}, {d.year}",
    lambda d: (
        f"{DAYS[d.weekday()][:3]} {d.day} {MONTHS[d.month - 1]} '{d.year % 100:02} ({d.year})"
    ),
    lambda d: f"{ordinal_in_words(d.day)} of {MONTHS[d.month - 1]} {year_in_words(d.year)}",
    lambda d: f"{MONTHS[d.month - 1]} the {ordinal_in_words(d.day)}, {year_in_words(d.year)}",
)
