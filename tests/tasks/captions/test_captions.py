"""Image captioning: what is asked, that padding and batches are sound, answers, scores and the page."""

import base64
import io
import json
import math
import re
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from rnnlab import tasks
from rnnlab.data.draws import TRAIN
from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.tasks.captions import data as captioned
from rnnlab.tasks.captions import gallery, scenes
from rnnlab.tasks.captions.network import Captioner
from rnnlab.tasks.captions.task import ON_PAGE
from rnnlab.train.from_config import build
from rnnlab.train.state import initial_state
from rnnlab.train.step import make_train_step
from tests.support import ROOT
from tests.tasks.files import publish

QUICK = [
    "data.size=24",
    "encoder.channels=(8,8,16)",
    "decoder.size=16",
    "decoder.embedding=16",
    "model.hidden=16",
    "eval.examples=8",
    "eval.decoded=4",
    "eval.tested=6",
    "eval.beam=2",
    "eval.chunk=4",
    "optim.warmup_steps=0",
    "optim.learning_rate=0.01",
    "parallel.devices=1",
    "train.batch_size=8",
    "train.steps=20",
    "train.log_every=10",
    "train.eval_every=10",
    "train.sample_every=0",
    "train.checkpoint_every=10",
]


def settings(*more):
    return configuration.load(str(ROOT / "experiments" / "captions.py"), [*QUICK, *more])


def made(*more):
    return tasks.make_task(settings(*more))


@pytest.fixture(scope="module")
def params():
    """Initial ones of the quick configuration: to compile their draws takes long."""
    return made().init(jax.random.key(0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    publish(tmp_path / "flickr")
    return tmp_path / "flickr"


def of_folder(folder, *more):
    own = ["data.name=flickr8k", f"data.path={folder}", "data.rare=2", "train.batch_size=2"]
    return settings(*own, *more)


def same(one, two):
    assert one.keys() == two.keys()
    for key, leaf in one.items():
        np.testing.assert_array_equal(leaf, two[key])
        assert np.asarray(leaf).dtype == np.asarray(two[key]).dtype


# What is asked


def test_a_batch_of_scenes_is_a_pure_function_of_the_step():
    task, again = made(), made()
    batches = [task.batch(step) for step in range(3)]
    for step in (2, 0, 1):
        same(again.batch(step), batches[step])
    assert (batches[0]["picture"] != batches[1]["picture"]).any()
    assert (made("seed=1").batch(0)["picture"] != batches[0]["picture"]).any()
    for number, picture in enumerate(batches[2]["picture"][0]):
        (scene,) = scenes.draw(0, TRAIN, np.array([16 + number]), 24)
        np.testing.assert_array_equal(scene.picture, picture)
        words = batches[2]["words"][:, number, 0]
        said = " ".join(scenes.SYMBOLS[word] for word in words)
        assert said == " ".join(
            [scenes.sentence(scene), scenes.END, *[scenes.PAD] * ((words == 0).sum())]
        )


def test_a_batch_of_a_folder_is_a_pure_function_of_the_step(folder):
    task, again = tasks.make_task(of_folder(folder)), tasks.make_task(of_folder(folder))
    found = Counter()
    for step in (4, 0, 2, 1, 3, 5):  # two epochs of 6 captions
        batch = task.batch(step)
        same(again.batch(step), batch)
        assert batch["picture"].shape == (1, 2, 24, 24, 3)
        assert batch["words"].shape == (9, 2, 1)
        found.update(
            (round(float(picture.mean()) / 40), words.tobytes())
            for picture, words in zip(batch["picture"][0], batch["words"][:, :, 0].T, strict=True)
        )
    # of the three training images both captions, and none of another; rare words look alike
    assert Counter(image for image, _ in found.elements()) == {0: 4, 1: 4, 2: 4}


def test_rare_words_are_unknown_and_every_caption_counts(folder):
    config = of_folder(folder)
    data = captioned.flickr_of(config)
    # The numbers of the training images are 0, 1 and 2; those of the others are unknown.
    assert data.symbols == (*captioned.SPECIAL, "0", "1", "2", "a", "dog", "number", "runs")
    batch = data.tests["test"].batch(np.array([1, 0]))
    assert batch["words"].shape == (9, 2, 2)
    said = [
        [captioned.words_of(data.symbols, row) for row in of.T]
        for of in batch["words"].swapaxes(0, 1)
    ]
    assert said == [
        [f"a dog number {captioned.UNKNOWN} runs {which}" for which in (0, 1)] for _ in range(2)
    ]
    # the truths keep their own words
    assert data.tests["test"].truth(1) == ("a dog number 5 runs 0", "a dog number 5 runs 1")
    assert data.facts["train_captions"] == 6


def test_the_words_by_frequency_are_what_the_counts_say():
    # a, b, end: 2, 1, 2 of 5 seen, and c is asked for: (2+1, 1+1, 2+1, 0+1) / 9
    found = captioned.baseline_loss(["a b", "a"], ["a c"])
    assert found == pytest.approx(-(math.log(3 / 9) + math.log(1 / 9) + math.log(3 / 9)) / 3)
    assert 2.5 < made().baseline[1] < math.log(len(scenes.SYMBOLS))


def test_a_caption_is_cut_at_the_window_and_one_that_is_none_is_padding():
    index = {word: number for number, word in enumerate((*captioned.SPECIAL, "a", "b"))}
    found = captioned.encoded([["a b a", ""], ["b z", "a"]], index, 3)
    assert found[:, :, 0].T.tolist() == [[4, 5, 4], [5, 3, 2]]
    assert found[:, :, 1].T.tolist() == [[0, 0, 0], [4, 2, 0]]


# The loss


@pytest.mark.slow
def test_padding_changes_nothing(params, float64):
    task, longer = (made(f"train.window={length}") for length in (9, 14))
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    loss = jax.jit(lambda batch: task.loss(params, (), batch, None)[1]["loss"])
    batch = task.batch(0)
    total, count = loss(batch)
    assert count == (batch["words"] != 0).sum()
    # Steps behind the longest caption
    assert longer.batch(0)["words"].shape[0] == 14
    np.testing.assert_allclose(loss(longer.batch(0)), (total, count), rtol=1e-12)
    # Rows that are not there, whatever they hold
    other = task.batch(1)
    there = {**batch, "there": np.arange(8) < 5}
    mixed = {key: leaf.copy() for key, leaf in there.items()}
    mixed["picture"][:, 5:], mixed["words"][:, 5:] = other["picture"][:, 5:], other["words"][:, 5:]
    wanted = loss(there)
    assert 0 < wanted[1] < count
    np.testing.assert_allclose(loss(mixed), wanted, rtol=1e-12)
    # Captions that are none, and a caption that comes twice
    both = {**there, "words": np.concatenate([there["words"], 0 * there["words"]], axis=2)}
    np.testing.assert_allclose(loss(both), wanted, rtol=1e-12)
    twice = {**there, "words": np.concatenate([there["words"]] * 2, axis=2)}
    np.testing.assert_allclose(loss(twice), (2 * wanted[0], 2 * wanted[1]), rtol=1e-12)


def test_words_are_blanked_while_training_alone(params):
    """Where all words that are read are blank, each target's loss knows of no other word: to exchange
    the first words of two batches changes no sum. A validation reads them."""
    task = made("decoder.word_dropout=0.9999")
    one, two = task.batch(0), task.batch(1)
    two = {**two, "picture": one["picture"]}
    crossed = [{**batch, "words": batch["words"].copy()} for batch in (one, two)]
    crossed[0]["words"][0], crossed[1]["words"][0] = two["words"][0], one["words"][0]
    for key, same_sum in ((jax.random.key(3), True), (None, False)):
        loss = jax.jit(lambda batch, key=key: task.loss(params, (), batch, key)[1]["loss"][0])
        straight, across = ((float(loss(a)) + float(loss(b))) for a, b in ((one, two), crossed))
        assert (straight == pytest.approx(across, rel=1e-5)) == same_sum


def trained(config, steps):
    """(task, metrics before and after, the parameters)."""
    task, optimiser = build(config)
    state = initial_state(task, optimiser, seed=0, average=False)
    before = task.evaluate(state.params)
    take = make_train_step(task, optimiser, average_decay=0.0, reduction="mean", log_every=100)
    for step in range(steps):
        state, _ = take(state, task.batch(step))
    return task, before, task.evaluate(state.params), state.params


def test_a_validation_and_the_end_count_exact_matches(params):
    task = made()
    assert task.evaluate(params).keys() == {"loss", "exact", "baseline_loss"}
    wanted = {f"{name}_{key}" for name in ("test", "familiar") for key in ("loss", "exact")}
    found = task.finish(params)
    assert found.keys() == wanted
    assert found["test_exact"] == 0.0  # of a model that has learned nothing
    assert re.search(r"target  (a|two|three) .*\nanswer  ", task.show(params, 20))


# test_tasks.py trains the quick configuration; these take long to compile.


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["none", "bahdanau"])
def test_a_few_steps_bring_the_loss_down(attention):
    _, before, after, _ = trained(settings(f"decoder.attention={attention}"), 30)
    assert after["loss"] < 0.9 * before["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("features", [False, True])
def test_a_few_steps_on_a_folder_bring_the_loss_down(features, folder, tmp_path):
    more = []
    if features:
        np.save(tmp_path / "rows.npy", np.eye(6))
        (tmp_path / "rows.txt").write_text("\n".join(f"{letter}.jpg" for letter in "abcdef") + "\n")
        more = [f"data.features={tmp_path / 'rows.npy'}", "decoder.attention=none"]
        more += ["encoder.features=8"]
    task, before, after, params = trained(of_folder(folder, *more), 30)
    assert after["loss"] < 0.9 * before["loss"]
    scores = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"}
    assert after.keys() == {"loss", "baseline_loss", *scores}
    assert task.finish(params).keys() == {f"test_{key}" for key in ("loss", *scores)}
    html, _ = task.draw(params, tmp_path)
    assert html.read_text().count("<img") == (0 if features else 2)
    assert "<li>a dog number 4 runs 0</li><li>a dog number 4 runs 1</li>" in html.read_text()


# Answers


def test_an_answer_ends_at_the_end_symbol_and_has_no_other_special_one(folder):
    config = of_folder(folder)
    data = captioned.flickr_of(config)
    network = Captioner(config, data, {})
    params = network.init(jax.random.key(0))
    batch = {**data.tests["test"].batch(np.array([0, 1])), "there": np.ones(2, bool)}

    def said(width, **bias):
        for number, symbol in enumerate(data.symbols):
            value = bias.get(symbol.strip("<>"), 0.0)
            params["decoder"]["readout"]["bias"] = (
                params["decoder"]["readout"]["bias"].at[number].set(value)
            )
        rows = np.asarray(network.answers(params, batch, width=width, length=9, penalty=0.0))
        return [captioned.words_of(data.symbols, row) for row in rows]

    for width in (1, 3):
        assert said(width, end=50.0) == ["", ""]
        assert [len(text.split()) for text in said(width, end=-50.0)] == [9, 9]
        likely = said(width, unknown=50.0, pad=40.0, begin=30.0, dog=20.0, end=-50.0)
        assert likely == [" ".join(["dog"] * 9)] * 2


# The page


def test_show_writes_a_page_and_a_sheet(params, tmp_path):
    task = made()
    html, sheet = task.draw(params, tmp_path)
    text = html.read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(images) == ON_PAGE
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[1]))))
    (scene,) = scenes.draw(0, captioned.TEST, np.array([1]), 24)
    np.testing.assert_array_equal(picture[::8, ::8], scene.picture)  # 24 pixels made 192
    assert f"<li>{scenes.sentence(scene)}</li>" in text
    with Image.open(sheet) as written:
        assert written.size[0] > 900


def test_the_page_marks_right_and_wrong_in_words_and_escapes_what_is_said():
    picture = np.zeros((4, 4, 3), np.uint8)
    shown = [
        gallery.Shown("one", picture, "a <b> c", ("a <b> c",), True),
        gallery.Shown("two", None, "x", ("y & z", "w"), False),
    ]
    text = gallery.page("Title", ["about"], shown)
    assert text.count("<img") == 1
    assert "a &lt;b&gt; c" in text
    assert "<li>y &amp; z</li><li>w</li>" in text
    assert text.index("&#10003; right") < text.index("&#10007; other words")
    assert gallery.enlarged(picture).shape == (192, 192, 3)


# Refusals


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["decoder.word_dropout=1.0"], r"decoder\.word_dropout must be in \[0, 1\), got 1.0"),
        (["data.name=coco"], "data.name must be one of scenes, flickr8k, not 'coco'"),
        (["train.window=8"], "train.window is 8: .* up to 9 symbols"),
        (["data.path=x"], "are for data.name 'flickr8k'"),
        (["data.size=30"], "multiple of 4 pixels"),
        (
            ["encoder.features=16"],
            r"decoder\.attention is 'luong', and the encoder gives one vector",
        ),
        (["data.name=flickr8k"], r"data\.path must name a folder"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    with pytest.raises(UsageError, match=match):
        made(*changes).batch(0)


def test_other_data_than_the_runs_is_refused(folder, tmp_path):
    config = of_folder(folder)
    task = tasks.make_task(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"data": task.facts()}))
    tasks.make_task(config, tmp_path / "run")
    token = folder / "Flickr8k.token.txt"
    token.write_text(token.read_text().replace("dog", "cat"))
    with pytest.raises(UsageError, match="the data of this run changed since it began"):
        tasks.make_task(config, tmp_path / "run")
