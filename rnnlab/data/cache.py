"""The cache folder: downloads and encoded texts, each there whole or not at all.

A file is written as NAME.part, under a lock, and renamed. Where the file system has no locks, each process
that needs it writes one of its own, which comes to the same.
"""

import hashlib
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import platformdirs

from rnnlab.data import archives
from rnnlab.data.reading import reading, reason_of
from rnnlab.errors import StorageError, UsageError, lacking

try:
    import fcntl
except ImportError:  # Windows, where this can be imported and no more
    fcntl = None

CHUNK = 1 << 20  # bytes a read
# A download ends after TIMEOUT seconds without a byte, or with fewer than LEAST, since what trickles
# would take for ever, and after twice TIMEOUT without an answer.
TIMEOUT, LEAST = 30.0, 4 << 10


class Remote(NamedTuple):
    """A file of a public corpus.

    file: its name in the cache folder.
    address: what is downloaded; if it ends in .gz and the file does not, the file is what that holds.
    digest: "sha256:..." or "md5:..." of the file in the cache folder.
    folder: if the address is a tar archive, the folder in it whose *.txt, concatenated in the
      order of their names, are the file. Archives made on demand are not stable byte for byte;
      their contents are.
    member: if the file is a zip archive, the member that is the text.
    """

    file: str
    address: str
    digest: str
    folder: str
    member: str


def folder() -> Path:
    """The folder of downloads and encoded texts; it may not exist yet."""
    named = os.environ.get("RNNLAB_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("rnnlab"))


def place(target: Path, valid: Callable[[], bool], write: Callable[[BinaryIO], None]) -> None:
    """Unless `valid()`, let `write` fill TARGET.part and rename that to TARGET.

    Of several processes one writes and the others wait for it. Whatever `write` raises, the part
    file is removed. Raises StorageError.
    """
    if valid():
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            part = Path(file.name)
            try:
                if not valid():
                    file.truncate(0)
                    write(file)
                    file.flush()
                    try:
                        os.fsync(file.fileno())
                    except OSError as error:
                        if not lacking(error):
                            raise
                    os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {reason_of(error)}; RNNLAB_CACHE names another folder"
        ) from None


def _locked(path: Path) -> BinaryIO:
    """The file at `path`, created, open for appending and locked; or one that is this process's own."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115
        try:
            if not _flocked(file):
                file.close()
                own = f"{path.stem}.{uuid.uuid4().hex}{path.suffix}"
                path.unlink(missing_ok=True)
                return open(path.with_name(own), "a+b")
            # Its last owner may have renamed or removed it while this process waited.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _flocked(file: BinaryIO) -> bool:
    """Wait until the file is locked; whether the file system could."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if not lacking(error):
            raise
        return False
    return True


def fetch(remote: Remote) -> Path:
    """The verified file in the cache folder, downloaded if it is not there or is damaged."""
    target = folder() / remote.file

    def valid() -> bool:
        try:
            with open(target, "rb") as file:
                return _digest(file, remote.digest) == remote.digest
        except OSError:
            return False

    def write(file: BinaryIO) -> None:
        for piece in _received(remote.address):
            file.write(piece)
        if remote.folder:
            _unpack(file, remote)
        elif remote.address.endswith(".gz") and not remote.file.endswith(".gz"):
            _expand(file, remote)
        found = _digest(file, remote.digest)
        if found != remote.digest:
            raise UsageError(
                f"{remote.file} from {remote.address} is not the file expected: "
                f"{remote.digest} expected, {found} found"
            )

    place(target, valid, write)
    return target


def _digest(file: BinaryIO, like: str) -> str:
    """The digest of the whole file, in the form of `like`, "sha256:..." or "md5:..."."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while piece := file.read(CHUNK):
        digest.update(piece)
    return f"{algorithm}:{digest.hexdigest()}"


def _private(address: str) -> bool:
    """Whether nobody on the way can read or change what is fetched: https, or this machine itself."""
    parts = urllib.parse.urlsplit(address)
    local = parts.scheme == "http" and parts.hostname == "127.0.0.1"
    return local or parts.scheme in ("https", "file")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from an encrypted address to one that is not. (urllib follows none to a file.)"""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if not _private(newurl) or (req.type == "https" and not newurl.startswith("https:")):
            fp.close()
            raise urllib.error.URLError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _answer(request: urllib.request.Request) -> Any:
    """The response, its headers read. In a thread, as no timeout of a socket ends the wait for headers
    that come a byte now and then; a thread that is given up ends with the process. Raises what urllib
    does, and TimeoutError."""
    answers: queue.Queue[Any] = queue.Queue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            found = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        except BaseException as error:
            answers.put(error)
            return
        answers.put(found)
        if given_up.is_set():
            found.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=2 * TIMEOUT)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer came in {2 * TIMEOUT:.0f} s") from None
    if not isinstance(found, BaseException):
        return found
    try:
        raise found
    finally:
        del found  # or it would hold itself, by its traceback


def _received(address: str) -> Iterator[bytes]:
    """The bytes at `address` in pieces; UsageError unless all of them arrive."""
    if not _private(address):
        raise UsageError(f"{address} is not fetched: only https addresses are")
    request = urllib.request.Request(address, headers={"User-Agent": "rnnlab"})
    count, reason = 0, ""
    began, before = time.monotonic(), 0
    try:
        with _answer(request) as response:
            length = response.headers.get("Content-Length")
            while piece := response.read1(CHUNK):  # what is there; `read` waits for all of it
                count += len(piece)
                yield piece
                if (now := time.monotonic()) - began > TIMEOUT:
                    if count - before < LEAST:
                        raise TimeoutError(
                            f"only {count - before} bytes came in {now - began:.0f} s"
                        )
                    began, before = now, count
        if length is not None and int(length) != count:
            reason = f"the connection closed after {count} of {length} bytes"
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {' '.join(str(error.reason).split())}"
    except (OSError, http.client.HTTPException) as error:
        reason = reason_of(error)
    if reason:
        raise UsageError(
            f"could not fetch {address}: {reason}; --config.data.path=FILE reads a local copy"
        )


def _unpack(file: BinaryIO, remote: Remote) -> None:
    """Replace a tar archive by the texts of its folder, in place."""

    def wanted(path: PurePosixPath) -> bool:
        return path.parent.name == remote.folder and path.suffix == ".txt"

    try:
        texts = archives.members(file, remote.address, wanted)
    except archives.DAMAGED:
        raise UsageError(f"what {remote.address} sends is no tar archive") from None
    file.seek(0)
    file.truncate()
    for name in sorted(texts):
        file.write(texts[name])


def _expand(file: BinaryIO, remote: Remote) -> None:
    """Replace a gzip file by what it holds, in place."""
    file.seek(0)
    try:
        content = archives.gunzip(file, remote.address)
    except (OSError, EOFError, zlib.error):
        raise UsageError(f"what {remote.address} sends is no gzip file") from None
    file.seek(0)
    file.truncate()
    file.write(content)


def local(folder: Path, name: str) -> bytes:
    """The file `name` of a folder of the user's, or NAME.gz there; what is packed by gzip is unpacked,
    whichever the name. Raises UsageError if it is missing or damaged."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            with reading(f"{name} in {folder}"), archives.unpacked(path) as file:
                return file.read()
    raise UsageError(f"data.path {folder} has no {name}, nor {name}.gz")
