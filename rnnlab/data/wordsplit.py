"""Text to words: marks stay with the letters that they belong to, in any script.

A word is letters and digits with the marks on them (vowel signs of Hindi or Thai, points of Hebrew, accents
that are characters of their own), joiners (ZWJ, ZWNJ), and single apostrophes and hyphens inside. All else
that is no blank stands alone, an emoji with what is joined to it. Scripts that write no blanks between
words, such as Thai and Chinese, give a word for what stands between two blanks or signs.
"""

import re
import unicodedata

ZWJ, ZWNJ = "\u200d", "\u200c"
INSIDE = "'’-\u05f3\u05f4"  # apostrophes, the hyphen, and Hebrew's own marks of abbreviation


class _Kinds(dict[int, str]):
    """Code point -> a letter for what it is, so that patterns can be of kinds."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        if character == "_":
            kind = "u"
        elif character.isalnum():
            kind = "w"
        elif character in INSIDE:
            kind = "j"
        elif character == ZWJ:
            kind = "z"
        elif (
            unicodedata.category(character)[0] == "M"
            or character == ZWNJ
            or 0x1F3FB <= point <= 0x1F3FF  # the colour of a skin
            or 0xE0020 <= point <= 0xE007F  # of the flags of regions
        ):
            kind = "m"
        elif 0x1F1E6 <= point <= 0x1F1FF:  # two of these are a flag
            kind = "r"
        else:
            kind = " " if character.isspace() else "x"
        self[point] = kind
        return kind


_KINDS = _Kinds()
_PARTS = re.compile(r"[wu][wumz]*(?:j[wu][wumz]*)*|[xj][mz]*(?:(?<=z)x[mz]*)*|rr?[mz]*|[mz]+")
_WORDS = re.compile(r"w[wmz]*(?:jw[wmz]*)*")


def normal(text: str) -> str:
    """The text in NFC: a letter and its accents are one character where Unicode has one."""
    return unicodedata.normalize("NFC", text)


def parts(text: str) -> list[str]:
    """The words and the signs of a text, in order; only blanks are left out."""
    return _cut(text, _PARTS)


def words(text: str) -> list[str]:
    """The words alone; an underscore ends one."""
    return _cut(text, _WORDS)


def _cut(text: str, pattern: re.Pattern[str]) -> list[str]:
    kinds = text.translate(_KINDS)
    return [text[match.start() : match.end()] for match in pattern.finditer(kinds)]
