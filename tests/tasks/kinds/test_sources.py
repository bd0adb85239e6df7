"""A run keeps the files that its task reads: it is evaluated where they are not; where it looked is told."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import soundfile

import launch
from rnnlab import tasks
from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run import process
from rnnlab.run.files import read_json, write_json
from rnnlab.tasks.kinds import sources
from rnnlab.tasks.speech import digits
from rnnlab.tasks.translation import texts
from tests.support import ROOT
from tests.tasks.files import publish
from tests.tasks.test_mnist import write_images
from tests.tasks.tracking.test_tracking import write as write_boxes
from tests.tasks.translation.test_translation import write_files as write_parallel

SMALL = ["train.batch_size=2", "train.steps=2", "optim.warmup_steps=0", "model.hidden=4"]
EXAMPLES = ["eval.examples=2", "eval.decoded=0", "eval.chunk=2"]


class Case(NamedTuple):
    """A task on files of one's own."""

    experiment: str
    overrides: list[str]
    kept: set[str]  # relative to the run's folder, a part of what it keeps


def write_digits(folder):
    for speaker in ("anna", "bert"):
        for digit in range(10):
            for index in (0, 5, 10):
                tone = np.sin(np.arange(800) * (digit + 1 + index) / 40).astype(np.float32)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", 0.3 * tone, 8000)


def write_clips(folder):
    for number, name in enumerate(("still", "wild")):
        (folder / name).mkdir()
        for clip in range(8):
            steps = np.full((5, 3), number) + np.arange(15).reshape(5, 3) * clip
            np.save(folder / name / f"{clip}.npy", steps.astype(np.float32))


def case(name: str) -> Case:
    """Writes the files of a task into the working folder's `files`."""
    folder = Path("files")
    folder.mkdir()
    path = ["data.path=files"]
    if name == "text":
        (folder / "a.txt").write_text("to be or not to be, that is the question. " * 60)
        own = ["data.path=files/a.txt", "train.window=8", "eval.streams=2", "eval.burn_in=0"]
        own += ["eval.window=8", "eval.random_windows=2", "eval.random_window=8", "sample.length=3"]
        return Case("default", own, {"data/path/a.txt"})
    if name == "texts":
        (folder / "sub").mkdir()
        for file in ("b.txt", "sub/a.txt", "sub/left.md", ".hidden.txt"):
            (folder / file).write_text(f"{file}: to be or not to be, that is the question. " * 60)
        own = [
            "data.path=files/",
            "data.glob=*.txt",
            "train.window=8",
            "eval.streams=2",
        ]
        own += ["eval.burn_in=0", "eval.window=8", "eval.random_windows=2"]
        own += ["eval.random_window=8", "sample.length=3"]
        return Case("default", own, {"data/path/b.txt", "data/path/sub/a.txt"})
    if name == "table":
        rows = [f"{n % 7},{n % 3},{(n % 7) * 0.5}" for n in range(40)]
        (folder / "t.csv").write_text("\n".join(rows))
        own = ["data.path=files/t.csv", "eval.sequences=4"]
        return Case("one_to_one", own, {"data/path/t.csv"})
    if name == "images":
        write_images(folder, pack=True)
        own = ["task=mnist", "data.valid=10", "eval.sequences=10", "train.window=16", *path]
        return Case("memory", own, {"data/path/t10k-labels-idx1-ubyte.gz"})
    if name == "translation":
        write_parallel(folder)
        own = [*EXAMPLES, *path, "data.level=word", "data.vocabulary=50", "train.window=9"]
        return Case("translation", [*own, "eval.length=9"], {"data/path/val.de"})
    if name == "captions":
        publish(folder)
        own = [*EXAMPLES, *path, "data.name=flickr8k", "data.rare=1", "data.size=24"]
        own += ["encoder.channels=(4,)", "train.window=6"]
        return Case("captions", own, {"data/path/Flicker8k_Dataset/a.jpg"})
    if name == "features":
        publish(folder)
        shutil.rmtree(folder / "Flicker8k_Dataset")
        np.save("vectors.npy", np.arange(12.0).reshape(6, 2))
        Path("vectors.txt").write_text("".join(f"{c}.jpg\n" for c in "abcdef"))
        own = [*EXAMPLES, *path, "data.name=flickr8k", "data.rare=1", "train.window=6"]
        own += ["data.features=vectors.npy", "decoder.attention=none", "encoder.features=4"]
        return Case("captions", own, {"data/features/vectors.npy", "data/features/vectors.txt"})
    if name == "clips":
        write_clips(folder)
        for list_, clips in (("train", range(6)), ("test", (6, 7))):
            lines = [f"{kind}/{clip}.npy" for kind in ("still", "wild") for clip in clips]
            Path(f"{list_}.txt").write_text("\n".join(lines))
        own = [*path, "data.shortest=0", "train.window=5", "eval.chunk=2"]
        own += ["data.trainlist=train.txt", "data.testlist=test.txt"]
        return Case("actions", own, {"data/path/still/0.npy", "data/testlist/test.txt"})
    if name == "speech":
        write_digits(folder)
        own = [*EXAMPLES, *path, "sample.utterances=1"]
        return Case("fsdd", own, {"data/path/3_anna_5.wav"})
    assert name == "boxes"
    write_boxes(folder)
    (folder / "one" / "img1").mkdir()
    (folder / "one" / "img1" / "000001.jpg").write_text("large")
    own = [*path, "data.name=mot", "data.ahead=3", "train.window=5"]
    return Case("tracking", own, {"data/path/two/gt.txt"})


CASES = (
    *("text", "texts", "table", "images", "translation", "captions", "features", "clips", "speech"),
    "boxes",
)


@pytest.fixture(autouse=True)
def working(tmp_path, monkeypatch):
    """The working folder, and no cache of what was read before."""
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    for cached in (digits.load, texts.load):
        cached.cache_clear()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def begun(config, run: Path) -> tasks.Task:
    """The task, whose run has begun in a folder."""
    task = tasks.make_task(config)
    run.mkdir(parents=True)
    write_json(run / "config.json", configuration.to_json(config))
    write_json(run / "run.json", {"data": json.loads(json.dumps(task.facts()))})
    task.keep(run)
    return task


def config_of(name: str) -> tuple[Case, configuration.Config]:
    found = case(name)
    path = ROOT / "experiments" / f"{found.experiment}.py"
    return found, configuration.load(path, [*SMALL, *found.overrides])


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", CASES)
def test_a_run_needs_nothing_but_its_folder(name, working, tmp_path, monkeypatch):
    found, config = config_of(name)
    task = begun(config, working / "run")
    there = {p.relative_to("run").as_posix() for p in Path("run").rglob("*") if p.is_file()}
    assert found.kept <= there
    assert not any(word in file for file in there for word in ("hidden", "left", "img1"))
    assert all(
        os.path.isabs(entry["path"]) for entry in read_json(Path("run/sources.json")).values()
    )
    # Elsewhere, with the files gone, and the run moved.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move("run", elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    shutil.rmtree(working)
    working.mkdir()
    for options in ({"kept": Path("moved")}, {"run": elsewhere / "moved"}):
        again = tasks.make_task(config, **options)
        assert again.fingerprint == task.fingerprint
        same(again.batch(1), task.batch(1))
        params = task.init(jax.random.key(0))
        if name in ("text", "texts", "table", "images"):  # whose evaluation compiles quickly
            assert again.evaluate(params) == task.evaluate(params)
        if again.probe is not None and again.probe.text is not None:
            assert task.probe is not None
            assert task.probe.text is not None
            same(again.probe.text()[1], task.probe.text()[1])
    # What is kept again is what is there, and not a second copy.
    before = {p: p.stat().st_mtime_ns for p in Path("moved/data").rglob("*")}
    again.keep(Path("moved"))
    assert {p: p.stat().st_mtime_ns for p in Path("moved/data").rglob("*")} == before


@pytest.mark.parametrize("name", ["text", "table", "boxes"])
def test_what_is_too_large_is_not_kept_and_is_looked_for_where_it_was(
    name, working, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "KEPT_AT_MOST", 10)
    _, config = config_of(name)
    task = begun(config, working / "run")
    assert not Path("run/data").exists()
    entry = read_json(Path("run/sources.json"))["data.path"]
    assert entry["kept"] is None
    assert entry["bytes"] > 10
    monkeypatch.chdir(tmp_path)
    run = working / "run"
    same(tasks.make_task(config, run).batch(1), task.batch(1))
    shutil.move(working / "files", tmp_path / "away")
    with pytest.raises(UsageError, match=r"data\.path of the run in .* is not found") as error:
        tasks.make_task(config, run).batch(1)
    told = str(error.value)
    assert f"{config.data.path}, but it is not there" in told
    assert "no copy is kept" in told
    assert read_json(run / "run.json")["data"]["sha256"] in told


def test_a_copy_that_has_changed_is_not_used(working):
    _, config = config_of("table")
    begun(config, working / "run")
    copy = Path("run/data/path/t.csv")
    copy.write_text(copy.read_text().replace("3", "4"))
    tasks.make_task(config, Path("run"))
    Path("files/t.csv").unlink()
    with pytest.raises(UsageError, match=r"path/t\.csv, but what is there has changed"):
        tasks.make_task(config, Path("run"))


def test_other_files_where_the_old_ones_were_do_not_matter_to_what_is_kept(working):
    _, config = config_of("table")
    task = begun(config, working / "run")
    path = Path("files/t.csv")
    path.write_text(path.read_text().replace("3", "4"))
    same(tasks.make_task(config, Path("run")).batch(0), task.batch(0))


@pytest.mark.parametrize("name", ["table", "boxes"])
def test_an_older_run_with_a_relative_path_is_found_from_anywhere(
    name, tmp_path, working, monkeypatch
):
    _, config = config_of(name)
    task = begun(config, working / "runs" / "mine")
    run = working / "runs" / "mine"
    (run / "sources.json").unlink()
    shutil.rmtree(run / "data")
    old = configuration.plain_config(config, apart=True)
    old.data.path = os.path.relpath(config.data.path, working)
    monkeypatch.chdir(tmp_path)
    for options in ({"kept": run}, {"run": run}):
        same(tasks.make_task(old, **options).batch(1), task.batch(1))
    assert sources.anchored(old, run).data.path == config.data.path
    shutil.move(working / "files", tmp_path / "away")
    with pytest.raises(UsageError, match="is not found") as error:
        tasks.make_task(old, run)
    for place in (tmp_path, working / "runs", working):
        assert f"{place / old.data.path}, but it is not there" in str(error.value)


def test_members_of_a_sweep_share_what_they_keep(working):
    _, config = config_of("table")
    runs = [working / "sweep" / "members" / name for name in ("one", "two")]
    for run in runs:
        begun(config, run)
    assert os.path.samefile(*(run / "data" / "path" / "t.csv" for run in runs))
    assert not os.path.samefile(runs[0] / "data" / "path" / "t.csv", "files/t.csv")


def test_a_path_with_home_and_a_run_inside_its_folder(working, monkeypatch):
    monkeypatch.setenv("HOME", str(working))
    _, config = config_of("texts")
    home = configuration.load(
        ROOT / "experiments" / "default.py",
        [*SMALL, *[o.replace("files/", "~/files") for o in case_overrides("texts")]],
    )
    assert home.data.path == config.data.path == str(working / "files")
    begun(home, working / "files" / "run")
    tasks.make_task(home).keep(working / "files" / "run")
    there = {p.name for p in (working / "files" / "run" / "data").rglob("*") if p.is_file()}
    assert there == {"a.txt", "b.txt"}


def case_overrides(name: str) -> list[str]:
    shutil.rmtree("files")
    return case(name).overrides


def test_train_evaluate_and_resume_from_three_folders(working, tmp_path, monkeypatch, capsys):
    for name in ("retain_memory", "keep_compiled", "make_devices"):
        monkeypatch.setattr(process, name, lambda *_: True)
    found = case("table")
    experiment = f"--config={ROOT / 'experiments' / found.experiment}.py"
    overrides = [f"--config.{o}" for o in [*SMALL, *found.overrides]]
    run = tmp_path / "runs" / "mine"
    assert launch.main(["train", experiment, f"--workdir={run}", *overrides]) == 0
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    capsys.readouterr()
    said = []
    for _ in range(2):
        assert launch.main(["evaluate", f"--workdir={run}", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
        if (working / "files").exists():
            shutil.move(working / "files", tmp_path / "away")
    assert said[0] == said[1]
    assert launch.main(["train", f"--workdir={run}"]) == 0
    assert read_json(run / "config.json")["data"]["path"] == str(working / "files" / "t.csv")
