"""Strings of spoken digits, of the Free Spoken Digit Dataset's clips."""

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import folders
from rnnlab.data.draws import EVALUATE, TEST, TRAIN, Random
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.run.folder import unchanged
from rnnlab.tasks.speech import audio
from rnnlab.tasks.speech.sounds import MEL, Sounds
from rnnlab.types import Config

_NAME = re.compile(r"(\d)_([^_]+)_(\d{1,9})\.wav")
QUIET = 40.0  # dB that an utterance of digits is above the noise of its silences
FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"
RATE = MEL["fsdd"].rate  # samples a second
Parts = dict[int, dict[str, list[list[np.ndarray]]]]  # purpose -> speaker -> digit -> clips


class Clips(NamedTuple):
    """A folder of spoken digits."""

    samples: dict[tuple[str, int, int], np.ndarray]  # (speaker, digit, index) -> float32 [N]
    sha256: str  # of names and samples


@functools.lru_cache(maxsize=1)
def load(folder: str) -> Clips:
    """The clips of a folder. Raises UsageError for a folder that is not there or has none, and what
    `audio.read` raises, which names the file."""
    wanted = (
        f"a folder with FSDD's files {{digit}}_{{speaker}}_{{index}}.wav, which {FSDD} has in its "
        "folder 'recordings'"
    )
    if not folder:
        raise UsageError(f"set data.path to {wanted}: download and unpack it first")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.path {path} is no folder: it takes {wanted}")
    with reading(path):
        there = [path / name for name in folders.files(path) if name.endswith(".wav")]
    named = [(file, _NAME.fullmatch(file.name)) for file in there]
    if not any(match for _, match in named):
        raise UsageError(f"data.path {path} has no clips: it takes {wanted}")
    samples, digest = {}, hashlib.sha256()
    for file, match in named:
        if match is None:
            raise UsageError(
                f"{file} is not named {{digit}}_{{speaker}}_{{index}}.wav: rename it, or take it away"
            )
        digit, speaker, index = match.groups()
        if (speaker, int(digit), int(index)) in samples:
            raise UsageError(f"{file} is there twice, in another folder too: remove one")
        samples[speaker, int(digit), int(index)] = found = audio.read(file, RATE)
        digest.update(file.name.encode() + found.tobytes())
    return Clips(samples, digest.hexdigest())


def split(clips: Clips, held: str) -> Parts:
    """purpose -> speaker -> digit -> clips: see the head of this file. held: a speaker, or "".
    Raises UsageError for an unknown speaker, or a digit that a speaker does not say in a part."""
    speakers = sorted({speaker for speaker, _, _ in clips.samples})
    if held and held not in speakers:
        raise UsageError(f"data.speaker is '{held}', and there are {', '.join(speakers)}")
    if held and len(speakers) == 1:
        raise UsageError(f"data.speaker holds out '{held}', and there is no other speaker")
    parts: dict[int, dict[str, list[list[np.ndarray]]]] = {TRAIN: {}, EVALUATE: {}, TEST: {}}
    for (speaker, digit, index), samples in sorted(clips.samples.items()):
        if held:
            part = TEST if speaker == held else EVALUATE if 5 <= index < 10 else TRAIN
            if part != TEST and index < 5:  # the test of the official split stays unheard
                continue
        else:
            part = TEST if index < 5 else EVALUATE if index < 10 else TRAIN
        of_digit = parts[part].setdefault(speaker, [[] for _ in range(10)])
        of_digit[digit].append(samples)
    names = {TRAIN: "training", EVALUATE: "validation", TEST: "the test"}
    for part, by_speaker in parts.items():
        if not by_speaker:
            raise UsageError(f"the folder has no clips for {names[part]}, by their indices")
        for speaker, digits in by_speaker.items():
            for digit, there in enumerate(digits):
                if not there:
                    raise UsageError(
                        f"the folder has no clip of {speaker} saying {digit} for {names[part]}"
                    )
    return parts


@dataclass(frozen=True, eq=False)
class Strings:
    """Strings of digits, clips of one speaker after each other with faint noise between them."""

    seed: int
    parts: Parts
    shortest: int  # digits
    longest: int
    speed: float  # training is up to this share faster or slower
    noise: float  # dB that training is above noise at the least, or inf
    room: int  # samples at the most; a string ends before the digit that would exceed them

    def utterance(self, purpose: int, number: int) -> tuple[list[int], np.ndarray]:
        """See `Sounds.utterance`."""
        random = Random(self.seed, purpose, number)
        by_speaker, longest = self.parts[purpose], self.longest
        digits = by_speaker[sorted(by_speaker)[int(random.integers(0, len(by_speaker), (1,))[0])]]
        count = int(random.integers(self.shortest, longest + 1, (1,))[0])
        said = random.integers(0, 10, (longest,))[:count]
        which = random.integers(0, 2**31, (longest,))
        silences = (RATE * (0.05 + 0.2 * random.uniform((longest + 1,)))).astype(int)
        varied = random.uniform((2,))
        stretch = 1.0 + self.speed * (2.0 * varied[0] - 1.0) if purpose == TRAIN else 1.0
        pieces, symbols, total = [np.zeros(silences[0], np.float32)], [], silences[0]
        for place, digit in enumerate(said):
            clip = digits[digit][which[place] % len(digits[digit])]
            total += len(clip) + silences[place + 1]
            if symbols and total * stretch > self.room:
                break
            pieces += [clip, np.zeros(silences[place + 1], np.float32)]
            symbols.append(int(digit) + 1)
        samples = _stretched(np.concatenate(pieces), stretch)[: self.room]
        quiet = QUIET
        if purpose == TRAIN and math.isfinite(self.noise):
            quiet = self.noise + (QUIET - self.noise) * varied[1]
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-quiet / 20)
        return symbols, (samples + level * random.normal(samples.shape)).astype(np.float32)


def _stretched(samples: np.ndarray, by: float) -> np.ndarray:
    """As a tape at another speed, whose pitch changes too."""
    if by == 1.0:
        return samples
    places = np.arange(int(len(samples) * by)) / by
    return np.interp(places, np.arange(len(samples)), samples)


def spoken_digits(
    config: Config, seconds: float, chosen: dict[str, Any], kept: Path | None
) -> Sounds:
    """Strings of up to `seconds`, with the options `chosen` of config.data. Raises UsageError for options
    that do not fit, and clips that are missing, damaged or not those of the run in `kept`."""
    shortest, longest, speed = chosen["shortest"], chosen["longest"], chosen["speed"]
    if not 1 <= shortest <= longest:
        raise UsageError(
            f"data.shortest and data.longest are {shortest} and {longest}: they take 1 or more digits"
        )
    if not 0 <= speed < 0.5:
        raise UsageError(f"data.speed must be in [0, 0.5), got {speed}")
    with reading(chosen["path"]):
        clips = load(chosen["path"])
    unchanged(kept, "clips", chosen["path"], clips.sha256)
    parts = split(clips, chosen["speaker"])
    strings = Strings(
        config.seed, parts, shortest, longest, speed, chosen["noise"], room=int(seconds * RATE)
    )
    facts = {
        **{key: value for key, value in chosen.items() if key not in ("stack", "source")},
        "sha256": clips.sha256,
        "speakers": sorted(parts[TRAIN]),
        **{
            f"{name}_clips": sum(len(c) for d in parts[part].values() for c in d)
            for name, part in (("train", TRAIN), ("valid", EVALUATE), ("test", TEST))
        },
    }
    return Sounds(tuple("0123456789"), " ", longest, strings.utterance, ("wer",), facts)
