"""Texts of files and folders: how they are read, and what is refused."""

import hashlib
import io
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import vocabulary
from rnnlab.errors import StorageError
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.language_model.corpora import load
from tests.data.small import refused, vocabulary_of
from tests.tasks.language_model.small import TEXT

pytestmark = pytest.mark.usefixtures("cache")

# Of files: controls are no text, and what begins with U+FEFF begins with a byte order mark.
file_text = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff") | st.just("\n")
)


def read(path, *, level="char", glob="*.txt", corpus="mine"):
    return load(corpus=corpus, path=str(path), level=level, glob=glob)


def test_file_at_char_level(tmp_path, cache):
    path = tmp_path / "a.txt"
    raw = "zwölf Äpfel ☃\r\n".encode()
    path.write_bytes(raw)
    corpus = read(path)
    assert corpus.vocabulary.decode(corpus.tokens) == raw.decode()
    assert corpus.vocabulary.symbols == tuple(sorted(set(raw.decode())))
    assert corpus.tokens.dtype == np.uint8
    assert not corpus.tokens.flags.writeable
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()
    assert (corpus.bytes, corpus.name, corpus.source) == (len(raw), "mine", str(path))
    assert not cache.exists()


def test_file_at_byte_level(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 2)
    corpus = read(path, level="byte")
    assert bytes(corpus.tokens) == path.read_bytes()
    assert corpus.vocabulary.size == 256


@pytest.mark.parametrize(("kinds", "dtype"), [(257, np.uint16), (70_000, np.uint32)])
def test_large_vocabularies_widen_the_tokens(tmp_path, kinds, dtype):
    text = "".join(chr(c) for c in range(kinds) if not 0xD800 <= c < 0xE000)
    (tmp_path / "a.txt").write_bytes(text.encode())
    corpus = read(tmp_path / "a.txt")
    assert corpus.tokens.dtype == dtype
    assert corpus.vocabulary.decode(corpus.tokens) == text


@given(st.lists(file_text, min_size=1, max_size=3), st.integers(1, 7))
def test_pieces_and_files_do_not_show_in_the_tokens(tmp_path_factory, texts, chunk):
    folder = tmp_path_factory.mktemp("corpus")
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_bytes(text.encode())
    whole = "".join(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "CHUNK", chunk)
        if not whole:
            refused(lambda: read(folder), "is empty")
            return
        corpus = read(folder)
    assert corpus.tokens.tolist() == vocabulary_of(whole).encode(whole).tolist()
    assert corpus.sha256 == hashlib.sha256(whole.encode()).hexdigest()


def test_folder_is_read_in_the_order_of_relative_paths(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/.hidden.txt", ".git/x.txt", "a.md", "a/b/c.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{name}>")

    def text(glob):
        corpus = read(tmp_path, glob=glob)
        return corpus.vocabulary.decode(corpus.tokens)

    assert text("*.txt") == text("**/*.txt") == "<a/b/c.txt><a/z.txt><b.txt>"
    assert text("a/*.txt") == "<a/z.txt>"
    assert text("*") == "<a.md><a/b/c.txt><a/z.txt><b.txt>"
    for glob in ("*.tex", "", "/*.txt"):
        refused(lambda glob=glob: read(tmp_path, glob=glob), "no file in", repr(glob))


def test_missing_and_empty_files_are_refused(tmp_path, cache):
    refused(lambda: read(tmp_path / "none.txt"), "none.txt", "No such file or directory")
    refused(lambda: read("a\0b"), "cannot read")
    refused(lambda: read("~no such user/a.txt"), "cannot read ~no such user")
    (tmp_path / "empty.txt").touch()
    refused(lambda: read(tmp_path / "empty.txt"), "empty.txt is empty")
    refused(lambda: read(tmp_path), "is empty")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    refused(lambda: read(tmp_path), "dangling.txt", "No such file")
    assert not cache.exists()


def test_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: read(tmp_path / "pipe"), "neither a file nor a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_and_folder_are_refused(tmp_path):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "a.txt"
    path.write_text(TEXT)
    path.chmod(0)
    refused(lambda: read(path), "a.txt", "Permission denied")
    (tmp_path / "inner").chmod(0)
    refused(lambda: read(tmp_path), "inner", "Permission denied")
    (tmp_path / "inner").chmod(0o700)


def test_failing_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)

    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(
        corpora, "_part", lambda path, member: corpora.Part(str(path), path, Failing)
    )
    refused(lambda: read(path), "a.txt", "Input/output error")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize(
    ("raw", "offset"),
    [(b"abc\xff", 3), ("é☃é".encode() + b"\xc3", 7), (b"ab\xe2\x98", 2), (b"\xe2\x98a", 0)],
)
def test_invalid_utf8_is_located(tmp_path, monkeypatch, raw, offset, chunk):
    monkeypatch.setattr(corpora, "CHUNK", chunk)
    (tmp_path / "a.txt").write_bytes(b"fine")
    (tmp_path / "b.txt").write_bytes(raw)
    refused(
        lambda: read(tmp_path),
        f"{tmp_path / 'b.txt'} is not valid UTF-8 at byte {offset}:",
        "--config.data.encoding",
        "--config.data.level=byte",
    )
    assert read(tmp_path, level="byte").bytes == 4 + len(raw)


def test_character_does_not_span_two_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\xc3")
    (tmp_path / "b.txt").write_bytes(b"\xa9")
    refused(lambda: read(tmp_path), "a.txt is not valid UTF-8 at byte 1:")


def test_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("before")
    survey = corpora._survey

    def survey_and_change(*arguments):
        result = survey(*arguments)
        path.write_text("before and after")
        return result

    monkeypatch.setattr(corpora, "_survey", survey_and_change)
    refused(lambda: read(path), "a.txt", "changed while it was read")


def test_unknown_level_and_corpus_are_refused(tmp_path, cache):
    refused(lambda: read(tmp_path, level="word"), "char, byte", "'word'")
    message = refused(lambda: load(corpus="shakespear", path="", level="char", glob="*"))
    assert "unknown corpus 'shakespear': did you mean 'shakespeare'?" in message
    assert all(name in message for name in corpora.names())
    message = refused(lambda: load(corpus="qqq", path="", level="char", glob="*"))
    assert "did you mean" not in message
    assert not cache.exists()


def test_python_corpus_needs_no_network(cache):
    corpus = load(corpus="python", path="", level="char", glob="")
    assert corpus.source.startswith("Python 3.")
    assert len(corpus.tokens) == corpus.bytes > 5_000_000
    assert 90 < corpus.vocabulary.size < 128
    assert "def " in corpus.vocabulary.decode(corpus.tokens[:10_000])
    assert not cache.exists()


# Large texts


def test_large_text_is_mapped_from_the_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(corpora, "IN_MEMORY", 1000)
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    for level in vocabulary.LEVELS:
        corpus = read(path, level=level)
        assert isinstance(corpus.tokens, np.memmap)
        assert not corpus.tokens.flags.writeable
        assert corpus.vocabulary.decode(corpus.tokens) == TEXT
    written = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert set(written) == {f"tokens-{corpus.sha256}-{level}.npy" for level in vocabulary.LEVELS}
    read(path)
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == written


def test_damaged_cache_is_written_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(corpora, "IN_MEMORY", 1000)
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    (tokens,) = [read(path), *cache.iterdir()][1:]
    whole = tokens.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"nonsense"):
        tokens.write_bytes(damaged)
        assert read(path).tokens.tolist() == vocabulary_of(TEXT).encode(TEXT).tolist()
        assert tokens.read_bytes() == whole
    # What a killed process leaves behind does not disturb.
    tokens.unlink()
    tokens.with_name(tokens.name + ".part").write_bytes(b"left over")
    read(path)
    assert [file.read_bytes() for file in cache.iterdir()] == [whole]


def test_cache_that_cannot_be_written_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "IN_MEMORY", 1000)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "file"))
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    with pytest.raises(StorageError, match="RNNLAB_CACHE names another folder"):
        read(path)


def test_full_disk_leaves_no_part(tmp_path, cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpora, "IN_MEMORY", 1000)
    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    with pytest.raises(StorageError, match="No space left on device"):
        read(path)
    assert list(cache.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("level", "last"), [("char", "!"), ("char", "☃"), ("byte", "☃")])
def test_memory_does_not_grow_with_the_text(tmp_path, cache, level, last):
    path = tmp_path / "large.txt"
    piece = ((TEXT + last) * 1000).encode()
    with open(path, "wb") as file:
        while file.tell() < 300 << 20:
            file.write(piece)
    program = r"""
        import re, sys
        from rnnlab.tasks.language_model import corpora
        corpus = corpora.load(corpus="", path=sys.argv[1], level=sys.argv[2], glob="")
        assert corpus.bytes > 300 << 20
        # Not getrusage: its peak begins with that of the process that forked this one.
        print(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path), level]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for file in (path, *cache.iterdir()):
        file.unlink()
    # The imports alone take more than half of it: JAX is among them.
    assert int(result.stdout) < 250 << 10
