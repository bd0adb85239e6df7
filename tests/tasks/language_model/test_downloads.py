"""Texts that are downloaded: once, verified, and refused in one line."""

import contextlib
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager

import pytest

from rnnlab.data import cache as cache_module
from rnnlab.data.cache import Remote
from rnnlab.errors import UsageError
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.language_model.corpora import load
from tests.data.small import refused
from tests.tasks.language_model.small import TEXT

pytestmark = pytest.mark.usefixtures("cache")


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
