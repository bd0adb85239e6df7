"""What Morse code is made of."""

import itertools
import math

import numpy as np
import pytest

from rnnlab.data.draws import TEST, TRAIN, Random
from rnnlab.errors import UsageError
from rnnlab.tasks.speech import morse

STEADY = morse.Ranges(
    slowest=20.0, fastest=20.0, waver=0.0, jitter=0.0, pitch=(500.0, 500.0), drift=0.0
)


def test_paris_is_fifty_dots_long():
    elements, places = morse.keyed("PARIS E")
    assert elements[places < 6].sum() == 50
    assert list(places) == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 2 + [4] * 3 + [6]
    np.testing.assert_array_equal(elements[:4], [[1, 1], [3, 1], [3, 1], [1, 3]])  # P is .--.
    assert len(set(morse.CODE.values())) == len(morse.CODE) == 36
    with pytest.raises(UsageError, match="no character '!'"):
        morse.keyed("A!")


def decoded(samples, dot):
    """The text of a noiseless tone, from how long it is there and away; a decoder of its own."""
    width = int(dot * morse.RATE / 4)
    loud = np.convolve(np.abs(samples), np.ones(width) / width, "same") > 0.3
    runs = [(there, len([*run])) for there, run in itertools.groupby(loud)]
    text, marks = "", ""
    back = {code: character for character, code in morse.CODE.items()}
    for there, length in runs[1:]:
        dots = length / morse.RATE / dot
        if there:
            marks += "." if dots < 2 else "-"
        elif dots > 2:
            text, marks = text + back[marks], ""
            text += " " if dots > 5 else ""
    return text.rstrip() + (back[marks] if marks else "")


@pytest.mark.parametrize("number", range(6))
def test_the_sound_says_the_text(number):
    said, samples = morse.utterance(Random(0, TRAIN, number), 6.0, math.inf, STEADY)
    assert decoded(np.concatenate([samples, np.zeros(800)]), 1.2 / 20) == said
    spectrum = np.abs(np.fft.rfft(samples))
    peak = spectrum.argmax() * morse.RATE / len(samples)
    assert peak == pytest.approx(500, abs=3)


def test_the_noise_is_as_loud_as_it_should_be():
    for snr in (10.0, -3.0):
        said, noisy = morse.utterance(Random(3, TEST, 1), 6.0, snr, morse.Ranges())
        same, clean = morse.utterance(Random(3, TEST, 1), 6.0, math.inf, morse.Ranges())
        assert said == same
        noise = noisy - clean
        on = np.convolve(clean**2, np.ones(41) / 41, "same") > 0.45
        tone = np.mean(clean[on] ** 2)
        assert 10 * math.log10(tone / np.mean(noise**2)) == pytest.approx(snr, abs=0.5)
        # White: as much of it below RATE / 4 as above.
        half = np.abs(np.fft.rfft(noise)) ** 2
        below, above = np.split(half[: len(half) // 2 * 2], 2)
        assert below.sum() / above.sum() == pytest.approx(1.0, abs=0.1)


def test_utterances_fit_and_differ():
    ranges = morse.Ranges()
    for seconds in (morse.least(ranges), 4.0):
        found = [
            morse.utterance(Random(0, TRAIN, number), seconds, 10.0, ranges) for number in range(60)
        ]
        texts = [text for text, _ in found]
        assert all(0 < len(samples) <= seconds * morse.RATE for _, samples in found)
        assert all(text == text.strip() and text for text in texts)
        assert max(map(len, texts)) < morse.most(ranges, seconds)
        assert len(set(texts)) > 30
    everything = set("".join(texts))
    assert everything <= set(morse.SYMBOLS)
    assert len(everything) > 25
    again = morse.utterance(Random(0, TRAIN, 7), 4.0, 10.0, ranges)
    assert again[0] == texts[7]
    np.testing.assert_array_equal(again[1], found[7][1])


def test_speed_and_pitch_waver():
    """Lengths of dots of one text, and the tone's frequency at its two ends."""
    elements = []
    for number in range(40):
        steady, wild = (
            morse.utterance(Random(1, TRAIN, number), 4.0, math.inf, ranges)[1]
            for ranges in (STEADY._replace(jitter=0.0), STEADY._replace(jitter=0.2, drift=60.0))
        )
        for samples in (steady, wild):
            spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
            hertz = np.fft.rfftfreq(len(samples), 1 / morse.RATE)
            mean = (hertz * spectrum).sum() / spectrum.sum()
            elements.append(math.sqrt(((hertz - mean) ** 2 * spectrum).sum() / spectrum.sum()))
    assert np.median(elements[1::2]) > 1.3 * np.median(elements[::2])
