"""Features against their formulas and SciPy's STFT; what is wrong with a sound file is said."""

import struct

import numpy as np
import pytest
import scipy.signal
import soundfile

from rnnlab.data import optional
from rnnlab.data.draws import Random
from rnnlab.errors import UsageError
from rnnlab.tasks.speech import audio

MEL = audio.Mel(rate=1000, window=50, hop=20, size=64, bands=8, low=0.0, high=500.0)


def noise(count, seed=0):
    return 0.1 * Random(seed, 0).normal((count,))


# ---- features


def test_the_power_is_that_of_the_sum_over_samples():
    """|sum_n w[n] x[n] e^(-2 pi i k n / size)|^2, written out."""
    x = noise(117)
    found = audio.power(x, MEL)
    assert found.shape == (audio.frames(117, MEL), 33) == (4, 33)
    n, k = np.arange(MEL.window), np.arange(33)
    wave = np.exp(-2j * np.pi * np.outer(n, k) / MEL.size)
    for t in range(4):
        frame = x[20 * t : 20 * t + 50] * np.sin(np.pi * n / 50) ** 2
        np.testing.assert_allclose(found[t], np.abs(frame @ wave) ** 2, rtol=1e-9, atol=1e-12)


def test_the_power_is_that_of_scipy():
    x, window = noise(1000, seed=1), scipy.signal.get_window("hann", 50)
    # The middle of its slice p is sample p x hop: ours begins 25 samples, 5 of its hops, before.
    short = scipy.signal.ShortTimeFFT(window, hop=5, fs=1000, mfft=64)
    theirs = np.abs(short.stft(x, p0=5, p1=5 + 4 * 48)).T[::4] ** 2
    np.testing.assert_allclose(audio.power(x, MEL), theirs, rtol=1e-9, atol=1e-12)


def test_the_mel_scale():
    assert audio.to_mel(0.0) == 0.0
    assert audio.to_mel(1000.0) == pytest.approx(1000.0, abs=0.1)  # what its constant is for
    assert audio.to_mel(6300.0) == pytest.approx(2595.0)  # 1 + 6300 / 700 = 10
    hertz = np.linspace(0, 4000, 9)
    np.testing.assert_allclose(audio.from_mel(audio.to_mel(hertz)), hertz, atol=1e-9)


def test_the_filters_are_triangles_between_equally_spaced_corners():
    mel = audio.Mel()
    bank = audio.filters(mel)
    assert bank.shape == (40, 129)
    corners = [
        audio.from_mel(audio.to_mel(60) + i * (audio.to_mel(4000) - audio.to_mel(60)) / 41)
        for i in range(42)
    ]
    for band in (0, 7, 39):
        for index in range(129):
            hertz = index * 8000 / 256
            expected = np.interp(hertz, corners[band : band + 3], [0.0, 1.0, 0.0])
            assert bank[band, index] == pytest.approx(expected, abs=1e-6)
    # Between the middle of the first and of the last, neighbours add up to 1.
    bins = np.arange(129) * 8000 / 256
    inside = (bins >= corners[1]) & (bins <= corners[40])
    np.testing.assert_allclose(bank.sum(0)[inside], 1.0, atol=1e-5)


def test_a_tone_is_heard_in_its_band():
    bank, mel = audio.filters(audio.Mel()), audio.Mel()
    for hertz in (300.0, 1000.0, 3000.0):
        tone = np.sin(2 * np.pi * hertz * np.arange(800) / 8000).astype(np.float32)
        features = audio.log_mel(tone, mel)
        assert features.dtype == np.float32
        bands = bank[:, round(hertz * 256 / 8000)]
        assert bands[features[3].argmax()] == bands.max()


def test_silence_has_a_floor_and_a_short_sound_a_frame():
    features = audio.log_mel(np.zeros(300), MEL)
    np.testing.assert_allclose(features, np.log(1e-10), rtol=1e-6)
    np.testing.assert_array_equal(audio.normalised(features), 0.0)
    assert audio.log_mel(noise(3), MEL).shape == (1, 8)
    assert audio.frames(3, MEL) == 1
    assert audio.frames(69, MEL) == 1
    assert audio.frames(70, MEL) == 2


def test_normalised_features_know_no_loudness():
    x = noise(400, seed=3)
    once, again = (audio.normalised(audio.log_mel(gain * x, MEL)) for gain in (1.0, 20.0))
    np.testing.assert_allclose(once, again, atol=1e-4)
    np.testing.assert_allclose(once.mean(0), 0.0, atol=1e-6)
    assert once.std() == pytest.approx(1.0, abs=1e-5)


def test_frames_side_by_side():
    features = np.arange(10.0).reshape(5, 2)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]
    np.testing.assert_array_equal(audio.stacked(features, 2), expected)
    np.testing.assert_array_equal(audio.stacked(features, 1), features)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bands": 60}, "no bin"),
        ({"high": 501.0}, "half of 1000"),
        ({"hop": 51}, "in this order"),
        ({"size": 32}, "in this order"),
    ],
)
def test_filters_that_cannot_be(change, said):
    with pytest.raises(UsageError, match=said):
        audio.filters(MEL._replace(**change))


# ---- files


def wav(folder, samples, rate=8000, name="x.wav"):
    path = folder / name
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def test_a_file_is_read_as_it_was_written(tmp_path):
    samples = noise(500)
    found = audio.read(wav(tmp_path, samples), 8000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples, atol=2**-15)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:30])


def text(path):
    path.write_text("this is no sound")


def empty(path):
    path.write_bytes(b"")


def no_samples(path):
    wav(path.parent, np.zeros(0), name=path.name)


def stereo(path):
    wav(path.parent, np.zeros((100, 2)), name=path.name)


def another_rate(path):
    wav(path.parent, np.zeros(100), rate=16000, name=path.name)


def not_finite(path):
    soundfile.write(path, np.full(100, np.nan), 8000, subtype="FLOAT")


def absent(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "is cut off"),
        (cut_in_the_header, "cannot read the sound file"),
        (text, "cannot read the sound file"),
        (empty, "cannot read the sound file"),
        (no_samples, "has no samples"),
        (stereo, "has 2 channels"),
        (another_rate, "has 16000 samples a second, not 8000: resample it"),
        (not_finite, "is not finite"),
        (absent, "there is no sound file"),
    ],
)
def test_a_file_that_will_not_do_is_named(tmp_path, damage, said):
    path = wav(tmp_path, noise(500), name="damaged.wav")
    damage(path)
    with pytest.raises(UsageError, match=said) as error:
        audio.read(path, 8000)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_without_the_package_it_says_what_to_install():
    with pytest.raises(UsageError, match=r"needs the package not_there: pip install .*media"):
        optional.needed("not_there", "reading sound files")


def piped(samples, *, length, riff=0, tail=b""):
    """A wav file whose "data" chunk says `length`, in whatever order a pipe left it."""
    data = samples.astype("<i2").tobytes()
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", riff) + head + b"data" + struct.pack("<I", length) + data + tail
    )


@pytest.mark.parametrize(
    "length", [0, 0x7FFFF000, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFFFD3, 0xFFFFF000]
)
@pytest.mark.parametrize("riff", [0, 0x7FFFF024, 0xFFFFFFFF])
@pytest.mark.parametrize("start", [0, 0x4141, None])  # one that looks like the name of a chunk
def test_a_sound_from_a_pipe_is_read_to_its_end(length, riff, start, tmp_path):
    samples = np.zeros(500, int) if start is None else start + np.arange(500)
    path = tmp_path / "a.wav"
    path.write_bytes(piped(samples, length=length, riff=riff))
    np.testing.assert_array_equal(audio.read(path, 8000), (samples / 32768).astype(np.float32))
    path.write_bytes(piped(samples, length=length, riff=riff, tail=b"\1"))  # half a sample
    assert len(audio.read(path, 8000)) == 500


def test_a_sound_that_is_empty_or_cut_off_is_still_told(tmp_path):
    path = tmp_path / "a.wav"
    for tail in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        path.write_bytes(piped(np.zeros(0), length=0, tail=tail))
        with pytest.raises(UsageError, match=r"a\.wav has no samples"):
            audio.read(path, 8000)
    path.write_bytes(piped(np.arange(500), length=2000))
    with pytest.raises(UsageError, match=r"a\.wav is cut off: its header tells of 1000 bytes more"):
        audio.read(path, 8000)


@pytest.mark.parametrize(
    "error", [ValueError("a"), KeyError("b"), TypeError("c"), UnicodeError("d")]
)
def test_whatever_a_reader_of_sounds_raises_is_told_with_the_file(error, tmp_path, monkeypatch):
    def fail(*how, **more):
        raise error

    (tmp_path / "a.wav").write_bytes(piped(np.arange(9), length=18))
    monkeypatch.setattr(soundfile, "SoundFile", fail)
    with pytest.raises(UsageError, match=r"cannot read the sound file .*a\.wav: ."):
        audio.read(tmp_path / "a.wav", 8000)


def test_silence_is_zero_and_no_rounding_noise():
    found = audio.normalised(audio.log_mel(np.zeros(8000, np.float32), audio.Mel()))
    assert not found.any()
