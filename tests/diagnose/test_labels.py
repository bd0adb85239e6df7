"""Labels of a text against their definitions, prefix by prefix."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rnnlab.diagnose import labels

# Few characters, so that what matters to a reader meets; a word of each case, and prefixes.
TEXTS = st.lists(
    st.sampled_from([*"()[]{}\"'#\\\n \t", '"""', "\n\n", "a", "r", "B", "Xy", "AB", "é9_", "ß"]),
    max_size=40,
).map("".join)
MANY = settings(max_examples=300)


def marks(text, name):
    """The text's characters where the label holds, all others as dots."""
    return "".join(c if on else "." for c, on in zip(text, labels.of(text)[name], strict=True))


# The definitions, looked up in the text read so far


def unescaped(text, start, at):
    """Whether an even number of backslashes stands before `at`, in what follows `start`."""
    run = re.search(r"\\*\Z", text[start + 1 : at]).group()
    return len(run) % 2 == 0


def end_of(text, start, kind):
    """(first index inside, index after the region) that `kind` opened at `start`; None: no end."""
    inside = start + len(kind)
    for j in range(inside, len(text)):
        quote = unescaped(text, inside - 1, j)
        if kind == "#" and text[j] == "\n":
            return j
        if kind == "'":
            between = re.match(r"\w'\w", text[j - 1 : j + 2])
            if text[j] == "\n" or (text[j] == "'" and quote and not between):
                return j
        if kind == '"' and (
            (text[j] == '"' and quote) or text[inside:][: j - inside + 1][-2:] == "\n\n"
        ):
            return j
        three = text[j - 2 : j + 1] == '"""' and j - 2 >= inside
        if kind == '"""' and three and unescaped(text, inside - 1, j - 2):
            return j
    return None


def last_region(text):
    """(kind, what is inside so far, all that is outside): where a reader of `text` has come to."""
    i, outside = 0, ""
    while i < len(text):
        kind = ""
        if text.startswith('"""', i):
            kind = '"""'
        elif text[i] in '#"':
            kind = text[i]
        elif text[i] == "'":
            word = re.search(r"\w*\Z", text[:i]).group()
            if word.lower() in ("", "r", "b", "u", "f", "br", "rb", "fr", "rf"):
                kind = "'"
        if kind:
            end = end_of(text, i, kind)
            if end is None:
                return kind, text[i:], outside
            outside += text[end] * (text[end] == "\n")
            # An empty line that ends a quote is one outside as well.
            outside += "\n" * (kind == '"' and text[end] == "\n")
            i = end + 1
        else:
            outside += text[i]
            i += 1
    return "", "", outside


def unclosed(text, left, right, lasting):
    if not lasting:
        text = text[text.rfind("\n\n") + 1 :] if "\n\n" in text else text
    for i, c in enumerate(text):
        if c == left:
            balance = np.cumsum([(d == left) - (d == right) for d in text[i:]])
            if balance.min() >= 1:
                return True
    return False


@MANY
@given(TEXTS)
@example("'don't (b' c)")
@example('x = f("a\\"b", r\'(\', u"""(\n\n" ") """) # (\' "\n()')
@example('"""a\\"""" """"""')
@example('("\n\n)')
def test_regions_and_brackets_by_looking_back(text):
    found = labels.of(text)
    for t in range(len(text)):
        kind, inside, outside = last_region(text[: t + 1])
        assert found["inside double quotes"][t] == (kind[:1] == '"')
        assert found["inside single quotes"][t] == (kind == "'")
        assert found["inside a comment"][t] == (kind == "#")
        for name, (left, right) in {"parentheses": "()", "brackets": "[]", "braces": "{}"}.items():
            lasting = name == "braces"
            wanted = unclosed(inside, left, right, lasting) or unclosed(
                outside, left, right, lasting
            )
            assert found[f"inside {name}"][t] == wanted, (t, name)


@MANY
@given(st.one_of(TEXTS, st.text(max_size=40)))
def test_words_and_lines_by_looking_back(text):
    found = labels.of(text)
    for t in range(len(text)):
        read = text[: t + 1]
        line = read.rpartition("\n")[2]
        assert found["position in the line"][t] == len(line)
        blank = re.match(r"[ \t]*", line).group()
        assert found["indentation"][t] == len(blank.expandtabs(8))
        assert found["word boundary"][t] == (t in [m.start() for m in re.finditer(r"\b", read)])
        word = re.search(r"\w*\Z", read).group()
        capitals = sum(c.isupper() for c in word)
        assert found["upper-case word"][t] == (capitals > 1 and not any(c.islower() for c in word))


@MANY
@given(TEXTS)
def test_every_label_is_causal(text):
    found = labels.of(text)
    for t in range(len(text) + 1):
        for name, values in labels.of(text[:t]).items():
            np.testing.assert_array_equal(values, found[name][:t], err_msg=name)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("inside double quotes", 'a "b" c', '.."b...'),
        ("inside double quotes", '"""a "b"\n\n""" c', '"."a "b"\n\n""...'),
        ("inside double quotes", 'a "b\nc\n\nd', '.."b\nc\n..'),
        ("inside single quotes", "don't 'a' dogs' b", "......'a........."),
        ("inside single quotes", "'I don't' x", "'I don.t..."),
        ("inside single quotes", "b'(' c'd", ".'(....."),
        ("inside parentheses", "f(a(b)c)) d(", ".(a(b)c....("),
        ("inside parentheses", 'f(")") g', '.(")"...'),
        ("inside braces", "{\n\n}", "{\n\n."),
        ("inside brackets", "[\n\n]", "[\n.."),
        ("inside a comment", "a # b '\nc '#'", "..# b '......"),
        ("upper-case word", "NASA Abc A_B x", ".ASA.......B.."),
        ("word boundary", "ab, c", "a.,.c"),
    ],
)
def test_by_hand(name, text, wanted):
    assert marks(text, name) == wanted


def test_an_empty_text():
    for values in labels.of("").values():
        assert values.shape == (0,)
