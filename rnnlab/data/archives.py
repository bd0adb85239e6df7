"""What is packed - gzip, tar, zip, .npy - read piece by piece, and never trusted.

Nothing is extracted: no file is made from a name in an archive, so that links and names with .. in
them lead nowhere. No more than MOST bytes come out, however little went in, and no pickle is loaded.
"""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from rnnlab.errors import UsageError

MOST = 1 << 30  # bytes that come out of one file
CHUNK = 1 << 20  # bytes a read
GZIP = b"\x1f\x8b"  # what gzip begins with
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError)


class Capped(io.RawIOBase):
    """A stream that has given out all it may: UsageError after MOST bytes. name: for the message."""

    def __init__(self, stream: Any, name: str):
        self._stream, self._name, self._left = stream, name, MOST

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        asked = self._left + 1 if size is None or size < 0 else min(size, self._left + 1)
        piece = self._stream.read(asked)
        self._left -= len(piece)
        if self._left < 0:
            raise UsageError(
                f"{self._name} holds more than {MOST >> 20} MiB when unpacked, which may be a bomb: if "
                "it is not, unpack it yourself"
            )
        return piece

    def close(self) -> None:
        self._stream.close()
        super().close()


def pieces(stream: Any, name: str) -> Iterator[bytes]:
    """What is left of a packed stream, capped. Raises UsageError, and whatever the stream raises."""
    capped = Capped(stream, name)
    while piece := capped.read(CHUNK):
        yield piece


def gunzip(file: BinaryIO, name: str) -> bytes:
    """What a gzip file holds. Raises UsageError beyond MOST, OSError, EOFError or zlib.error if it is
    damaged."""
    with gzip.GzipFile(fileobj=file, mode="rb") as stream:
        return b"".join(pieces(stream, name))


def unpacked(path: Path) -> Any:
    """What a file holds, or if gzip has packed it, whatever its name, what is in that: a stream to be
    read and closed. Raises OSError; reading it, UsageError beyond MOST or one of DAMAGED."""
    with open(path, "rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return Capped(gzip.GzipFile(path, "rb"), str(path)) if packed else open(path, "rb")


def members(file: BinaryIO, name: str, wanted: Callable[[PurePosixPath], bool]) -> dict[str, bytes]:
    """file name -> content, of the regular files of a tar archive, gzipped or not, whose path in it is
    `wanted`; of several with one name the last. Links, devices and folders are not looked at.

    Raises UsageError beyond MOST, one of DAMAGED if it is no such archive.
    """
    file.seek(0)
    packed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    stream: Any = Capped(gzip.GzipFile(fileobj=file, mode="rb") if packed else file, name)
    found = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if member.isreg() and wanted(path):
                content = archive.extractfile(member)
                # Of a sparse file the holes are not in the stream.
                found[path.name] = b"" if content is None else b"".join(pieces(content, name))
    return found


def member(path: Path, name: str) -> Capped:
    """The member `name` of a zip archive, to be read as a stream and closed. Raises OSError or
    zipfile.BadZipFile, KeyError without such a member; reading it, UsageError beyond MOST."""
    archive = zipfile.ZipFile(path)
    return Capped(archive.open(name), f"{path}/{name}")


def array(path: Path) -> np.ndarray:
    """The array of a .npy file as a read-only memory-map: what its header says of its size is true
    then. Raises OSError, ValueError or EOFError for anything else, an archive or Python objects say."""
    with open(path, "rb") as file:  # or NumPy would try it as an archive, and as a pickle
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("it is no array")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise
    except Exception as error:  # whatever its header makes of NumPy's parser
        raise ValueError(str(error) or type(error).__name__) from None
