"""Speech to text: what digit strings are made of, and the task that hears them."""

import itertools
import json
import math
import sys

import jax
import numpy as np
import pytest
import soundfile

import launch
from rnnlab import tasks
from rnnlab.data.draws import EVALUATE, TEST, TRAIN, Random
from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.tasks.speech import audio, ctc, figure, morse
from rnnlab.tasks.speech import digits as spoken
from rnnlab.tasks.speech.sounds import MEL, mask_bands
from tests.support import ROOT

QUICK = [
    "model.hidden=16",
    "model.layers=1",
    "optim.warmup_steps=2",
    "optim.ema=0.0",
    "data.stack=4",
    "train.batch_size=8",
    "train.window=40",
    "train.steps=30",
    "train.log_every=10",
    "train.eval_every=10",
    "train.sample_every=30",
    "train.checkpoint_every=15",
    "eval.examples=12",
    "eval.decoded=5",
    "eval.tested=10",
    "eval.chunk=8",
    "eval.beam=3",
    "sample.utterances=1",
]


def settings(*more, name="speech"):
    return configuration.load(str(ROOT / "experiments" / f"{name}.py"), [*QUICK, *more])


# ---- spoken digits


RATE = 8000
SPEAKERS = ("anna", "bert", "carl")


def tone(speaker, digit, index):
    """A clip that says who speaks, what and which: by its pitch, and by its length."""
    hertz = 400 + 300 * digit + 80 * SPEAKERS.index(speaker)
    t = np.arange(1200 + 40 * index) / RATE
    return 0.3 * np.sin(2 * np.pi * hertz * t)


def heard(samples):
    """(speaker, digit, index) of every clip in an utterance, and the silences in seconds."""
    width = 80
    loud = np.sqrt(np.convolve(samples**2, np.ones(width) / width, "same")) > 0.05
    clips, silences, at = [], [], 0
    for there, run in itertools.groupby(loud):
        length = len([*run])
        if there:
            piece = samples[at : at + length]
            spectrum = np.abs(np.fft.rfft(piece, 16000))
            place = round((spectrum.argmax() * RATE / 16000 - 400) / 20)
            clips.append((SPEAKERS[place % 15 // 4], place // 15, round((length - 1275) / 40)))
        else:
            silences.append(length / RATE)
        at += length
    return clips, silences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    for speaker, digit, index in itertools.product(SPEAKERS, range(10), range(12)):
        soundfile.write(path / f"{digit}_{speaker}_{index}.wav", tone(speaker, digit, index), RATE)
    (path / "notes.txt").write_text("not a clip")
    return path


def digits(folder, *more):
    return settings(f"data.path={folder}", *more, name="fsdd")


def sounds(folder, **changes):
    chosen = {"path": str(folder), "speaker": "", "shortest": 2, "longest": 4}
    chosen |= {"speed": 0.0, "noise": math.inf, **changes}
    return spoken.spoken_digits(digits(folder), 3.0, chosen, None)


@pytest.mark.parametrize("held", ["", "bert"])
def test_a_string_is_the_clips_of_one_speaker(folder, held):
    made = sounds(folder, speaker=held)
    seen = {}
    for purpose, number in itertools.product((TRAIN, EVALUATE, TEST), range(60)):
        symbols, samples = made.utterance(purpose, number)
        clips, silences = heard(samples)
        assert [digit + 1 for _, digit, _ in clips] == symbols
        assert 2 <= len(symbols) <= 4
        assert len({speaker for speaker, _, _ in clips}) == 1
        assert all(0.03 < silence < 0.26 for silence in silences)
        seen.setdefault(purpose, set()).update((speaker, index) for speaker, _, index in clips)
    if held:
        assert {index for _, index in seen[TEST]} >= set(range(10))
        assert {speaker for speaker, _ in seen[TEST]} == {"bert"}
        assert {speaker for speaker, _ in seen[TRAIN] | seen[EVALUATE]} == {"anna", "carl"}
    else:
        assert {index for _, index in seen[TEST]} == set(range(5))
        assert {speaker for speaker, _ in seen[TEST]} == set(SPEAKERS)
    assert {index for _, index in seen[EVALUATE]} == set(range(5, 10))
    assert {index for _, index in seen[TRAIN]} == {10, 11}
    assert made.text([4, 1]) == "3 0"


def test_training_alone_varies_speed_and_noise(folder):
    plain, varied = sounds(folder), sounds(folder, speed=0.2, noise=5.0)
    for purpose in (TRAIN, EVALUATE, TEST):
        ratios, noises = [], []
        for number in range(20):
            (said, before), (same, after) = (x.utterance(purpose, number) for x in (plain, varied))
            assert said == same
            ratios.append(len(after) / len(before))
            noises.append(after[:200].std() / after.std())
        if purpose != TRAIN:
            assert set(ratios) == {1.0}
            assert max(noises) < 0.02
        else:
            assert 0.8 <= min(ratios) < 0.9
            assert 1.1 < max(ratios) <= 1.2
            assert max(noises) > 0.2


def test_what_does_not_fit_is_left_away_at_the_end(folder):
    made = sounds(folder)
    for number in range(20):
        config = digits(folder)
        short = spoken.spoken_digits(
            config,
            0.9,
            {"path": str(folder), "speaker": "", "shortest": 2, "longest": 4}
            | {"speed": 0.0, "noise": math.inf},
            None,
        )
        symbols, samples = short.utterance(TEST, number)
        whole, _ = made.utterance(TEST, number)
        assert symbols == whole[: len(symbols)]
        assert 1 <= len(symbols) < 4
        assert len(samples) <= 0.9 * RATE
        assert len(heard(samples)[0]) == len(symbols)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.path=", "download and unpack"),
        ("data.path=nowhere", "data.path .*nowhere is no folder"),
        ("data.speaker=dora", "data.speaker is 'dora', and there are anna, bert, carl"),
        ("data.shortest=0", "take 1 or more digits"),
        ("data.speed=0.5", "data.speed must be in"),
        ("data.mask=40", "data.mask must be in"),
        ("data.stack=0", "data.stack must be at least 1"),
        ("data.snr=3.0", "has no use for data.snr"),
        ("data.source=radio", "must be one of morse, fsdd, got 'radio'"),
        ("eval.beam=0", "eval.beam must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, change, said):
    with pytest.raises(UsageError, match=said) as error:
        tasks.make_task(digits(folder, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.window=10", "train.window is 10 steps"),
        ("data.snr=nan", "data.snr takes decibels"),
        ("data.stack=60", "lower data.stack, which is 60"),
        ("data.mask=2", "has no use for data.mask"),
    ],
)
def test_what_morse_code_does_not_take(change, said):
    with pytest.raises(UsageError, match=said):
        tasks.make_task(settings(change))


def write_some(path, *names):
    for name in names:
        soundfile.write(path / name, tone("anna", 1, 3), RATE)


def test_a_folder_that_will_not_do_is_told_with_the_file(tmp_path, capsys):
    arguments = ["train", f"--config={ROOT / 'experiments' / 'fsdd.py'}"]
    arguments += [f"--workdir={tmp_path / 'run'}", f"--config.data.path={tmp_path}"]

    def told():
        spoken.load.cache_clear()
        assert launch.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "has no clips" in told()
    write_some(tmp_path, "1_anna_3.wav", "one.wav")
    assert "one.wav is not named" in told()
    (tmp_path / "one.wav").unlink()
    assert "no clips for training" in told()
    write_some(tmp_path, *(f"{digit}_anna_20.wav" for digit in range(9)))
    write_some(tmp_path, "1_anna_7.wav")
    assert "no clip of anna saying 9 for training" in told()
    damaged = tmp_path / "9_anna_20.wav"
    write_some(tmp_path, damaged.name)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert f"{damaged} is cut off" in told()


# ---- the task


@pytest.fixture(scope="module", params=["morse", "fsdd"])
def config(request, folder):
    return settings() if request.param == "morse" else digits(folder)


def test_a_batch_is_a_pure_function_of_the_step(config):
    one, other = tasks.make_task(config), tasks.make_task(config)
    first, again, later = one.batch(5), other.batch(5), one.batch(6)
    assert first.keys() == again.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(leaf, again[name])
        assert leaf.dtype == later[name].dtype
        assert leaf.shape == later[name].shape
    assert not np.array_equal(first["inputs"], later["inputs"])
    assert first["inputs"].shape == (40, 8, 4 * (16 if config.data.source == "morse" else 40))
    shifted = configuration.from_json(configuration.to_json(config))
    with shifted.unlocked():
        shifted.seed = 1
    assert not np.array_equal(tasks.make_task(shifted).batch(5)["inputs"], first["inputs"])


def test_padding_changes_nothing():
    """Whatever stands beyond the end of an utterance, and of its text, and in a row that is not."""
    task = tasks.make_task(settings())
    params = task.init(jax.random.key(0))

    @jax.jit
    def slope(params, batch):
        return jax.value_and_grad(lambda p: task.loss(p, (), batch, None)[1]["loss"][0])(params)

    batch = task.batch(0)
    batch["there"] = np.arange(8) < 6
    value, gradient = slope(params, batch)
    other = {name: leaf.copy() for name, leaf in batch.items()}
    beyond = np.arange(40)[:, None] >= batch["lengths"]
    assert beyond.any()
    other["inputs"][beyond] = 37.0
    other["labels"][np.arange(len(batch["labels"]))[:, None] >= batch["label_lengths"]] = 5
    other["inputs"][:, 6:] = -3.0
    again, same = slope(params, other)
    assert float(value) == float(again)
    jax.tree.map(np.testing.assert_array_equal, gradient, same)
    sums = task.loss(params, (), batch, None)[1]
    assert float(sums["loss"][1]) == batch["label_lengths"][:6].sum()


def test_at_the_end_both_ways_of_decoding_are_measured():
    task = tasks.make_task(settings())
    found = task.finish(task.init(jax.random.key(0)))
    names = {"loss", "cer", "wer", "greedy_cer", "greedy_wer", "trivial_cer"}
    assert found.keys() == {f"test_{name}" for name in names}
    assert 0.5 < found["test_trivial_cer"] < 1.0
    again = task.evaluate(task.init(jax.random.key(0)))
    assert again.keys() == {"loss", "cer", "wer", "baseline_loss"}


def test_a_picture_of_what_is_heard(tmp_path):
    task = tasks.make_task(settings())
    (file,) = task.draw(task.init(jax.random.key(0)), tmp_path)
    assert file.read_bytes().startswith(b"\x89PNG")
    mel, names = MEL["morse"], tuple(morse.SYMBOLS)
    said, samples = morse.utterance(Random(0, TEST, 0), 3.0, 10.0, morse.Ranges())
    probabilities = np.full((40, 37 + 1), 0.001)
    probabilities[:, 0] = 0.9
    probabilities[10, 0], probabilities[10, 2] = 0.1, 0.8
    drawn = figure.utterance(
        samples, mel, probabilities, step=0.064, names=names, target=said, answer="B"
    )
    above, below = drawn.axes[:2]
    assert above.get_title("left") == f"said:  {said}\nread:  B"
    assert [text.get_text() for text in below.texts] == [names[1]] == ["A"]
    assert below.texts[0].xy == pytest.approx((10.5 * 0.064, 0.8))


def test_a_run_keeps_to_its_clips(folder, tmp_path):
    config = digits(folder)
    (tmp_path / "run.json").write_text(json.dumps({"data": {"sha256": "another"}}))
    with pytest.raises(UsageError, match="the clips of this run changed"):
        tasks.make_task(config, tmp_path)
    sha256 = spoken.load(str(folder)).sha256
    (tmp_path / "run.json").write_text(json.dumps({"data": {"sha256": sha256}}))
    assert tasks.make_task(config, tmp_path).facts()["sha256"] == sha256


def test_masked_bands_are_side_by_side_and_their_mean(folder):
    features = np.ones((5, 40), np.float32)
    seen = set()
    for number in range(40):
        masked = features.copy()
        mask_bands(masked, Random(0, TRAIN, number), 8)
        hidden = np.flatnonzero(masked[0] == 0)
        assert len(hidden) <= 8
        assert len(hidden) == 0 or hidden[-1] - hidden[0] == len(hidden) - 1
        seen.add(len(hidden))
    assert seen == set(range(9))


def test_who_hears_nothing():
    """Of one frame and one label there is one path: its probability is that of the label, at most 1."""
    one = np.array([1])
    assert ctc.unheard(one, np.array([[1]]), one) == pytest.approx(-math.log(0.7), rel=1e-3)
    # Two frames: 1 - b^2 over the blank's share b, whose best is the smallest tried, 0.3.
    assert ctc.unheard(2 * one, np.array([[1]]), one) == pytest.approx(-math.log(0.91), rel=1e-3)
    labels, count = np.array([[1, 2], [2, 1], [1, 0]]), np.array([3, 2])
    lengths = np.array([6, 5])
    found = ctc.unheard(lengths, labels, count)

    def constant(blank):
        share = np.array([blank, 0.6 * (1 - blank), 0.4 * (1 - blank)])
        logits = np.broadcast_to(np.log(share), (6, 2, 3)).astype(np.float32)
        return float(jitted(logits, lengths, labels, count).sum()) / 5

    jitted = jax.jit(ctc.loss)
    nearest = min(constant(blank) for blank in 1 - np.geomspace(0.003, 0.7, 24))
    assert found == pytest.approx(nearest, rel=1e-4)


def test_features_are_those_of_the_sound():
    task = tasks.make_task(settings())
    batch = task.batch(0)
    said, samples = morse.utterance(
        Random(0, TRAIN, 3), (159 * 32 + 64) / 2000, 10.0, morse.Ranges()
    )
    expected = audio.stacked(audio.normalised(audio.log_mel(samples, MEL["morse"])), 4)
    length = batch["lengths"][3]
    np.testing.assert_array_equal(batch["inputs"][:length, 3], expected)
    np.testing.assert_array_equal(batch["inputs"][length:, 3], 0.0)
    count = batch["label_lengths"][3]
    assert "".join(morse.SYMBOLS[s - 1] for s in batch["labels"][:count, 3]) == said


def test_without_jiwer_nothing_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(UsageError, match=r"needs the package jiwer: pip install"):
        tasks.make_task(configuration.load(str(ROOT / "experiments" / "speech.py"), []))
