"""Texts in every encoding and packing are read as one and the same; what is no text is named."""

import codecs
import gzip
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from rnnlab.data import textfile
from rnnlab.errors import UsageError
from rnnlab.tasks.language_model import corpora

TEXT = "Zwölf Äpfel, пять слив и три 桃。\nहिन्दी, ภาษาไทย — 😀!\n" * 3
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RNNLAB_CACHE", str(folder))
    return folder


def corpus(path, *, level="char", encoding=None):
    found = corpora.load(corpus="", path=str(path), level=level, glob="**/*", encoding=encoding)
    return found.vocabulary.decode(found.tokens)


def refused(call, *parts):
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_a_mark_says_the_encoding_and_is_no_symbol(encoding, packed, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "CHUNK", chunk)
    content = MARKED[encoding] + TEXT.encode(encoding)
    path = tmp_path / ("a.txt" if encoding == "utf-8" else "a.txt.gz")  # its name says nothing
    path.write_bytes(gzip.compress(content) if packed else content)
    assert textfile.read(path) == TEXT
    assert textfile.lines(path) == TEXT.split("\n")[:-1]
    for level in ("char", "byte"):
        assert corpus(path, level=level) == TEXT


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        *((encoding, TEXT) for encoding in (*MARKED, "utf-16", "utf-8-sig", "gb18030")),
        ("latin-1", "Zwölf\n"),
        ("cp1252", "“Äpfel”\n"),
        ("cp1251", "слива\n"),
        ("shift_jis", "ももと桃\n"),
        ("euc-kr", "복숭아\n"),
    ],
)
def test_an_encoding_that_is_named_is_taken(encoding, text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert textfile.read(path, encoding) == text
    for level in ("char", "byte"):
        assert corpus(path, level=level, encoding=encoding) == text


def test_files_of_a_folder_may_differ(tmp_path):
    for name, content in (("a", "é".encode("utf-8-sig")), ("b", "é".encode("utf-16"))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "c").write_bytes(gzip.compress("é".encode()))
    assert corpus(tmp_path) == "ééé"


def test_a_large_text_is_kept_by_how_it_is_read(tmp_path, cache, monkeypatch):
    """Bytes that say one thing in UTF-16 and another one by themselves are two texts."""
    monkeypatch.setattr(corpora, "IN_MEMORY", 1)
    path = tmp_path / "a.txt"
    path.write_bytes(b"abcd")
    assert [corpus(path), corpus(path, encoding="utf-16-le")] == ["abcd", "扡摣"]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("encoding", [*MARKED][1:])
@pytest.mark.parametrize(
    "text", ["Hello, world.\n", "привет мир\n", "שלום\n", "x", TEXT, "桃が、三つ。\n"]
)
def test_what_looks_like_utf16_without_a_mark_is_named(encoding, text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes((text * 50).encode(encoding))
    told = (
        f"looks like {encoding.upper()} without a byte order mark: data.encoding={encoding} reads"
    )
    refused(lambda: textfile.read(path), "a.txt", told)
    refused(lambda: corpus(path), "a.txt", told)
    assert corpus(path, encoding=encoding) == text * 50


def some_kinds():
    picture, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.txt", TEXT)
    array = io.BytesIO()
    np.save(array, np.arange(9))
    return {
        "a PNG image": picture.getvalue(),
        "a zip archive": archive.getvalue(),
        "a NumPy array": array.getvalue(),
        "a PDF": b"%PDF-1.7\n1 0 obj",
        "a gzip file in a gzip file": gzip.compress(gzip.compress(b"abc")),
        "is full of NULs": b"a\0b" * 100,
        "is full of control characters": b"\x01\x02text\x03" * 10,
        "NULs and more side by side": b"the text\n" * 1000 + bytes(100),
    }


@pytest.mark.parametrize("what", some_kinds())
def test_what_is_no_text_is_named(what, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(some_kinds()[what])
    refused(lambda: corpus(path), "a.txt", what, "data.")
    refused(lambda: textfile.read(path), "a.txt", what)
    assert corpus(path, level="byte")


def test_a_text_may_have_a_few_controls_and_an_inner_mark(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one more line\0" * 9, "\x1b[1mbold\x1b[0m \x07" * 3, "mark: \ufeff.", "\t\f\r\n"):
        path.write_bytes(text.encode())
        assert corpus(path) == textfile.read(path) == text


def test_a_mark_that_contradicts_is_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode("utf-16"))
    for read in (textfile.read, lambda path, encoding: corpus(path, encoding=encoding)):
        refused(lambda read=read: read(path, "latin-1"), "mark of UTF-16-LE", "'iso8859-1'")


def test_a_line_that_is_not_of_the_encoding_is_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\nb\nc\xe9\n")
    refused(lambda: textfile.read(path), "a.txt:3 is not UTF-8", "data.encoding")
    path.write_bytes("a\nb\n".encode("utf-16") + b"\x00\xd8c\0")
    refused(lambda: textfile.read(path), "a.txt:3 is not UTF-16-LE")
    refused(lambda: corpus(path), "a.txt is not valid UTF-16-LE at byte 10")


@pytest.mark.parametrize("encoding", ["utf8x", "rot13", "hex", "zip", "a\0b", "utf-8 "])
def test_what_is_no_encoding_is_told(encoding, tmp_path):
    (tmp_path / "a").write_text("text")
    if encoding == "utf-8 ":  # Python takes it
        assert corpus(tmp_path, encoding=encoding) == "text"
        return
    refused(lambda: corpus(tmp_path, encoding=encoding), "data.encoding", "is no encoding")


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(TEXT.encode())[:-9])
    refused(lambda: textfile.read(path), "cannot read", "a.txt")
    refused(lambda: corpus(path), "cannot read", "a.txt")


def test_bytes_that_only_begin_like_a_mark_stay_bytes(tmp_path):
    content = codecs.BOM_UTF16_LE + b"\x00\xd8" * 8  # no UTF-16
    (tmp_path / "a").write_bytes(content)
    found = corpora.load(corpus="", path=str(tmp_path / "a"), level="byte", glob="")
    assert bytes(found.tokens) == content


def test_a_run_of_an_older_version_keeps_its_marks(tmp_path):
    (tmp_path / "a").write_bytes(codecs.BOM_UTF8 + b"a\0\0\0")
    assert corpus(tmp_path / "a", encoding=textfile.OLDER) == "\ufeffa\0\0\0"
