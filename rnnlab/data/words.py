"""Texts as whole sentences of symbols: characters, words, or pieces of words (byte-pair encoding).

Every vocabulary begins with the same four symbols: PAD, BEGIN, END and UNKNOWN. Words and characters are
those of the text in NFC (`wordsplit`); pieces join to the very text, whatever it is (`bpe`).
"""

import base64
import collections
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import bpe, wordsplit
from rnnlab.errors import UsageError

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")
LEVELS = ("char", "word", "bpe")
# How vocabularies are made and read now; those of older versions, which do not say, had words that end
# where a mark stands and did not normalise.
RULE = 2
_OLD_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
# Signs without a blank before and behind them, of the old rule and of this one.
_OLD_SIGNS = re.compile(r" (?=[.,;:!?)\]])|(?<=[(\[]) ")
_SIGNS = re.compile(r" (?=[.,;:!?)\]।॥،؛؟۔。，、；：？！）］」』》])|(?<=[(\[（［「『《¿¡]) ")


class Units(NamedTuple):
    """A vocabulary of sentences."""

    level: str  # of LEVELS
    symbols: tuple[str, ...]  # the text of each symbol
    encode: Callable[[str], list[int]]  # without BEGIN and END
    decode: Callable[[Iterable[int]], str]  # up to END; what has no text is left out
    stored: dict[str, Any]  # for `from_json`
    normal: Callable[[str], str] = wordsplit.normal  # what is done with texts before they are read

    @property
    def size(self) -> int:
        """V, the special symbols included."""
        return len(self.symbols)

    @property
    def sha256(self) -> str:
        """Of the symbols, in their order."""
        return hashlib.sha256("\0".join(self.symbols).encode()).hexdigest()


def learn(sentences: Sequence[str], *, level: str, most: int, rare: int = 1) -> Units:
    """The vocabulary of these sentences.

    level: "char"; "word" (`wordsplit.parts`); or "bpe", whose pieces join to the very text.
    most: V at most, the special symbols included; of characters and words the most frequent stay.
        rare: those that occur fewer times than this do not.

    Raises UsageError for another level, too small a `most`, or no text.
    """
    if level not in LEVELS:
        raise UsageError(f"the level of a text must be one of {', '.join(LEVELS)}, got '{level}'")
    if most <= len(SPECIAL):
        raise UsageError(f"a vocabulary has at least {len(SPECIAL) + 1} symbols, got {most}")
    if not any(sentence.strip() for sentence in sentences):
        raise UsageError("there is no text to learn a vocabulary from")
    if level == "bpe":
        return _pieces(*bpe.learn(sentences, most, _IDS))
    counts = collections.Counter(part for text in sentences for part in _parts(text, level, RULE))
    # Of equally frequent ones the first in the alphabet stay, whatever the order of the sentences.
    ranked = sorted(
        (part for part in counts if counts[part] >= rare), key=lambda p: (-counts[p], p)
    )
    return _listed(level, ranked[: most - len(SPECIAL)], RULE)


def from_json(stored: Any) -> Units:
    """The vocabulary that `Units.stored` describes. Raises UsageError if that is damaged."""
    try:
        if stored["level"] == "bpe":
            return _pieces(base64.b64decode(stored["model"], validate=True), stored.get("alphabet"))
        symbols, rule = stored["symbols"], stored.get("rule", 1)
        known = stored["level"] in LEVELS and rule in (1, RULE)
        if known and all(isinstance(symbol, str) for symbol in symbols):
            return _listed(stored["level"], symbols, rule)
    except (KeyError, TypeError, ValueError, RuntimeError):
        pass
    raise UsageError("a vocabulary is damaged: it is not what a run keeps")


def _as_it_is(text: str) -> str:
    return text


def _parts(text: str, level: str, rule: int) -> list[str]:
    if rule == 1:
        return list(text) if level == "char" else _OLD_WORD.findall(text)
    text = wordsplit.normal(text)
    return list(text) if level == "char" else wordsplit.parts(text)


def _listed(level: str, symbols: Sequence[str], rule: int) -> Units:
    index = {symbol: number for number, symbol in enumerate(symbols, start=len(SPECIAL))}
    texts = (*SPECIAL, *symbols)
    signs = _OLD_SIGNS if rule == 1 else _SIGNS

    def encode(text: str) -> list[int]:
        return [index.get(part, UNKNOWN) for part in _parts(text, level, rule)]

    def decode(tokens: Iterable[int]) -> str:
        known = [texts[token] for token in _said(tokens) if token not in (PAD, BEGIN)]
        return "".join(known) if level == "char" else signs.sub("", " ".join(known))

    stored: dict[str, Any] = {"level": level, "symbols": list(symbols)}
    if rule == 1:
        return Units(level, texts, encode, decode, stored, _as_it_is)
    return Units(level, texts, encode, decode, stored | {"rule": rule})


def _said(tokens: Iterable[int]) -> list[int]:
    """What stands before END."""
    found = [int(token) for token in tokens]
    return found[: found.index(END)] if END in found else found


_IDS = {"pad_id": PAD, "bos_id": BEGIN, "eos_id": END, "unk_id": UNKNOWN}


def _pieces(model: bytes, alphabet: str | None) -> Units:
    pieces = bpe.Pieces(model, alphabet)

    def decode(tokens: Iterable[int]) -> str:
        return pieces.decode(token for token in _said(tokens) if token not in (PAD, BEGIN))

    stored = {"level": "bpe", "model": base64.b64encode(model).decode()}
    if alphabet is None:
        return Units("bpe", pieces.symbols, pieces.encode, decode, stored, _as_it_is)
    return Units("bpe", pieces.symbols, pieces.encode, decode, stored | {"alphabet": alphabet})


def entropy(sentences: Iterable[Sequence[int]], size: int) -> float:
    """Nats per symbol, END included, of whoever knows how frequent each symbol is and nothing else."""
    counts = np.zeros(size)
    for tokens in sentences:
        np.add.at(counts, [*tokens, END], 1)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def padded(sentences: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """int32 [length, B], a column a sentence, PAD behind it."""
    found = np.full((length, len(sentences)), PAD, np.int32)
    for column, tokens in enumerate(sentences):
        found[: len(tokens), column] = tokens
    return found


def taught(sentences: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """What a decoder learns these by, at most `length` - 1 symbols each: inputs int32 [length, B],
    which begin with BEGIN, targets int32 [length, B], which end with END, and weights bool."""
    targets = padded([[*tokens, END] for tokens in sentences], length)
    inputs = padded([[BEGIN, *tokens] for tokens in sentences], length)
    sizes = np.array([len(tokens) + 1 for tokens in sentences])
    return {"inputs": inputs, "targets": targets, "weights": np.arange(length)[:, None] < sizes}
