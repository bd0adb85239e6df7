"""Morse code as it is heard: texts, keyed by hand at a speed that wavers, a tone that drifts, noise.

Timing (ITU-R M.1677-1): a dash is 3 dots long, the gap in a character 1, between characters 3 and
between words 7. At W words a minute a dot takes 1.2 / W seconds, as the word PARIS has 50 dots.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnlab.data.draws import Random
from rnnlab.errors import UsageError

RATE = 2000  # samples a second
_MARKS = """.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..-
-.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."""
CODE = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", _MARKS.split(), strict=True))
SYMBOLS = " " + "".join(CODE)
_WORDS = """THE AND YOU FOR ARE BUT NOT WITH THIS FROM HERE NAME RIG ANT PWR WATTS WX RAIN SUN COLD CQ DE TEST
TNX FER CALL RST UR QTH IS QSL QRZ QRM QSB BEST DX HPE CUL GM GA GE OM ES SHIP SOS PSE WEATHER RADIO
STATION SIGNAL GOOD MORNING NORTH WEST SOUTH EAST HARBOR NIGHT"""
WORDS = tuple(_WORDS.split())
_LONGEST = 19  # dots of the character 0
EDGE = 0.004  # seconds in which the tone comes and goes, as sin^2: a key that clicks is heard afar


class Ranges(NamedTuple):
    """Between what the values of an utterance are drawn, evenly."""

    slowest: float = 18.0  # words a minute, of the whole utterance
    fastest: float = 32.0
    waver: float = 0.1  # all lengths grow and shrink in the course of it by this share,
    jitter: float = 0.08  # and each by a normal one of this standard deviation, at most 3 of them
    pitch: tuple[float, float] = (400.0, 800.0)  # Hz, at the beginning
    drift: float = 40.0  # Hz, the most that the pitch leaves it by


def text(random: Random, words: int) -> str:
    """So many words, one space between two: half of them of WORDS, the others 1 to 5 random letters
    or, one in three, digits."""
    kinds = random.uniform((words,))
    known = random.integers(0, len(WORDS), (words,))
    sizes = random.integers(1, 6, (words,))
    letters = random.integers(0, 26, (words, 5)) + 1  # of SYMBOLS
    digits = random.integers(0, 10, (words, 5)) + 27
    found = []
    for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        if kind < 0.5:
            found.append(WORDS[known[index]])
        else:
            drawn = letters if kind < 5 / 6 else digits
            found.append("".join(SYMBOLS[place] for place in drawn[index, :size]))
    return " ".join(found)


@lru_cache(maxsize=64)
def _key(character: str) -> tuple[tuple[int, ...], ...]:
    """(dots with the key down, dots of the gap after it) for each element of a character, the last
    gap being that to the next character."""
    downs = [1 if mark == "." else 3 for mark in CODE[character]]
    return (*((down, 1) for down in downs[:-1]), (downs[-1], 3))


def keyed(said: str) -> tuple[np.ndarray, np.ndarray]:
    """([E, 2] the dots with the key down and up for each element of a text, [E] int, the place in the
    text of its character). The gap after a word is 7 dots. Raises UsageError for a character that
    has no code."""
    elements, places = [], []
    for place, character in enumerate(said):
        if character == " ":
            elements[-1] = (elements[-1][0], 7)
            continue
        if character not in CODE:
            raise UsageError(f"Morse code has no character {character!r}")
        elements += _key(character)
        places += [place] * len(CODE[character])
    return np.array(elements, np.float64), np.array(places)


def _slack(ranges: Ranges) -> float:
    """By how much jitter, of 3 standard deviations, and waver lengthen a tone at the most."""
    return (1 + 3 * ranges.jitter) * (1 + ranges.waver)


def least(ranges: Ranges) -> float:
    """The shortest `seconds` for `utterance`."""
    return 0.4 + _LONGEST * 1.2 / ranges.slowest * _slack(ranges)


def most(ranges: Ranges, seconds: float) -> int:
    """More characters than `utterance` can say: none with its gap is shorter than the 4 dots of E."""
    dot = 1.2 / ranges.fastest * (1 - 3 * ranges.jitter) * (1 - ranges.waver)
    return 1 + int(seconds / (4 * dot))


def utterance(random: Random, seconds: float, snr: float, ranges: Ranges) -> tuple[str, np.ndarray]:
    """(text, float32 samples [N], N <= seconds x RATE): a text that takes between 0.3 and all of
    `seconds`, and its sound, with 0.05 to 0.2 s of noise before and after.

    snr: in dB, 10 log10 of the tone's power while the key is down over the noise's, which is white
        from 0 to RATE / 2 Hz; inf is without noise.

    `seconds` must be `least(ranges)` or more: it has room for any character at any speed then.
    """
    speed = ranges.slowest + (ranges.fastest - ranges.slowest) * random.uniform(())
    before, after = 0.05 + 0.15 * random.uniform((2,))
    dot = 1.2 / speed
    room = seconds - before - after
    longest = _LONGEST * dot * _slack(ranges)
    wanted = max(room * (0.3 + 0.7 * random.uniform(())), longest)
    whole = text(random, 2 + int(wanted / dot / 14))  # a word of one letter takes 8 dots or more
    elements, places = keyed(whole)
    noise = np.clip(random.normal(elements.shape), -3.0, 3.0)
    phase, cycles = random.uniform((2,)) * (2 * math.pi, 3.0)
    nominal = dot * np.cumsum(elements.sum(1))
    slower = 1 + ranges.waver * np.sin(phase + 2 * math.pi * cycles * nominal / seconds)
    lengths = dot * elements * (1 + ranges.jitter * noise) * slower[:, None]
    ends = np.cumsum(lengths.reshape(-1)).reshape(-1, 2)  # of the tone and of the gap, seconds
    fit = int(places[ends[:, 0] > wanted][0]) if ends[-1, 0] > wanted else len(whole)
    said = whole[:fit].rstrip()
    ends = ends[places < len(said)]
    starts = np.concatenate([[0.0], ends[:-1, 1]]) + before
    stops = ends[:, 0] + before
    count = int((stops[-1] + after) * RATE)
    t = np.arange(count) / RATE
    # How far inside a tone each sample is: from the last start before it, and to that one's stop.
    place = np.clip(np.searchsorted(starts, t, side="right") - 1, 0, None)
    inside = np.minimum(t - starts[place], stops[place] - t)
    envelope = np.sin(0.5 * math.pi * np.clip(inside / EDGE, 0.0, 1.0)) ** 2
    low, high = ranges.pitch
    pitch = low + (high - low) * random.uniform(())
    bend, turn = random.uniform((2,)) * (1.5, 2 * math.pi)
    drift = ranges.drift * np.sin(turn + 2 * math.pi * bend * t / seconds)
    wave = np.sin(2 * math.pi * np.cumsum(pitch + drift) / RATE)
    samples = envelope * wave
    if math.isfinite(snr):
        samples = samples + math.sqrt(0.5 / 10 ** (snr / 10)) * random.normal((count,))
    return said, samples.astype(np.float32)
