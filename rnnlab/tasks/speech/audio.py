"""Sound to numbers: wav files, and log-mel features."""

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft

from rnnlab.data import optional, scaling
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError

# Of what the ear (or a microphone) has as its least: a frame of digital silence has no logarithm.
FLOOR = 1e-10
# A chunk of about 2 or 4 GiB: written to a pipe, by who did not know the length (0x7ffff000, 0xffffffff).
UNKNOWN = 0x7F000000


class Mel(NamedTuple):
    """How features are made of samples; what a folder of speech at 8 kHz takes by default."""

    rate: int = 8000  # samples a second
    window: int = 200  # samples a frame: 25 ms
    hop: int = 80  # samples from one frame to the next: 10 ms
    size: int = 256  # of the FFT; the window is filled up with zeros
    bands: int = 40
    low: float = 60.0  # Hz, where the first band begins,
    high: float = 4000.0  # and where the last one ends


def read(path: Path, rate: int) -> np.ndarray:
    """float32 [N] in [-1, 1], the samples of a sound file with one channel (wav, FLAC ...). A wav file that
    was written to a pipe, whose header does not know its length, is read to its end.

    Raises UsageError, which names the file, for one that is missing, empty, cut off or no sound, that
    has other than `rate` samples a second or more than one channel, or a sample that is not finite.
    """
    soundfile = optional.needed("soundfile", "reading sound files")
    if not path.is_file():
        raise UsageError(f"there is no sound file {path}")
    with reading(f"the sound file {path}"):
        data = _data(path)
        try:
            with soundfile.SoundFile(data.mended or path) as sound:
                said, actual, channels = sound.frames, sound.samplerate, sound.channels
                samples = sound.read(dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError) as error:
            reason = str(error).rpartition(": ")[2].strip().rstrip(".")
            raise UsageError(f"cannot read the sound file {path}: {reason}") from None
    if channels != 1:
        raise UsageError(f"{path} has {channels} channels, and one is read: mix it down to mono")
    if actual != rate:
        raise UsageError(f"{path} has {actual} samples a second, not {rate}: resample it")
    if data.missing:
        raise UsageError(
            f"{path} is cut off: its header tells of {data.missing} bytes more than it has"
        )
    if not len(samples):
        raise UsageError(f"{path} has no samples: remove it, or get it anew")
    if len(samples) != said:
        raise UsageError(f"{path} is cut off: {len(samples)} of {said} samples are there")
    if not np.isfinite(samples).all():
        raise UsageError(f"{path} has a sample that is not finite")
    return samples[:, 0]


class Data(NamedTuple):
    """What there is to say of the samples in a file beyond what libsndfile says."""

    missing: int  # bytes that a RIFF file lacks: libsndfile reads what is there and says nothing
    mended: io.BytesIO | None  # the file with its true length, where libsndfile would read none


def _data(path: Path) -> Data:
    """Of a RIFF file, by its "data" chunk. (RIFF: chunks of 4 bytes name, 4 bytes little-endian size, and
    so many bytes, padded to an even number.)"""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return Data(0, None)
        at = 12
        while at + 8 <= size:
            file.seek(at)
            name, length = file.read(4), int.from_bytes(file.read(4), "little")
            if name != b"data":
                at += 8 + length + length % 2
            elif length >= UNKNOWN:
                return Data(0, None)
            elif length or _chunks(rest := file.read()):
                return Data(max(at + 8 + length - size, 0), None)
            else:
                file.seek(0)
                head = file.read(at + 4)
                return Data(0, io.BytesIO(head + len(rest).to_bytes(4, "little") + rest))
    return Data(0, None)


def _chunks(content: bytes) -> bool:
    """Whether this is chunks of a RIFF file, or nothing, rather than samples."""
    at = 0
    while at + 8 <= len(content) and re.match(rb"[ -~]{4}", content[at : at + 4]):
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return at in (len(content), len(content) + 1)  # the last one's padding may be left out


def to_mel(hertz: Any) -> Any:
    """2595 log10(1 + f / 700): O'Shaughnessy 1987, as in the HTK Book (Young et al. 2006, 5.4)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)


def from_mel(mel: Any) -> Any:
    """The inverse of `to_mel`, in Hz."""
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


@lru_cache(maxsize=8)
def filters(mel: Mel) -> np.ndarray:
    """float32 [bands, size / 2 + 1]: triangles of height 1 whose corners are equally far from each
    other in mel, each reaching from the middle of the one before to that of the next (HTK Book 5.4;
    there they are linear in mel, here in Hz, as in Slaney 1998).

    Raises UsageError for a band between two bins of the FFT, which would hear nothing, and for sizes
    that do not fit together.
    """
    if not 0 < mel.hop <= mel.window <= mel.size or mel.bands < 1:
        raise UsageError(
            f"a hop, a window and an FFT must grow in this order, and have bands: {mel}"
        )
    if not 0 <= mel.low < mel.high <= mel.rate / 2:
        raise UsageError(
            f"bands from {mel.low} to {mel.high} Hz do not lie between 0 and half of {mel.rate} Hz"
        )
    corners = from_mel(np.linspace(to_mel(mel.low), to_mel(mel.high), mel.bands + 2))
    bins = np.arange(mel.size // 2 + 1) * (mel.rate / mel.size)  # Hz
    left, middle, right = (corners[i : i + mel.bands, None] for i in range(3))
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    weights = np.maximum(np.minimum(rising, falling), 0.0)
    deaf = np.flatnonzero(~weights.any(1))
    if deaf.size:
        raise UsageError(
            f"band {deaf[0] + 1} of {mel.bands} has no bin of an FFT of {mel.size} samples: take "
            "fewer bands, or a longer FFT"
        )
    return weights.astype(np.float32)


def frames(samples: int, mel: Mel) -> int:
    """How many frames so many samples have: those that fit, and one of a shorter sound."""
    return 1 + max(samples - mel.window, 0) // mel.hop


def power(samples: np.ndarray, mel: Mel) -> np.ndarray:
    """[T, size / 2 + 1]: |FFT|^2 of each frame times a (periodic) Hann window. Frame t begins at
    sample t x hop; what is too short for one is filled up with zeros. Float32 for float32."""
    if len(samples) < mel.window:
        samples = np.concatenate([samples, np.zeros(mel.window - len(samples), samples.dtype)])
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(mel.window) / mel.window)
    found = sliding_window_view(samples, mel.window)[:: mel.hop] * window.astype(samples.dtype)
    spectrum: Any = fft.rfft(found, mel.size)
    return spectrum.real**2 + spectrum.imag**2


def log_mel(samples: np.ndarray, mel: Mel) -> np.ndarray:
    """float32 [T, bands]: the natural logarithm of the power in each band, at least FLOOR."""
    heard = power(np.asarray(samples, np.float32), mel) @ filters(mel).T
    return np.log(np.maximum(heard, np.float32(FLOOR)))


def normalised(features: np.ndarray) -> np.ndarray:
    """Of zero mean over the frames of the utterance [T, bands], band by band, so that neither the
    loudness nor the microphone matters, and of unit variance over all of it."""
    centred = features - features.mean(0)
    centred[:, scaling.constant(features, features.dtype)] = 0.0  # silence, and no rounding noise
    return centred / np.maximum(centred.std(), np.float32(1e-5))


def stacked(features: np.ndarray, count: int) -> np.ndarray:
    """[ceil(T / count), count x bands]: `count` frames side by side are one step of a network, the
    last filled up with zeros (Sak et al. 2015)."""
    time, bands = features.shape
    steps = -(-time // count)
    whole = np.zeros((steps * count, bands), features.dtype)
    whole[:time] = features
    return whole.reshape(steps, count * bands)
