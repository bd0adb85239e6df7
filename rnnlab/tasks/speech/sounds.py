"""Utterances as examples: where they come from, and what the network hears of them. Morse code is here."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data.draws import TRAIN, Random
from rnnlab.errors import UsageError
from rnnlab.tasks.kinds.examples import Batch, Examples
from rnnlab.tasks.speech import audio, ctc, morse
from rnnlab.types import Config

MEL = {
    "morse": audio.Mel(
        rate=morse.RATE, window=64, hop=32, size=128, bands=16, low=200.0, high=1000.0
    ),
    "fsdd": audio.Mel(),
}


class Sounds(NamedTuple):
    """Where utterances come from."""

    names: tuple[str, ...]  # of the symbols 1, 2 ...; between those of a text stands `gap`
    gap: str
    most: int  # symbols of a text, at the most
    # (purpose TRAIN, EVALUATE or TEST, number) -> (symbols, samples float32 [N]); pure
    utterance: Callable[[int, int], tuple[list[int], np.ndarray]]
    errors: tuple[str, ...]  # cer, wer
    facts: dict[str, Any]

    def text(self, symbols: list[int]) -> str:
        """Symbols for a person, and for counting errors."""
        return self.gap.join(self.names[symbol - 1] for symbol in symbols)


def morse_code(config: Config, seconds: float, snr: float) -> Sounds:
    """Utterances of Morse code of up to `seconds`, `snr` decibels above the noise. Raises UsageError for
    a window that is too short, or no number of decibels."""
    ranges = morse.Ranges()
    if seconds < (least := morse.least(ranges)):
        raise UsageError(
            f"train.window is {config.train.window} steps, {seconds:.2f} s, and a character may take "
            f"{least:.2f} s: set it to {math.ceil(config.train.window * least / seconds)} or more"
        )
    if math.isnan(snr) or snr == -math.inf:
        raise UsageError(f"data.snr takes decibels, or inf for no noise, got {snr}")

    def utterance(purpose: int, number: int) -> tuple[list[int], np.ndarray]:
        said, samples = morse.utterance(Random(config.seed, purpose, number), seconds, snr, ranges)
        return [morse.SYMBOLS.index(character) + 1 for character in said], samples

    names = tuple(morse.SYMBOLS)
    facts = {"snr": snr, **ranges._asdict()}
    return Sounds(names, "", morse.most(ranges, seconds), utterance, ("cer", "wer"), facts)


def examples_of(
    sounds: Sounds, mel: audio.Mel, purpose: int, *, stack: int, window: int, mask: int, seed: int
) -> Examples:
    """The utterances of a purpose: numbers -> inputs float32 [T, B, F], lengths int32 [B], labels int32
    [N, B], label_lengths int32 [B]."""

    def batch(numbers: np.ndarray) -> Batch:
        rows = len(numbers)
        inputs = np.zeros((window, rows, stack * mel.bands), np.float32)
        labels = np.zeros((sounds.most, rows), np.int32)
        lengths, label_lengths = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for row, number in enumerate(numbers):
            symbols, samples = sounds.utterance(purpose, int(number))
            features = audio.normalised(audio.log_mel(samples, mel))
            if mask and purpose == TRAIN:
                mask_bands(features, Random(seed, purpose, int(number), 1), mask)
            features = audio.stacked(features, stack)
            if ctc.needed(np.array(symbols)) > len(features):
                raise UsageError(
                    f"an utterance of {len(features)} steps has {len(symbols)} symbols, which takes "
                    f"{ctc.needed(np.array(symbols))}: lower data.stack, which is {stack}"
                )
            inputs[: len(features), row], lengths[row] = features, len(features)
            labels[: len(symbols), row], label_lengths[row] = symbols, len(symbols)
        return {
            "inputs": inputs,
            "labels": labels,
            "lengths": lengths,
            "label_lengths": label_lengths,
        }

    def truth(number: int) -> str:
        return sounds.text(sounds.utterance(purpose, number)[0])

    return Examples(batch, truth, size=None)


def mask_bands(features: np.ndarray, random: Random, most: int) -> None:
    """Up to `most` bands side by side become their mean, 0 (SpecAugment: Park et al. 2019)."""
    bands = features.shape[1]
    count = int(random.integers(0, most + 1, (1,))[0])
    first = int(random.integers(0, bands - count + 1, (1,))[0])
    features[:, first : first + count] = 0.0
