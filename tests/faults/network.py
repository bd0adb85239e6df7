"""Faults of the network, while a corpus is downloaded.

A server on this host does to a real training process what networks do: it refuses, stalls, cuts the
connection, sends what is broken, too short, or something else. Survived means: exit code 2 and one line
that names the address and says what to do, within the timeout; no .part file and no wrong file in the
cache folder; and with a healthy server the same command trains to the end, with the very text. (A kill
may leave a .part file; the next start makes away with it.)

All but the kills and the start of a run go through `cache.fetch` in this process, whose sockets are as
real: a process for each would only wait for JAX.
"""

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import signal
import socket
import ssl
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rnnlab.data import cache
from rnnlab.errors import RnnlabError, UsageError
from tests.faults.lab import Lab, Tally, differences

SHORT = 0.05
TIMEOUT = 0.5  # seconds without a byte
HERE = Path(__file__).resolve().parent


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    with Server() as server:
        yield from fetching(lab, server, share)
        yield changed(lab, server, share)
        yield trained(lab, server, share)
        if share >= 0.1:
            yield killed(lab, server, share)


# ---- the server


class Server:
    """A context: an HTTP server on a free port of this host, which does what `behave` does."""

    def __init__(self):
        self.behave: Callable[[http.server.BaseHTTPRequestHandler], None]
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    outer.behave(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/text"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self) -> "Server":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def answer(handler: Any, content: bytes, *, length: int | None = None, sent: int | None = None):
    """Send `content`, or the first `sent` bytes of it, and close; it is said to be `length` long."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content[:sent])
    handler.wfile.flush()


def trickle(handler: Any, content: bytes) -> None:
    """A byte now and then, sooner than anybody gives up, and so on for ever."""
    answer(handler, content, sent=10)
    for number in range(10, 100):
        time.sleep(TIMEOUT / 4)
        handler.wfile.write(content[number : number + 1])
        handler.wfile.flush()


def trickle_headers(handler: Any) -> None:
    """The same before the text begins: headers without an end."""
    handler.send_response(200)
    handler.flush_headers()
    for number in range(100):
        handler.wfile.write(b"X: y\r\n"[number % 6 :][:1])
        handler.wfile.flush()
        time.sleep(TIMEOUT / 4)


def stall(handler: Any, content: bytes, before: int) -> None:
    """Send so many bytes, and then none for longer than anybody waits."""
    answer(handler, content, sent=before)
    time.sleep(6 * TIMEOUT)


def chunked_and_cut(handler: Any, content: bytes) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n" % len(content) + content[:100])
    handler.wfile.flush()


def reset(handler: Any, content: bytes) -> None:
    """Cut the connection with an RST."""
    answer(handler, content, sent=1000)
    linger = b"\1\0\0\0\0\0\0\0"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def status(handler: Any, code: int, location: str = "") -> None:
    handler.send_response(code)
    if location:
        handler.send_header("Location", location)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def bad_header(handler: Any) -> None:
    handler.wfile.write(b"220 this is a mail server\r\n")


def tar_of(text: bytes) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        entry = tarfile.TarInfo("works/texts/one.txt")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return held.getvalue()


def zip_of(text: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text", text)
    return held.getvalue()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# ---- what goes wrong


def remotes(text: bytes, address: str) -> dict[str, tuple[cache.Remote, bytes]]:
    """Kind of corpus -> what is registered of it, and what a healthy server sends."""
    packed, folder, archive = gzip.compress(text, mtime=0), tar_of(text), zip_of(text)
    make = cache.Remote
    return {
        "plain": (make("plain.txt", address, digest(text), "", ""), text),
        "gzip": (make("gzip.txt", f"{address}.gz", digest(text), "", ""), packed),
        "tar": (make("tar.txt", address, digest(text), "texts", ""), folder),
        "zip": (make("archive.zip", address, digest(archive), "", "text"), archive),
    }


def faults(address: str) -> dict[str, Callable[[Any, bytes], None]]:
    """Row -> how a server answers that should have sent `content`."""
    loop = address + "?again"
    return {
        "slow: a byte now and then": trickle,
        "slow: a byte of the headers now and then": lambda h, _: trickle_headers(h),
        "slow: some bytes, then none": lambda h, content: stall(h, content, 10),
        "nothing at all is sent": lambda h, content: time.sleep(6 * TIMEOUT),
        "the connection is cut in the middle": lambda h, c: answer(h, c, sent=len(c) // 2),
        "it is cut by a reset": reset,
        "it is cut inside a chunk": chunked_and_cut,
        "longer than it says": lambda h, c: answer(h, c, length=len(c) - 7),
        "shorter than it says": lambda h, c: answer(h, c, length=len(c) + 7),
        "an empty body": lambda h, _: answer(h, b""),
        "HTTP 404": lambda h, _: status(h, 404),
        "HTTP 500": lambda h, _: status(h, 500),
        "a redirect to itself, for ever": lambda h, _: status(h, 302, loop),
        "a redirect to a local file": lambda h, _: status(h, 302, "file:///etc/hostname"),
        "no HTTP at all": lambda h, _: bad_header(h),
        "another file": lambda h, _: answer(h, b"<html>please log in</html>" * 99),
        "one bit of it flipped": lambda h, content: answer(h, flipped(content)),
        "the first half of it": lambda h, content: answer(h, content[: len(content) // 2]),
    }


def remains(folder: Path, good: bytes | None = None) -> str:
    """What is left in a cache folder that should not be."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    left = [path.name for path in files if good is None or path.read_bytes() != good]
    return f"left in the cache folder: {left}" if left else ""


@contextlib.contextmanager
def cached(lab: Lab) -> Iterator[Path]:
    """A cache folder of its own, and a small timeout, for what is fetched in this process."""
    folder, before = lab.place("fetched"), (cache.folder, cache.TIMEOUT)
    cache.folder, cache.TIMEOUT = lambda: folder, TIMEOUT
    try:
        yield folder
    finally:
        cache.folder, cache.TIMEOUT = before


def refused(remote: cache.Remote, good: tuple[bytes, ...] = ()) -> str:
    """Fetch what cannot be fetched; what is wrong with how that is told. Nothing is, if `good` could be
    made of it all the same: of an archive without its last bytes, say."""
    began = time.monotonic()
    try:
        if cache.fetch(remote).read_bytes() in good:
            return ""
    except UsageError as error:
        told, spent = str(error), time.monotonic() - began
        if "\n" in told or remote.address not in told:
            return f"told is: {told!r}"
        return f"it took {spent:.1f} s" if spent > 4 * TIMEOUT + 1 else ""
    except RnnlabError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # a traceback, in the launcher
        return f"{type(error).__name__} went through: {error}"
    return "what was sent is taken for the text"


def fetching(lab: Lab, server: Server, share: float) -> Iterator[Tally]:
    text = lab.text.read_bytes()
    kinds = remotes(text, server.address)
    listed = list(faults(server.address).items())
    row = Tally("download: no network, slow, cut, wrong length, wrong content, HTTP errors")
    for what, behave in listed if share >= 1 else listed[:: 2 if share >= 0.1 else 4]:
        for kind, (remote, content) in kinds.items():
            with cached(lab) as folder:
                server.behave = lambda h, behave=behave, content=content: behave(h, content)
                good = (content,) if remote.member else (text,)
                problem = refused(remote, good)
                if not problem and not (folder / remote.file).exists():
                    problem = remains(folder)
                server.behave = lambda h, content=content: answer(h, content)
                if not problem and cache.fetch(remote).read_bytes() not in good:
                    problem = "what a healthy server sends is another text"
                row.count("refused, then fetched", problem and f"{what}, {kind}: {problem}")
    yield row
    row = Tally("download: no such host, a closed port, TLS that fails")
    with closed_port() as port, tls() as secure:
        for what, address in {
            "no such host": "https://rnnlab.invalid/text",
            "a closed port": f"http://127.0.0.1:{port}/text",
            "TLS whose handshake fails": f"https://127.0.0.1:{secure}/text",
            "TLS where there is none": f"https://127.0.0.1:{server.port}/text",
        }.items():
            with cached(lab) as folder:
                remote = kinds["plain"][0]._replace(address=address)
                problem = refused(remote) or remains(folder)
                row.count("refused", problem and f"{what}: {problem}")
    yield row


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        yield held.getsockname()[1]


@contextlib.contextmanager
def tls() -> Iterator[int]:
    """The port of a server that ends each handshake with an alert, as one without a common cipher."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # it has no certificate to show

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with contextlib.suppress(OSError), connection:
                        context.wrap_socket(connection, server_side=True).close()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def changed(lab: Lab, server: Server, share: float) -> Tally:
    """Files of the cache folder that are damaged between two starts."""
    row = Tally("a damaged file in the cache folder: noticed, and fetched again")
    text = lab.text.read_bytes()
    damage: dict[str, Callable[[bytes], bytes]] = {
        "a bit flipped": flipped,
        "cut": lambda content: content[:100],
        "emptied": lambda _: b"",
        "longer": lambda content: content + b"!",
    }
    for _ in range(lab.many(10, share)):
        for remote, content in remotes(text, server.address).values():
            for what, change in damage.items():
                with cached(lab) as folder:
                    server.behave = lambda h, content=content: answer(h, content)
                    target = cache.fetch(remote)
                    whole = target.read_bytes()
                    target.write_bytes(change(whole))
                    part = target.with_name(f"{target.name}.part")
                    part.write_bytes(
                        whole[: lab.random.randint(0, 99)]
                    )  # of a start that was killed
                    again = cache.fetch(remote).read_bytes()
                    problem = "" if again == whole else f"{remote.file} {what}: not fetched again"
                    row.count("fetched again", problem or remains(folder, whole))
    return row


# ---- with real processes


def program(server: Server, text: bytes, **given: Any) -> tuple[str, str]:
    asked = {"address": server.address, "digest": digest(text), "timeout": TIMEOUT} | given
    return str(HERE / "_fetch.py"), json.dumps(asked)


def trained(lab: Lab, server: Server, share: float) -> Tally:
    row = Tally("train without a network, then with one: the run is the undisturbed one")
    text, workdir, folder = lab.text.read_bytes(), lab.place("net"), lab.place("net-cache")
    flags = lab.flags(workdir, "data.path=", "data.corpus=shakespeare")
    options = {"program": program(server, text), "environment": {"RNNLAB_CACHE": str(folder)}}
    server.behave = lambda h: stall(h, text, 10)
    done = lab.run("train", *flags, **options)
    told = (server.address, "could not fetch", "--config.data.path=FILE reads a local copy")
    problem = done.wrong(2, *told)
    if not problem and len(done.err.splitlines()) != 1:
        problem = done.err
    if not problem and ((folder / "fetched.txt").exists() or list(folder.glob("*.part"))):
        problem = f"left: {list(folder.iterdir())}"
    if not problem and workdir.exists():
        problem = "a run folder was made"
    if not problem and share >= 0.1:
        server.behave = lambda h: answer(h, text)
        problem = lab.run("train", *flags, **options).wrong(0)
        problem = problem or ", ".join(differences(lab.straight, workdir))
    row.count("one line, then trained" if share >= 0.1 else "one line", problem)
    return row


def killed(lab: Lab, server: Server, share: float) -> Tally:
    row = Tally("kill -9 in the middle of a download: the next start is clean")
    text = lab.text.read_bytes()
    asked = threading.Event()

    def slowly(handler: Any) -> None:
        answer(handler, text, sent=lab.random.randint(0, len(text) - 1))
        asked.set()
        time.sleep(3)

    for _ in range(lab.many(10, share)):
        workdir, folder = lab.place("net"), lab.place("net-cache")
        flags = lab.flags(workdir, "data.path=", "data.corpus=shakespeare", "train.steps=8")
        options = {
            "program": program(server, text, timeout=30.0),
            "environment": {"RNNLAB_CACHE": str(folder)},
        }
        asked.clear()
        server.behave = slowly
        process = lab.start("train", *flags, **options)
        while not asked.wait(0.1):
            assert process.poll() is None, process.communicate()[1]
        time.sleep(lab.random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.behave = lambda h: answer(h, text)
        problem = lab.run("train", *flags, **options).wrong(0)
        if not problem and (folder / "fetched.txt").read_bytes() != text:
            problem = "another text"
        if not problem and (left := list(folder.glob("*.part"))):
            problem = f"{left} was left"
        row.count("clean", problem)
    return row
