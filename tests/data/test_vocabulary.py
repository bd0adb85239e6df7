"""Symbols of a text: what is encoded comes back, and what is not known is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.vocabulary import Vocabulary
from tests.data.small import refused, vocabulary_of

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(unicode_text)
def test_char_vocabulary_round_trip(text):
    vocabulary = vocabulary_of(text)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int32
    assert len(tokens) == len(text)
    assert vocabulary.decode(tokens) == text
    restored = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json(), allow_nan=False)))
    assert restored == vocabulary
    assert restored.sha256 == vocabulary.sha256


@given(unicode_text)
def test_byte_vocabulary_round_trip(text):
    vocabulary = Vocabulary("byte", tuple(range(256)))
    tokens = vocabulary.encode(text)
    assert bytes(tokens.astype(np.uint8)) == text.encode()
    assert vocabulary.decode(tokens) == text
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@given(st.binary())
def test_streaming_decoder_agrees_with_decoding_at_once(raw):
    vocabulary = Vocabulary("byte", tuple(range(256)))
    decoder = vocabulary.decoder()
    pieces = [decoder.decode([byte]) for byte in raw]
    pieces.append(decoder.decode([], final=True))
    assert "".join(pieces) == vocabulary.decode(list(raw)) == raw.decode("utf-8", "replace")


def test_streaming_decoder_holds_back_an_incomplete_character():
    decoder = Vocabulary("byte", tuple(range(256))).decoder()
    first, *rest = "☃".encode()
    assert decoder.decode([first]) == ""
    assert decoder.decode(rest) == "☃"
    assert vocabulary_of("ab").decoder().decode([1, 0]) == "ba"


def test_unknown_characters_are_all_named():
    message = refused(lambda: vocabulary_of("abc").encode("caf☃é\n"), "not in the vocabulary")
    assert message.endswith(r"'\n', 'f', 'é', '☃'")


def test_bytes_of_a_command_line_are_kept():
    vocabulary = Vocabulary("byte", tuple(range(256)))
    assert vocabulary.encode(b"\xff!".decode("utf-8", "surrogateescape")).tolist() == [255, 33]
    refused(lambda: vocabulary.encode("\ud800"), r"'\ud800'")


def test_tokens_outside_the_vocabulary_are_refused():
    vocabulary = vocabulary_of("abc")
    for token in (-1, 3):
        with pytest.raises(ValueError, match="outside 0 to 2"):
            vocabulary.decode([token])


@pytest.mark.parametrize(
    "data",
    [
        {"level": "char", "symbols": "ba"},
        {"level": "char", "symbols": "aa"},
        {"level": "char", "symbols": "\ud800"},
        {"level": "char", "symbols": ["ab"]},
        {"level": "word", "symbols": "ab"},
        {"symbols": "ab"},
        [],
    ],
)
def test_damaged_vocabulary_is_refused(data):
    refused(lambda: Vocabulary.from_json(data))


def test_vocabularies_differ_in_their_hash():
    some = [vocabulary_of("ab"), vocabulary_of("abc"), Vocabulary("byte", tuple(range(256)))]
    assert len({v.sha256 for v in some}) == 3
