"""What a reader of a text knows at each character: probes for the units of a character model.

Every label is causal: its value at a character follows from the text up to and including that
character, as what the state of a model may hold. Before the text all is closed, and a line begins.

The text is read in regions. Outside of any, one is opened by

    #     a comment, that ends before the newline
    "     a double quote, that ends with the next " or with an empty line (two newlines in a row)
    three " in a row, that end with three " in a row and with nothing else
    '     a single quote, that ends with the next ' or with the newline

and within a region no other is opened. A backslash within quotes takes its meaning from the next
character, but for a newline. A ' directly after a word is an apostrophe, unless that word is a string
prefix of Python (r, b, u, f and their pairs); nor does a ' between word characters close a quote, so
that after the first ' of 'don't know' a reader takes the second for the end until he reads the t.

Word characters are letters, digits and the underscore.
"""

import re
from typing import NamedTuple

import numpy as np

PREFIX = re.compile(r"(?:[rbuf]|br|rb|fr|rf)\Z", re.IGNORECASE)
BRACKETS = {"parentheses": "()", "brackets": "[]", "braces": "{}"}
LASTING = "braces"  # no empty line closes them: in C they hold the functions
TAB = 8  # columns between tab stops


class Region(NamedTuple):
    """Where a reader is."""

    kind: str = ""  # what opened it: "", "#", "'", '"' or three of these
    start: int = -1  # the index of the character that opened it


OUTSIDE = Region()


def of(text: str) -> dict[str, np.ndarray]:
    """The labels of `text`: name -> bool [T], or int [T] for a number.

    inside double quotes, inside single quotes, inside a comment: by the region the reader is in; the
        character that opens one is inside, that which closes it is not.
    inside parentheses, inside brackets, inside braces: more have been opened than closed, where one
        too many that is closed counts for nothing. Those opened within a region are forgotten at its
        end, and do not mix with those outside it. An empty line closes parentheses and brackets.
    upper-case word: the word so far, this character included, has at least two upper-case letters
        and no lower-case one.
    word boundary: of this character and the one before, one is a word character.
    position in the line: the number of characters since the newline, which itself is at 0.
    indentation: the columns of spaces and tabs that the line has begun with so far, with tab stops
        every 8 columns; 0 at the newline.
    """
    where = regions(text)
    kinds = np.array([region.kind[:1] for region in where], "<U1")
    position, indentation = _lines(text)
    upper, boundary = _words(text)
    return {
        "inside double quotes": kinds == '"',
        "inside single quotes": kinds == "'",
        **{f"inside {name}": depth > 0 for name, depth in _depths(text, where).items()},
        "inside a comment": kinds == "#",
        "upper-case word": upper,
        "word boundary": boundary,
        "position in the line": position,
        "indentation": indentation,
    }


def is_word(character: str) -> bool:
    """Whether it is a letter, a digit or the underscore."""
    return character.isalnum() or character == "_"


def regions(text: str) -> list[Region]:
    """The region a reader is in after each character."""
    found: list[Region] = []
    region, ended = OUTSIDE, OUTSIDE  # the latter: what the last character has ended, if it did
    escaped, quotes, word = False, 0, ""
    for t, c in enumerate(text):
        before, left, ended = text[t - 1 : t], ended, OUTSIDE
        if left.kind == "'" and before == "'" and is_word(text[t - 2]) and is_word(c):
            region = left  # that was an apostrophe
        if not region.kind:
            if c == '"' and left == Region('"', t - 2) and before == '"':
                region, quotes = Region('"""', t), 0
            elif c in '#"' or (c == "'" and (not word or PREFIX.match(word))):
                region = Region(c, t)
            escaped = False
        elif (c == "\n" and region.kind in "#'") or (c + before == "\n\n" and region.kind == '"'):
            region, ended = OUTSIDE, region
        elif escaped or (c == "\\" and region.kind != "#"):
            escaped, quotes = not escaped, 0
        elif region.kind == '"""':
            quotes = quotes + 1 if c == '"' else 0
            region = OUTSIDE if quotes == 3 else region
        elif c == region.kind != "#":
            region, ended = OUTSIDE, region
        word = word + c if is_word(c) else ""
        found.append(region)
    return found


def _depths(text: str, where: list[Region]) -> dict[str, np.ndarray]:
    found = {}
    for name, (left, right) in BRACKETS.items():
        depths, open_in = np.zeros(len(text), int), {OUTSIDE: 0}
        inner, before = OUTSIDE, ""
        for t, (c, region) in enumerate(zip(text, where, strict=True)):
            if region not in open_in:  # a new region; the one that was is needed no longer
                open_in = {OUTSIDE: open_in[OUTSIDE], region: 0}
                inner = region
            depth = open_in[region] + (c == left) - (c == right)
            empty_line = before == c == "\n" and name != LASTING
            open_in[region] = 0 if empty_line else max(0, depth)
            depths[t] = open_in[OUTSIDE] + (open_in[inner] if region.kind else 0)
            before = c
        found[name] = depths
    return found


def _lines(text: str) -> tuple[np.ndarray, np.ndarray]:
    position, indentation = np.zeros(len(text), int), np.zeros(len(text), int)
    place, columns, leading = 0, 0, True
    for t, c in enumerate(text):
        place += 1
        if c == "\n":
            place, columns, leading = 0, 0, True
        elif leading and c in " \t":
            columns += 1 if c == " " else TAB - columns % TAB
        else:
            leading = False
        position[t], indentation[t] = place, columns
    return position, indentation


def _words(text: str) -> tuple[np.ndarray, np.ndarray]:
    upper, boundary = np.zeros(len(text), bool), np.zeros(len(text), bool)
    inside, capitals, lower = False, 0, False
    for t, c in enumerate(text):
        boundary[t] = is_word(c) != inside
        if boundary[t]:
            inside, capitals, lower = not inside, 0, False
        capitals, lower = capitals + c.isupper(), lower or c.islower()
        upper[t] = inside and capitals >= 2 and not lower
    return upper, boundary
