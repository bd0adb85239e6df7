"""Words of many scripts: marks stay with their letters; texts without marks are cut as they ever were."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import words, wordsplit

OLD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी में लिखा हुआ।", ["हिन्दी", "में", "लिखा", "हुआ", "।"]),
        ("क्‍ष और श्री", ["क्‍ष", "और", "श्री"]),  # with a ZWJ
        ("ที่นี่ มีน้ำ", ["ที่นี่", "มีน้ำ"]),
        ("தமிழ் மொழி!", ["தமிழ்", "மொழி", "!"]),
        ("בְּרֵאשִׁית בָּרָא", ["בְּרֵאשִׁית", "בָּרָא"]),
        ("צה״ל ג׳ירפה", ["צה״ל", "ג׳ירפה"]),
        ("می‌روم؟", ["می‌روم", "؟"]),  # with a ZWNJ
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("বাংলা ភាសាខ្មែរ မြန်မာ", ["বাংলা", "ភាសាខ្មែរ", "မြန်မာ"]),
        ("x\u0323\u0301y isn't (1st).", ["x\u0323\u0301y", "isn't", "(", "1st", ")", "."]),
        ("well-worn a- -b", ["well-worn", "a", "-", "-", "b"]),
        ("a👩‍👩‍👧‍👦b 👍🏽!", ["a", "👩‍👩‍👧‍👦", "b", "👍🏽", "!"]),
        ("🇩🇪🇫🇷 ❤️ 1️⃣ 🏴󠁧󠁢󠁳󠁣󠁴󠁿", ["🇩🇪", "🇫🇷", "❤️", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"]),
        ("\u0301a", ["\u0301", "a"]),  # a mark on nothing
        ("", []),
    ],
)  # fmt: skip
def test_marks_stay_with_their_letters(text, expected):
    assert wordsplit.parts(text) == expected
    assert wordsplit.words(text) == [word for word in expected if any(map(str.isalnum, word))]


@given(st.text())
def test_nothing_but_blanks_is_lost(text):
    assert "".join(wordsplit.parts(text)) == "".join(c for c in text if not c.isspace())


def plain(text):
    """Neither marks nor what is joined, nor pairs that are flags, nor Hebrew's marks of abbreviation."""
    return not any(
        unicodedata.category(c)[0] == "M" or c in "\u200c\u200d\u05f3\u05f4" or ord(c) >= 0x1F1E6
        for c in text
    )


@given(st.text().filter(plain))
def test_what_has_no_marks_is_cut_as_ever(text):
    assert wordsplit.parts(text) == OLD.findall(text)


@pytest.mark.parametrize("level", ["word", "char"])
def test_one_letter_is_one_symbol_however_it_is_composed(level):
    composed, apart = "un été à Ḍhākā", unicodedata.normalize("NFD", "un été à Ḍhākā")
    assert composed != apart
    units = words.learn([composed], level=level, most=50)
    assert units.sha256 == words.learn([apart], level=level, most=50).sha256
    assert units.encode(apart) == units.encode(composed)
    assert units.decode(units.encode(apart)) == composed


@pytest.mark.parametrize(
    "text", ["यह एक बिल्ली है।", "هل هذا كلب؟", "¿Qué? (¡Sí!)", "two dogs, one [old] cat."]
)
def test_signs_come_back_where_they_were(text):
    units = words.learn([text], level="word", most=50)
    assert units.decode(units.encode(text)) == text


def test_a_vocabulary_of_an_older_version_reads_as_it_did():
    apart = "e\u0301te\u0301 हिन्दी"
    units = words.from_json({"level": "word", "symbols": ["e", "te", "\u0301", "ह"]})
    assert [units.symbols[token] for token in units.encode(apart)][:4] == [
        "e",
        "\u0301",
        "te",
        "\u0301",
    ]
    assert units.normal(apart) == apart
    assert "rule" not in units.stored
    new = words.learn([apart], level="word", most=9)
    assert words.from_json(new.stored).encode(apart) == new.encode(apart) == [4, 5]
