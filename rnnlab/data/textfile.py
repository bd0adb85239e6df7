"""Bytes to text: which encoding a file is in, and what is no text at all.

An encoding of None stands for UTF-8 unless the file begins with a byte order mark, which says UTF-8,
UTF-16 or UTF-32 and is no part of the text. Nothing else is guessed: what looks like UTF-16 without a mark,
is full of NULs or another kind of file is refused by name. What gzip has packed is unpacked first
(`archives.unpacked`).
"""

import codecs
import re
import unicodedata
from pathlib import Path

import numpy as np

from rnnlab.data import archives
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError

# What runs did whose config has no data.encoding: UTF-8, and a byte order mark is a symbol.
OLDER = "utf-8, marks and all"
HEAD = 4096  # bytes by which a file is judged
LEAST = 10  # one control character of so many, and it is no text
BLANK = 16  # as many NULs side by side are none either
_MARKS = (  # the longer ones first, as that of UTF-16 begins one of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_KINDS = tuple(
    (re.compile(start, re.DOTALL), kind)
    for start, kind in (
        (rb"\x89PNG\r\n", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"GIF8[79]a", "a GIF image"),
        (rb"II\*\x00|MM\x00\*", "a TIFF image"),
        (rb"RIFF....WEBP", "a WebP image"),
        (rb"RIFF....WAVE", "a WAV sound"),
        (rb"RIFF....AVI ", "an AVI video"),
        (rb"\x00{3}.ftyp", "an MP4 video"),
        (rb"\x1aE\xdf\xa3", "a Matroska video"),
        (rb"OggS\x00", "an Ogg file"),
        (rb"fLaC\x00", "a FLAC sound"),
        (rb"PK\x03\x04|PK\x05\x06", "a zip archive (a .docx or .xlsx is one too)"),
        (rb"\x1f\x8b", "a gzip file in a gzip file"),
        (rb"BZh[1-9]1AY&SY", "a bzip2 file"),
        (rb"\xfd7zXZ\x00", "an xz file"),
        (rb"\x28\xb5\x2f\xfd", "a zstd file"),
        (rb"7z\xbc\xaf", "a 7z archive"),
        (rb"Rar!\x1a", "a RAR archive"),
        (rb".{256}\x00ustar", "a tar archive"),
        (rb"%PDF-", "a PDF"),
        (rb"\xd0\xcf\x11\xe0", "a Microsoft Office file"),
        (rb"\x7fELF", "a program"),
        (rb"\x93NUMPY", "a NumPy array"),
        (rb"\x89HDF\r\n", "an HDF5 file"),
        (rb"SQLite format 3\x00", "an SQLite database"),
    )
)
# The control characters that no text has: of C0 all but backspace, tab, line feed, vertical tab, form
# feed, carriage return and escape.
CONTROLS = bytes(c for c in range(32) if c not in b"\b\t\n\v\f\r\x1b")
_IS_CONTROL = np.isin(np.arange(256), np.frombuffer(CONTROLS, np.uint8))


def checked(encoding: str | None) -> str | None:
    """The encoding by the name that Python has for it. Raises UsageError for what is none."""
    if encoding in (None, "", "auto"):
        return None
    if encoding == OLDER:
        return encoding
    try:
        found = codecs.lookup(encoding).name
        codecs.getincrementaldecoder(found)
        b"a".decode(found, "replace")  # what turns bytes into bytes is none
    except (LookupError, ValueError, TypeError):
        raise UsageError(
            f"data.encoding '{encoding}' is no encoding of texts that Python knows: utf-8, utf-16-le, "
            "latin-1 and cp1252 are some"
        ) from None
    return found


def marked(head: bytes) -> tuple[str | None, int]:
    """(the encoding that a byte order mark tells, how many bytes that mark has); (None, 0) without one."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    return None, 0


def encoding_of(head: bytes, name: str, encoding: str | None) -> tuple[str, int]:
    """(the encoding of a file that begins with `head`, how many of its bytes are a mark).

    encoding: that it is said to be in, see `checked`. Raises UsageError if the mark contradicts it.
    """
    if encoding == OLDER:
        return "utf-8", 0
    found, length = marked(head)
    if found is None:
        return encoding or "utf-8", 0
    wide = found.removesuffix("-le").removesuffix("-be")  # whose codec reads both orders
    if encoding not in (None, found, wide, "utf-8-sig" if wide == "utf-8" else None):
        raise UsageError(
            f"{name} begins with the byte order mark of {found.upper()}, and data.encoding is "
            f"'{encoding}': leave that unset, and the mark is followed"
        )
    return found, length


def kind_of(head: bytes) -> str:
    """What a file that begins with these bytes is, "a PNG image" say; "" if it may be a text."""
    return next((kind for start, kind in _KINDS if start.match(head)), "")


def unmarked(head: bytes) -> str:
    """The encoding of two or four bytes a character that makes a text of these bytes, which have NULs
    or other controls where no text has any; "" if none does."""
    zeros = np.flatnonzero(np.frombuffer(head, np.uint8) == 0)
    for name, width, lane in (
        *(("utf-32-le", 4, 3), ("utf-32-be", 4, 0)),
        *(("utf-16-le", 2, 1), ("utf-16-be", 2, 0)),
    ):
        whole = head[: len(head) // width * width]
        try:
            text = codecs.getincrementaldecoder(name)().decode(whole)
        except UnicodeDecodeError:
            continue
        kinds = {unicodedata.category(c) for c in set(text) - {*"\t\n\r\f"}}
        if not text or kinds & {"Cc", "Cn", "Co", "Cs"}:
            continue
        # Where there are blanks or Latin letters their upper bytes are NULs; without any, all letters
        # are of one alphabet, whose characters share their upper byte.
        if width == 4 or (len(zeros) and (zeros % 2 == lane).mean() > 0.9):
            return name
        if not len(zeros) and len({ord(c) >> 8 for c in text}) == 1:
            return name
    return ""


def not_text(name: str, head: bytes, what: str) -> UsageError:
    """The error for what is no text, of which `what` is said, with a hint at what it may be."""
    if guess := unmarked(head):
        return UsageError(
            f"{name} looks like {guess.upper()} without a byte order mark: data.encoding={guess} reads it"
        )
    return UsageError(
        f"{name} {what}, and is no text in the encoding that was taken: data.encoding names another one"
    )


class Decoder:
    """The bytes of one file to code points, piece by piece. name: for messages; encoding: see `checked`.

    raw: bytes stay bytes, unless a mark or `encoding` tells how to read them: then they become those
    of UTF-8.
    """

    def __init__(self, name: str, encoding: str | None, *, raw: bool = False):
        self.name, self.encoding, self.raw = name, checked(encoding), raw
        self.found, self.mark = "", 0  # what the file is in, and how long its mark is
        self._head = b""
        self._held: bytes | None = b""  # until enough of the file is there to be judged
        self._offset = 0  # bytes decoded
        self._nuls = self._controls = self._points = 0

    def codes(self, piece: bytes, *, final: bool) -> np.ndarray:
        """The code points, unsigned integers [n], or for `raw` bytes, that this piece completes.

        Raises UsageError for what is no text, or not in the encoding, with the byte.
        """
        if self._held is not None:
            self._held += piece
            if len(self._held) < HEAD and not final:
                return np.zeros(0, np.uint8)
            piece, self._held = self._held, None
            piece = self._begun(piece)
        if self.raw and not self._recoded:
            return np.frombuffer(piece, np.uint8)
        pending = len(self._decoder.getstate()[0])
        if self.found == "utf-8" and not pending and piece.isascii():
            self._offset += len(piece)
            codes = np.frombuffer(piece, np.uint8)
        else:
            try:
                text = self._decoder.decode(piece, final)
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                raise self._undecodable(self._offset - pending + start) from None
            self._offset += len(piece)
            if self.raw:
                return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        if not self.raw:
            self._check(codes, final)
        return codes

    def _begun(self, content: bytes) -> bytes:
        """What is to be decoded of the file's beginning."""
        self._head = content[:HEAD]
        self.found, self.mark = encoding_of(self._head, self.name, self.encoding)
        self._recoded = bool(self.mark) or self.encoding not in (None, OLDER)
        if self.raw and self.mark and self.encoding is None and not _reads(self._head, self.found):
            # No mark then: chance, in bytes of another kind.
            self._recoded, self.found, self.mark = False, "utf-8", 0
        if not self.raw and (kind := kind_of(self._head)):
            raise UsageError(
                f"{self.name} is {kind}, and no text: data.glob says which files of a folder are read, "
                "data.level=byte reads any"
            )
        self._decoder = codecs.getincrementaldecoder(self.found)()
        self._offset = self.mark
        return content[self.mark :]

    def _undecodable(self, at: int) -> UsageError:
        if b"\0" in self._head and (guess := unmarked(self._head)) and guess != self.found:
            return not_text(self.name, self._head, "")
        where = f"{self.name} is not valid {self.found.upper()} at byte {at}"
        if self.mark:
            return UsageError(f"{where}, which its byte order mark says it is: it may be cut off")
        return UsageError(
            f"{where}: --config.data.encoding names "
            "another encoding, latin-1 say, and --config.data.level=byte reads any file"
        )

    def _check(self, codes: np.ndarray, final: bool) -> None:
        """Raise UsageError for what no text has so much of."""
        if self.encoding == OLDER:
            return
        low = codes[codes < 32]
        self._nuls += int((low == 0).sum())
        self._controls += int(_IS_CONTROL[low].sum())
        self._points += len(codes)
        if self._points >= HEAD or final:
            _check_share(self.name, self._head, self._nuls, self._controls, self._points)
        if len(low) >= BLANK and codes.astype("<u4").tobytes().find(bytes(4 * BLANK)) >= 0:
            raise not_text(self.name, b"", f"has {BLANK} NULs and more side by side")


def _check_share(name: str, head: bytes, nuls: int, controls: int, points: int) -> None:
    """Raise UsageError if too many of the characters are controls. head: bytes of the file."""
    if controls * LEAST > points:
        what = "NULs" if 2 * nuls > controls else "control characters"
        raise not_text(name, head, f"is full of {what}")


def _reads(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def decoded(content: bytes, name: str, encoding: str | None = None) -> str:
    """The text of a file's bytes, without its byte order mark. encoding: see `checked`.

    Raises UsageError, with the line, for bytes that are not of the encoding, and for what is no text.
    """
    found, mark = encoding_of(content[:4], name, checked(encoding))
    body = content[mark:]
    head = content[:HEAD]
    if kind := kind_of(head):
        raise UsageError(f"{name} is {kind}, and no text")
    try:
        text = body.decode(found)
    except UnicodeError as error:
        if b"\0" in head and unmarked(head) not in ("", found):
            raise not_text(name, head, "") from None
        before = body[: getattr(error, "start", 0)].decode(found, "replace")
        where = f"{name}:{before.count(chr(10)) + 1} is not {found.upper()}"
        if mark:
            raise UsageError(f"{where}, which the file's byte order mark says it is") from None
        raise UsageError(
            f"{where}, and no byte order mark says what it is: save it as UTF-8, or name its data.encoding"
        ) from None
    controls = sum(map(text.count, map(chr, CONTROLS)))
    _check_share(name, head, text.count("\0"), controls, len(text))
    if "\0" * BLANK in text:
        raise not_text(name, b"", f"has {BLANK} NULs and more side by side")
    return text


def read(path: Path, encoding: str | None = None) -> str:
    """The text of a file, unpacked if gzip has packed it; see `decoded`. Raises UsageError, with the
    file."""
    with reading(path):
        with archives.unpacked(path) as file:
            content = file.read()
        return decoded(content, str(path), encoding)


def lines(path: Path, encoding: str | None = None) -> list[str]:
    r"""The lines of a text file, split on "\n" alone, without what ends them; see `read`."""
    return split(read(path, encoding))


def split(text: str) -> list[str]:
    r"""Its lines, split on "\n" alone, without what ends them, "\r\n" say."""
    found = text.split("\n")
    return [line.removesuffix("\r") for line in (found if found[-1] else found[:-1])]
