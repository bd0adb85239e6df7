import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import cache as cache_module
from rnnlab.data import vocabulary
from rnnlab.data.cache import Remote
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import StorageError, UsageError
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.language_model.corpora import load

TEXT = "To be, or not to be: that is the question.\n" * 50


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder that does not exist yet, and no proxy between the test and its server."""
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def read(path, *, level="char", glob="*.txt", corpus="mine"):
    return load(corpus=corpus, path=str(path), level=level, glob=glob)


def vocabulary_of(text):
    return Vocabulary("char", tuple(sorted(set(text))))


def refused(call, *fragments):
    """The one-line message of the UsageError that `call` raises; it holds every fragment."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


# Vocabulary

unicode_text = st.text(st.characters(exclude_categories=["Cs"]))
# Of files: controls are no text, and what begins with U+FEFF begins with a byte order mark.
file_text = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff") | st.just("\n")
)


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


# Files and folders


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
        from rnnlab import corpora
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


# Downloads


@contextmanager
def server(answer):
    """An HTTP server on this machine: its address, and the list of the paths asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/text", asked
        finally:
            httpd.shutdown()
            thread.join()


def sends(body, length=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def register(monkeypatch, address, digest, folder="", member=""):
    remote = Remote("text.txt", address, digest, folder, member)
    monkeypatch.setitem(corpora.REMOTES, "remote", (remote,))


def sha256(raw):
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def fetch(level="char"):
    return load(corpus="remote", path="", level=level, glob="")


def test_download_happens_once(cache, monkeypatch):
    raw = TEXT.encode()
    with server(sends(raw)) as (address, asked):
        register(monkeypatch, address, sha256(raw))
        corpus = fetch()
        assert corpus.vocabulary.decode(corpus.tokens) == TEXT
        assert (corpus.name, corpus.source) == ("remote", address)
        fetch()
        assert asked == ["/text"]
        # A cached file that was damaged is fetched again.
        (cache / "text.txt").write_bytes(raw[:-1])
        assert fetch().sha256 == corpus.sha256
        assert asked == ["/text", "/text"]
    assert [file.name for file in cache.iterdir()] == ["text.txt"]
    fetch()


def test_processes_that_start_together_download_once(cache, monkeypatch):
    raw = TEXT.encode()
    begun = threading.Event()

    def slowly(handler):
        begun.wait(0.2)
        sends(raw)(handler)

    with server(slowly) as (address, asked):
        register(monkeypatch, address, sha256(raw))
        threads = [threading.Thread(target=fetch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert asked == ["/text"]
    assert [file.read_bytes() for file in cache.iterdir()] == [raw]


def test_wrong_hash_is_refused(cache, monkeypatch):
    with server(sends(b"something else")) as (address, _):
        register(monkeypatch, address, sha256(b"the text"))
        refused(fetch, "text.txt", sha256(b"the text"), sha256(b"something else"))
    assert list(cache.iterdir()) == []


def test_interrupted_download_is_refused(cache, monkeypatch):
    raw = TEXT.encode()
    with server(sends(raw[:1000], length=len(raw))) as (address, _):
        register(monkeypatch, address, sha256(raw))
        refused(fetch, f"could not fetch {address}", "--config.data.path=FILE")
    assert list(cache.iterdir()) == []


def test_no_network_is_refused(cache, monkeypatch):
    with server(sends(b"")) as (address, _):
        pass
    register(monkeypatch, address, sha256(b""))
    refused(fetch, address, "Connection refused", "--config.data.path=FILE")
    assert list(cache.iterdir()) == []
    register(monkeypatch, "https://nowhere.invalid/text", sha256(b""))
    refused(fetch, "https://nowhere.invalid/text", "--config.data.path=FILE")


def test_server_that_refuses_is_named(cache, monkeypatch):
    with server(lambda handler: handler.send_error(404)) as (address, _):
        register(monkeypatch, address, sha256(b""))
        refused(fetch, address, "HTTP 404 Not Found")
    with server(lambda handler: handler.close_connection) as (address, _):
        register(monkeypatch, address, sha256(b""))
        refused(fetch, address, "closed connection")
    assert list(cache.iterdir()) == []


def test_silent_server_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "TIMEOUT", 0.1)
    done = threading.Event()
    with server(lambda handler: done.wait(5)) as (address, _):
        register(monkeypatch, address, sha256(b""))
        refused(fetch, address, "timed out")
        done.set()
    assert list(cache.iterdir()) == []


def test_a_trickle_is_given_up_too(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "TIMEOUT", 0.1)

    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):  # 5 s
            handler.wfile.write(b"a")
            time.sleep(0.05)

    began = time.monotonic()
    with server(trickle) as (address, _):
        register(monkeypatch, address, sha256(b"a" * 100))
        refused(fetch, address, "bytes came in 0 s; --config")
        assert time.monotonic() - began < 2
    assert list(cache.iterdir()) == []


def test_headers_that_trickle_are_given_up_too(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "TIMEOUT", 0.1)

    def trickle(handler):
        handler.send_response(200)
        handler.flush_headers()
        with contextlib.suppress(OSError):  # it is not listened to any more
            for _ in range(30):  # 1.5 s
                handler.wfile.write(b"X")
                time.sleep(0.05)

    began = time.monotonic()
    with server(trickle) as (address, _):
        register(monkeypatch, address, sha256(b""))
        refused(fetch, address, "no answer came in 0 s; --config")
        assert time.monotonic() - began < 1
    assert list(cache.iterdir()) == []


def test_what_a_server_says_is_told_in_one_line(cache, monkeypatch):
    def again(handler):
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        handler.end_headers()

    for answer, told in (
        (again, "would lead to an infinite loop. The last 30x error message was: Found; --config"),
        (lambda handler: handler.wfile.write(b"220 mail\r\n"), "220 mail; --config"),
    ):
        with server(answer) as (address, _):
            register(monkeypatch, address, sha256(b""))
            refused(fetch, address, told)


def test_md5_and_file_addresses(tmp_path, monkeypatch):
    path = tmp_path / "original.txt"
    path.write_text(TEXT)
    digest = hashlib.md5(TEXT.encode(), usedforsecurity=False).hexdigest()
    register(monkeypatch, path.as_uri(), f"md5:{digest}")
    assert fetch().bytes == len(TEXT)


def tar_of(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return packed.getvalue()


def test_folder_of_an_archive_is_concatenated_and_verified(cache, monkeypatch):
    members = {
        "top/README.txt": b"no",
        "top/plays/b.txt": b"second",
        "top/plays/a.txt": b"first, ",
        "top/plays/c.md": b"no",
    }
    packed = tar_of(members)
    with server(sends(packed)) as (address, _):
        register(monkeypatch, address, sha256(b"first, second"), folder="plays")
        corpus = fetch()
        assert corpus.vocabulary.decode(corpus.tokens) == "first, second"
        assert (cache / "text.txt").read_bytes() == b"first, second"
    for broken in (packed[:-20], b"not an archive", b""):
        (cache / "text.txt").unlink(missing_ok=True)
        with server(sends(broken)) as (address, _):
            register(monkeypatch, address, sha256(b"first, second"), folder="plays")
            refused(fetch, address, "is no tar archive")
        assert list(cache.iterdir()) == []


def test_member_of_a_zip_is_read_from_it(cache, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", TEXT)
    raw = packed.getvalue()
    with server(sends(raw)) as (address, _):
        register(monkeypatch, address, sha256(raw), member="member")
        corpus = fetch(level="byte")
    assert bytes(corpus.tokens) == TEXT.encode()
    assert corpus.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_registry_is_pinned():
    for remotes in corpora.REMOTES.values():
        for remote in remotes:
            algorithm, _, digest = remote.digest.partition(":")
            assert len(digest) == 2 * hashlib.new(algorithm, usedforsecurity=False).digest_size
    files = [remote.file for remotes in corpora.REMOTES.values() for remote in remotes]
    assert len(files) == len(set(files))


def test_cache_folder_without_the_variable(monkeypatch):
    monkeypatch.delenv("RNNLAB_CACHE")
    assert cache_module.folder().name == "rnnlab"


def test_a_gzip_file_is_expanded(cache, monkeypatch):
    raw = TEXT.encode()
    with server(sends(gzip.compress(raw))) as (address, _):
        register(monkeypatch, f"{address}.gz", sha256(raw))
        assert fetch().sha256 == hashlib.sha256(raw).hexdigest()
        assert (cache / "text.txt").read_bytes() == raw


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(TEXT.encode(), mtime=0)[:-9]], ids=["text", "cut"]
)
def test_what_is_no_gzip_file_is_refused(body, cache, monkeypatch):
    with server(sends(body)) as (address, _):
        register(monkeypatch, f"{address}.gz", sha256(TEXT.encode()))
        with pytest.raises(UsageError, match=r"text.gz sends is no gzip file"):
            fetch()
        assert not list(cache.glob("*.part"))
