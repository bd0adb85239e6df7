"""Translation: parallel files and their faults, padding, both directions of the network, the verbs."""

import gzip
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from rnnlab import tasks
from rnnlab.data import words
from rnnlab.errors import UsageError
from rnnlab.run.files import read_json
from rnnlab.sweep.population import Population
from rnnlab.tasks.translation import texts
from rnnlab.tasks.translation.data import SIDES, load_data
from rnnlab.tasks.translation.network import Translator
from rnnlab.train.single import Single
from tests.support import ROOT
from tests.tasks.small import COMMON, QUICK, task_config

PAIRS = [("a man runs .", "ein Mann läuft ."), ("two dogs", "zwei Hunde"), ("a dog", "ein Hund")]


def write_files(folder, count=24, pack=False, **faults):
    for name in ("train", "val", "test"):
        pairs = [PAIRS[n % 3] for n in range(count)]
        for index, language in enumerate(("en", "de")):
            text = "".join(pair[index] + "\n" for pair in pairs)
            content = faults.get(f"{name}_{language}", text.encode())
            if content is None:
                continue
            path = folder / f"{name}.{language}"
            if pack:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


def of_files(folder, *more):
    texts.load.cache_clear()
    files = [f"data.path={folder}", "data.level=word", "data.vocabulary=50", "train.window=9"]
    return task_config("translation", *files, "eval.length=9", *more)


@pytest.mark.parametrize("pack", [False, True])
def test_parallel_files(tmp_path, pack):
    write_files(tmp_path, pack=pack)
    one = tasks.make_task(of_files(tmp_path))
    facts = one.facts()
    assert facts["train_sentences"] == facts["valid_sentences"] == 24
    assert len(facts["sha256"]) == 64
    batch = one.batch(0)
    assert batch["source"].shape == batch["inputs"].shape == (9, 8)
    found = texts.load(str(tmp_path), "", ("train", "val", "test"), ("en", "de"))[0]
    assert found["train"][1][0] == "ein Mann läuft ."


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_files_may_have_a_mark_and_packing_another_name(tmp_path, encoding, ending):
    write_files(tmp_path)
    plain = texts.load(str(tmp_path), "", ("train", "val", "test"), ("en", "de"))[0]
    for number, file in enumerate(tmp_path.iterdir()):
        content = file.read_text(encoding="utf-8").replace("\n", ending).encode(encoding)
        file.write_bytes(gzip.compress(content) if number % 2 else content)
    texts.load.cache_clear()
    assert texts.load(str(tmp_path), "", ("train", "val", "test"), ("en", "de"))[0] == plain


def test_an_encoding_that_is_named_is_taken(tmp_path):
    write_files(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().decode().encode("latin-1"))
    with pytest.raises(UsageError, match=r"train\.de:1 is not UTF-8, .* data\.encoding"):
        tasks.make_task(of_files(tmp_path))
    task = tasks.make_task(of_files(tmp_path, "data.encoding=latin-1"))
    assert task.facts()["train_sentences"] == 24


@pytest.mark.parametrize("level", ["word", "char", "bpe"])
def test_texts_are_in_nfc(tmp_path, level):
    """Otherwise an answer that looks the same as the reference would be counted as wrong."""
    write_files(tmp_path)
    for file in tmp_path.iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
    more = [f"data.level={level}", "train.window=40", "eval.length=40"]
    data = load_data(of_files(tmp_path, *more), None)
    assert data.valid.truth(0) == ("a man runs .", "ein Mann läuft .")
    assert data.targets[0] == "ein Mann läuft ."
    target = data.vocabularies.target
    assert words.UNKNOWN not in target.encode("ein Mann läuft .")
    assert target.decode(target.encode("läuft")) == "läuft"


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"train_en": "a man\n".encode("utf-16-le") * 24}, "train.en looks like UTF-16-LE without"),
        ({"val_de": b"\x89PNG\r\n\x1a\n"}, "val.de is a PNG image, and no text"),
        ({"val_de": None}, "has no val.de"),
        ({"train_de": b"ein\nzwei\n"}, "train.en has 24 lines and train.de has 2"),
        ({"test_en": b"a\n\nb\n"}, "test.en:2 is empty"),
        ({"train_en": b"a\nb\xff\n"}, "train.en:2 is not UTF-8"),
        ({"train_en": b"", "train_de": b""}, "has 0 lines"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, faults, told):
    write_files(tmp_path, **faults)
    with pytest.raises(UsageError, match=told) as error:
        tasks.make_task(of_files(tmp_path))
    assert "\n" not in str(error.value)


def test_a_damaged_archive_is_named(tmp_path):
    write_files(tmp_path, pack=True)
    path = tmp_path / "train.en.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"cannot read train\.en"):
        tasks.make_task(of_files(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.buckets=(20,12)", "rising lengths"),
        ("data.buckets=(60,)", "below train.window"),
        ("decoder.smoothing=1.0", "decoder.smoothing must be"),
        ("decoder.attention=soft", "decoder.attention must be"),
        ("eval.beam=0", "eval.beam must be at least 1"),
        ("data.level=word", "by characters"),
        ("train.window=20", "60 or more"),
        ("data.download=wmt14", "must be 'multi30k'"),
        ("eval.penalty=-1.0", "eval.penalty"),
    ],
)
def test_what_does_not_fit_is_one_line(change, told):
    with pytest.raises(UsageError, match=told) as error:
        tasks.make_task(task_config("translation", change))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def translator():
    one = Translator(task_config("translation"), (9, 8), {})
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(one.init, jax.random.key(0))
    return one, jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.6, s.shape), s.dtype), shapes)


def batch_of(sources, targets, length):
    return {
        "source": words.padded(sources, length),
        "lengths": np.array([len(tokens) for tokens in sources], np.int32),
        **words.taught(targets, length),
        "there": np.ones(len(sources), bool),
    }


@pytest.mark.slow
def test_padding_changes_nothing(translator):
    one, params = translator
    sources, targets = [[4, 5, 6], [7, 8]], [[4, 5], [6, 7, 4]]
    loss = jax.jit(jax.value_and_grad(lambda p, b: one.loss(p, b, None)["loss"][0]))
    plain = loss(params, batch_of(sources, targets, 5))
    noisy = batch_of(sources, targets, 5)
    noisy["source"][2:, 1] = 3
    for key in ("inputs", "targets"):
        noisy[key][~noisy["weights"]] = 1
    jax.tree.map(np.testing.assert_array_equal, loss(params, noisy), plain)
    longer = loss(params, batch_of(sources, targets, 8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), longer, plain)
    absent = batch_of([*sources, [4]], [*targets, [7, 7]], 5)
    absent["there"][2] = False
    gone = loss(params, absent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gone, plain)


@pytest.mark.parametrize("width", [1, 3])
def test_an_answer_is_scored_by_what_the_model_says_of_it(translator, width):
    one, params = translator
    batch = batch_of([[4, 5, 6], [7, 8]], [[4], [4]], 5)
    found = jax.jit(lambda p, b: one.answers(p, b, width=width, length=6, penalty=0.0))(
        params, batch
    )
    for row in range(2):
        tokens = np.asarray(found.tokens[row, 0])[: int(found.lengths[row, 0])]
        ended = tokens[-1] == words.END
        said = [*map(int, tokens[:-1] if ended else tokens)]
        alone = batch_of([[4, 5, 6], [7, 8]][row : row + 1], [said], 8)
        logits, _ = one.logits(params, alone)
        logs = np.asarray(jax.nn.log_softmax(logits))[:, 0]
        expected = sum(logs[t, token] for t, token in enumerate(tokens))
        np.testing.assert_allclose(found.scores[row, 0], expected, rtol=1e-4)
        if width == 1:
            assert [int(logs[t].argmax()) for t in range(len(tokens))] == tokens.tolist()
        assert words.END not in said


def test_buckets_make_shapes_and_no_other_loss(tmp_path):
    write_files(tmp_path)
    plain, cut = (
        tasks.make_task(of_files(tmp_path)),
        tasks.make_task(of_files(tmp_path, "data.buckets=(4,)")),
    )
    assert (plain.shapes, cut.shapes) == (1, 2)
    shapes = {cut.batch(step)["source"].shape for step in range(3)}
    assert shapes == {(4, 8), (9, 8)}
    params = plain.init(jax.random.key(0))
    loss = jax.jit(lambda p, b: plain.loss(p, (), b, None)[1]["loss"])
    totals = [sum(float(loss(params, one.batch(s))[0]) for s in range(3)) for one in (plain, cut)]
    np.testing.assert_allclose(*totals, rtol=1e-4)  # an epoch has the same sentences
    with pytest.raises(UsageError, match="steps_per_dispatch"):
        Single(
            of_files(tmp_path, "data.buckets=(4,)", "train.steps_per_dispatch=4"),
            cut,
            None,
            lambda: None,
        )
    with pytest.raises(UsageError, match="--executor=local"):
        Population([of_files(tmp_path)], [cut], jax.devices()[:1], lambda: None)


def test_smoothing_is_in_training_alone():
    made = [
        Translator(task_config("translation", f"decoder.smoothing={s}"), (9, 8), {})
        for s in (0.0, 0.2)
    ]
    params = made[0].init(jax.random.key(0))
    batch = batch_of([[4, 5]], [[6, 7]], 4)
    key = jax.random.key(1)
    first, second = (one.loss(params, batch, None)["loss"] for one in made)
    np.testing.assert_array_equal(first[0], second[0])
    logits, _ = made[0].logits(params, batch)
    even = -np.asarray(jax.nn.log_softmax(logits)).mean(-1)[:3, 0].sum()
    expected = 0.8 * float(first[0]) + 0.2 * even
    np.testing.assert_allclose(made[1].loss(params, batch, key)["loss"][0], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_verbs(tmp_path, capsys):
    changes = [f"--config.{c}" for c in (*COMMON, *QUICK["translation"], "train.steps=4")]
    flags = [f"--config={ROOT / 'experiments' / 'translation.py'}", f"--workdir={tmp_path}"]
    assert launch.main(["train", *flags, *changes]) == 0
    out = capsys.readouterr().out
    assert "launch.py show" in out
    assert launch.main(["sample", f"--workdir={tmp_path}", "--prime=3 March 1984"]) == 0
    assert capsys.readouterr().out.strip()
    arguments = ["sample", f"--workdir={tmp_path}", "--prime=3 March 1984", "--beam=3"]
    assert launch.main(arguments) == 0
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3
    assert launch.main(["sample", f"--workdir={tmp_path}"]) == 2
    assert "needs its source" in capsys.readouterr().err
    assert launch.main(["show", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "shown" / "attention.png").stat().st_size > 1000
    assert launch.main(["evaluate", f"--workdir={tmp_path}"]) == 0
    assert "test exact" in capsys.readouterr().out


def test_a_run_whose_texts_have_changed_is_refused(tmp_path):
    (tmp_path / "files").mkdir()
    write_files(tmp_path / "files")
    one = tasks.make_task(of_files(tmp_path / "files"))
    one.keep(tmp_path)
    (tmp_path / "run.json").write_text('{"data": {"sha256": "other"}}')
    with pytest.raises(UsageError, match="changed since"):
        tasks.make_task(of_files(tmp_path / "files"), kept=tmp_path)


def test_a_batch_has_the_pairs_of_the_files(tmp_path):
    write_files(tmp_path)
    one = tasks.make_task(of_files(tmp_path))
    one.keep(tmp_path)
    source, target = (words.from_json(read_json(tmp_path / f"{side}.json")) for side in SIDES)
    batch = one.batch(1)
    pairs = {
        (source.decode(read), target.decode(said))
        for read, said in zip(batch["source"].T, batch["targets"].T, strict=True)
    }
    assert pairs == {(a.replace(" .", "."), b.replace(" .", ".")) for a, b in PAIRS}
