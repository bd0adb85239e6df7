"""Byte-pair encoding (Sennrich et al. 2016) whose pieces join to the very text that they were made of.

SentencePiece learns and applies the pieces. What it has a use of its own for, what no vocabulary has room
for and what no text had to learn from is spelt: between two marks, the hexadecimal digits of its code
point. Marks and digits are characters of Unicode's last private area, of which a vocabulary has all.
"""

import collections
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rnnlab.errors import UsageError

FIRST = 0xF0000
DIGITS = [chr(FIRST + n) for n in range(16)]
MARK = chr(FIRST + 16)
OWN = "".join([*DIGITS, MARK])
_VALUE = {digit: f"{number:x}" for number, digit in enumerate(DIGITS)}
_SPELT = re.compile(f"{MARK}([{DIGITS[0]}-{DIGITS[-1]}]{{1,6}}){MARK}|[{OWN}]")
BLANK = "\u2581"  # what SentencePiece writes for a blank
# What it cannot learn, or would take for its own.
NEVER = {BLANK, "\u2585", *OWN, *map(chr, range(32)), *map(chr, range(0x7F, 0xA0))}
LONG = 1000  # characters of a piece of a line to learn from: SentencePiece leaves out more than 4,192 bytes


def sentencepiece() -> Any:
    """The package. Raises UsageError if it is not installed."""
    try:
        import sentencepiece
    except ImportError:
        raise UsageError(
            "byte-pair encoding needs the package sentencepiece: pip install -c constraints.txt -e "
            "'.[media]', or take data.level 'word'"
        ) from None
    return sentencepiece


class _Spelling(dict[int, str]):
    """Code point -> what stands for it; alphabet: the characters that stand for themselves."""

    def __init__(self, alphabet: str):
        super().__init__({ord(c): c for c in alphabet if c not in NEVER} | {32: " "})

    def __missing__(self, point: int) -> str:
        self[point] = f"{MARK}{''.join(DIGITS[int(digit, 16)] for digit in f'{point:x}')}{MARK}"
        return self[point]


def read_back(text: str) -> str:
    """A text with what is spelt in it; marks and digits that spell nothing are left out."""

    def character(match: re.Match[str]) -> str:
        if not match[1]:
            return ""
        point = int("".join(_VALUE[digit] for digit in match[1]), 16)
        return chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else ""

    return _SPELT.sub(character, text)


def alphabet_of(sentences: Sequence[str], most: int) -> str:
    """The most frequent characters, sorted: those that are not spelt, `most` at most."""
    counts = collections.Counter(c for text in sentences for c in text)
    known = [c for c in counts if c != " " and c not in NEVER and not 0xD800 <= ord(c) < 0xE000]
    return "".join(sorted(sorted(known, key=lambda c: (-counts[c], c))[:most]))


def _short(text: str) -> Iterator[str]:
    """A line in pieces of LONG characters at most, cut at blanks where there are any: a blank that a
    piece would begin with goes, as SentencePiece puts one there."""
    begin = 0
    while len(text) - begin > LONG:
        end = text.rfind(" ", begin + 1, begin + LONG)
        yield text[begin : end if end > 0 else begin + LONG]
        begin = end + 1 if end > 0 else begin + LONG
    yield text[begin:]


def learn(sentences: Sequence[str], most: int, special: dict[str, int]) -> tuple[bytes, str]:
    """(SentencePiece's model, the alphabet) of at most `most` pieces. special: pad_id and kin.

    Raises UsageError if `most` has no room for the pieces that there must be.
    """
    room = most - len(special) - len(OWN) - 1  # the blank
    if room < 1:
        raise UsageError(
            f"a vocabulary of byte-pair encoding has at least {most - room + 1} symbols, got {most}"
        )
    alphabet = alphabet_of(sentences, room)
    spelling, model = _Spelling(alphabet), io.BytesIO()
    pieces = (piece for text in sentences for piece in _short(text.translate(spelling)))
    try:
        sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=pieces,
            model_writer=model,
            model_type="bpe",
            vocab_size=most,
            hard_vocab_limit=False,  # a short text has fewer pieces
            character_coverage=1.0,
            required_chars=OWN + alphabet,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
            **special,
        )
    except RuntimeError as error:
        raise UsageError(f"no pieces can be learned from this text: {error}") from None
    return model.getvalue(), alphabet


class Pieces:
    """The pieces of a model. alphabet: see `learn`; None for a model of an older version, which gives
    back no blank beside another one, nor a character that it has not seen."""

    def __init__(self, model: bytes, alphabet: str | None):
        self._processor = sentencepiece().SentencePieceProcessor(model_proto=model)
        self._spelling = None if alphabet is None else _Spelling(alphabet)
        count = self._processor.vocab_size()
        self.symbols = tuple(self._processor.id_to_piece(number) for number in range(count))

    def encode(self, text: str) -> list[int]:
        """The numbers of the pieces of a text."""
        return list(self._processor.encode(text.translate(self._spelling or {})))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of pieces."""
        text = self._processor.decode(list(tokens))
        return text if self._spelling is None else read_back(text)
