"""Byte-pair encoding: whatever a line is, what is decoded is what was encoded."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rnnlab.data import bpe, words
from rnnlab.errors import UsageError

TEXT = [
    "The cat sat on the mat.",
    "A dog's tail (brown), wagging!",
    "हिन्दी  und Käse",
    "三つ の 桃",
]
OWN = "▁▅⁇\0\t\n\r\x85\u2028\u3000\xa0\ufeff \U000f0000\U000f000f\U000f0010é☃"
SPELT = "<pad> <begin> <s> </s> <unk> <0x41> <0x0A> ⁇ ▁the"
lines = st.one_of(
    st.text(),
    st.text(alphabet=OWN),
    st.text(alphabet="the cat ▁"),
    st.lists(st.sampled_from([*TEXT, *SPELT.split(), " ", "  ", "\t"])).map("".join),
)


@pytest.fixture(scope="module", params=["small", "large", "blanks", "long"])
def units(request):
    known = {
        "small": (TEXT, 24),  # room for hardly a character
        "large": (TEXT * 3, 300),
        "blanks": (["  a  b   c ", " \t ", "x\0y", "▁▁"], 60),
        "long": ([" ".join(TEXT) * 400, "ab" * 70_000], 200),
    }[request.param]
    return words.learn(known[0], level="bpe", most=known[1])


@given(lines)
@example("")
@example(" ")
@example("  two  blanks, and one behind ")
@example(OWN)
@example(SPELT)
@example("e\u0301 is not \u00e9")
def test_what_is_decoded_is_what_was_encoded(units, line):
    tokens = units.encode(line)
    assert units.decode(tokens) == line
    assert units.decode([words.BEGIN, *tokens, words.END, 5, 5]) == line
    assert all(words.UNKNOWN < token < units.size for token in tokens)


def test_a_vocabulary_is_restored(units):
    again = words.from_json(units.stored)
    assert again.sha256 == units.sha256
    for line in (*TEXT, OWN, SPELT):
        assert again.encode(line) == units.encode(line)
        assert again.decode(again.encode(line)) == line


def test_long_lines_are_learned_from():
    """One line without an end has the pieces of the same words on lines of their own."""
    sentence = "the cat and the dog and the bird and the cat"
    apart = words.learn([sentence] * 500, level="bpe", most=60)
    joined = words.learn([" ".join([sentence] * 500)], level="bpe", most=60)
    assert set(apart.symbols) == set(joined.symbols)
    assert "▁the" in joined.symbols


def test_a_line_may_be_very_long():
    units = words.learn(["ab" * 400_000 + " c", "三" * 70_000], level="bpe", most=60)
    line = "ab c三" * 50_000
    start = time.monotonic()
    assert units.decode(units.encode(line)) == line
    assert time.monotonic() - start < 20


def test_pieces_that_spell_nothing_are_left_out():
    """A model may say anything."""
    digits, mark = bpe.DIGITS, bpe.MARK
    for said, read in (
        (f"a{mark}b", "ab"),
        (f"{digits[4]}a{digits[1]}", "a"),
        (f"{mark}{digits[4]}{digits[1]}{mark}", "A"),
        (f"{mark}{digits[13]}{digits[8]}{digits[0]}{digits[0]}{mark}", ""),  # half a pair
        (mark + digits[15] * 6 + mark, ""),
        (mark + mark, ""),
    ):
        assert bpe.read_back(said) == read


def test_the_rarest_characters_are_spelt_where_there_is_no_room():
    units = words.learn(["aaab", "aac", "ab"], level="bpe", most=24)
    assert units.size <= 24
    assert len(units.encode("b")) > 1
    assert units.decode(units.encode("abc")) == "abc"
    with pytest.raises(UsageError, match="at least 23 symbols, got 22"):
        words.learn(["a"], level="bpe", most=22)


def test_a_model_of_an_older_version_reads_as_it_did():
    stored = words.learn(TEXT, level="bpe", most=200).stored
    older = words.from_json({"level": "bpe", "model": stored["model"]})
    assert "alphabet" not in older.stored
    assert older.encode("☃")[-1] == words.UNKNOWN
