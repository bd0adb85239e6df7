"""The symbols of a text and the integers that stand for them."""

import codecs
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnlab.errors import UsageError

LEVELS = ("char", "byte")


def check_level(level: str) -> None:
    """Raise UsageError unless `level` is one of LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"data.level must be one of {', '.join(LEVELS)}, not {level!r}")


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text, and the integers that stand for them.

    level: "char" (Unicode characters) or "byte" (the bytes of UTF-8).
    symbols: at char level the characters, distinct and in the order of their code points, so that
      they are a pure function of the text; at byte level the integers 0 to 255.
    """

    level: str
    symbols: tuple[str, ...] | tuple[int, ...]

    def __post_init__(self):
        check_level(self.level)
        if self.level == "byte":
            valid = self.symbols == tuple(range(256))
        else:
            points = [ord(s) if isinstance(s, str) and len(s) == 1 else -1 for s in self.symbols]
            valid = points == sorted(set(points)) and not any(
                p < 0 or 0xD800 <= p < 0xE000 for p in points
            )
        if not valid:
            raise UsageError("a vocabulary is damaged: its symbols are not distinct, sorted ones")

    @property
    def size(self) -> int:
        """V, the number of symbols."""
        return len(self.symbols)

    @functools.cached_property
    def sha256(self) -> str:
        """The hexadecimal SHA-256 of the canonical encoding: what two runs must share."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @functools.cached_property
    def _points(self) -> np.ndarray:
        return np.array([s if isinstance(s, int) else ord(s) for s in self.symbols], "<u4")

    def encode(self, text: str) -> np.ndarray:
        """The tokens of `text`, int32 [T]; T counts characters or bytes.

        Raises UsageError naming every character that is not in the vocabulary.
        """
        if self.level == "byte":
            try:
                # A command line hands over bytes that are no UTF-8 as lone surrogates.
                raw = text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                wrong = repr(text[error.start : error.end])
                raise UsageError(f"these characters are no valid Unicode: {wrong}") from None
            return np.frombuffer(raw, np.uint8).astype(np.int32)
        missing = sorted(set(text).difference(self.symbols))
        if missing:
            listed = ", ".join(map(repr, missing))
            raise UsageError(f"these characters are not in the vocabulary of this run: {listed}")
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        return np.searchsorted(self._points, codes).astype(np.int32)

    def decode(self, tokens: Any) -> str:
        """The text of `tokens`, integers [T]; bytes that are no UTF-8 become U+FFFD.

        Raises ValueError for an integer that is no token.
        """
        return self.decoder().decode(tokens, final=True)

    def decoder(self) -> "Decoder":
        """A new Decoder, for tokens that arrive a few at a time."""
        return Decoder(self)

    def to_json(self) -> dict[str, str]:
        """Strict JSON that from_json reads back."""
        if self.level == "byte":
            return {"level": "byte"}
        return {"level": "char", "symbols": "".join(map(str, self.symbols))}

    @classmethod
    def from_json(cls, data: dict[str, str]) -> "Vocabulary":
        """The vocabulary that to_json wrote; UsageError if it is damaged."""
        if not isinstance(data, dict) or not isinstance(data.get("symbols", ""), str):
            raise UsageError("a vocabulary is damaged: it is not what to_json writes")
        level = data.get("level", "")
        return cls(level, tuple(range(256)) if level == "byte" else tuple(data.get("symbols", "")))


class Decoder:
    """Tokens to text, piece by piece; it holds back the bytes of a character not yet complete."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, tokens: Any, final: bool = False) -> str:
        """The text that `tokens`, integers [T], complete; `final` gives up what is held back.

        Raises ValueError for an integer that is no token.
        """
        indices = np.asarray(tokens, np.int64).reshape(-1)
        size = self._vocabulary.size
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            raise ValueError(f"a token lies outside 0 to {size - 1}")
        if self._vocabulary.level == "byte":
            return self._bytes.decode(indices.astype(np.uint8).tobytes(), final)
        return self._vocabulary._points[indices].tobytes().decode("utf-32-le")
