"""Actions: clips are masked, folders of videos, joints and lists are read, every fault is named."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import launch
from rnnlab import tasks
from rnnlab.data import folders
from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.tasks.actions import clips as clip_files
from rnnlab.tasks.actions import figure, one_frame
from tests.support import ROOT
from tests.tasks.files import write_video

SMALL = [
    "train.window=6",
    "data.shortest=0",
    "train.batch_size=4",
    "train.steps=2",
    "train.log_every=1",
    "train.eval_every=2",
    "train.sample_every=2",
    "train.checkpoint_every=2",
    "eval.chunk=4",
    "eval.sequences=8",
    "model.hidden=8",
    "encoder.channels=(4,)",
    "encoder.features=8",
    "parallel.devices=1",
]


def made(*changes):
    return tasks.make_task(
        configuration.load(str(ROOT / "experiments" / "actions.py"), [*SMALL, *changes])
    )


def of(folder, *changes):
    return made(f"data.path={folder}", *changes)


def series(folder, *, count=20, width=3, kind="npy"):
    """A folder of sequences of numbers: the classes are `up` and `down`, n-th has 3 + n % 6 steps."""
    for sign, name in ((1, "up"), (-1, "down")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            values = 5 + sign * np.arange(3 + number % 6)[:, None] * np.ones(width) + number
            values[:, -1] = 7.0
            file = folder / name / f"v_{name}_g{number // 2:02}_c{number % 2:02}.{kind}"
            if kind == "npy":
                np.save(file, values)
            else:
                lines = [",".join(map(str, row)) for row in values.tolist()]
                file.write_text("\n".join(["x,y,z", *lines, ""]))
    return folder


def test_drawn_clips_have_their_answer_at_their_last_frame():
    batch = made("data.shortest=3", "train.batch_size=50").batch(0)
    lengths = batch["lengths"]
    assert batch["inputs"].shape == (6, 50, 16, 16, 1)
    assert batch["inputs"].dtype == np.uint8
    assert {*lengths} == {3, 4, 5, 6}
    np.testing.assert_array_equal(batch["weights"].argmax(0), lengths - 1)
    np.testing.assert_array_equal(batch["weights"].sum(0), 1)
    assert {*batch["targets"].max(0)} == {*range(10)}


def test_what_stands_behind_a_clip_changes_nothing():
    task = made("data.shortest=3")
    batch = task.batch(0)
    params = task.init(jax.random.key(0))
    behind = np.arange(6)[:, None] >= batch["lengths"]
    assert behind.any()
    other = {**batch, "inputs": batch["inputs"].copy(), "targets": batch["targets"].copy()}
    other["inputs"][behind], other["targets"][behind] = 200, 3
    loss = jax.jit(lambda b: task.loss(params, (), b, None)[1]["loss"])
    assert [*map(float, loss(batch))] == [*map(float, loss(other))]


def test_who_sees_one_frame_only_guesses_and_a_classifier_of_looks_does_not():
    assert abs(one_frame.accuracy_on_motions(6, 16) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 1000)
    random = np.random.default_rng(0)
    looks, classes = random.normal(size=(3, 8, 8)), random.integers(0, 3, 400)
    frames = looks[classes] + 0.7 * random.normal(size=(400, 8, 8))
    split = (frames[:300], classes[:300]), (frames[300:], classes[300:])
    assert one_frame.accuracy(*split, 3) > 0.9


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_joints_are_read_scaled_and_masked(kind, tmp_path):
    task = of(series(tmp_path / "data", kind=kind))
    facts = task.facts()
    batch = task.batch(0)
    assert batch["inputs"].shape == (6, 4, 3)
    assert batch["inputs"].dtype == np.float32
    assert sum(facts[f"{name}_clips"] for name in ("train", "valid", "test")) == 40
    rising = batch["inputs"][1, :, 0] > batch["inputs"][0, :, 0]
    np.testing.assert_array_equal(rising, batch["targets"].max(0) == 1)  # down, up
    lengths = batch["lengths"]
    for row, length in enumerate(lengths):
        assert not batch["inputs"][length:, row].any()
        assert batch["weights"][length - 1, row]
    clips = clip_files.read(str(tmp_path / "data"), ("", ""), 32, 6, 0.1, 0.2)
    steps = np.concatenate([clips.steps[number] for number in clips.splits["train"]])
    assert not steps[:, 2].any()  # a constant
    whole = clip_files.read(str(tmp_path / "data"), ("", ""), 32, 9, 0.1, 0.2)
    steps = np.concatenate([whole.steps[number] for number in whole.splits["train"]])
    np.testing.assert_allclose(steps[:, :2].std(0), 1.0, rtol=1e-5)
    assert max(map(len, clips.steps)) == 6
    assert max(map(len, whole.steps)) == 8


def test_a_split_is_fixed_and_leaves_a_group_whole(tmp_path):
    clips = clip_files.read(str(series(tmp_path / "data")), ("", ""), 32, 6, 0.2, 0.3)
    numbers = np.concatenate([*clips.splits.values()])
    assert sorted(numbers) == [*range(40)]
    for part in clips.splits.values():
        groups = part // 2
        np.testing.assert_array_equal(np.bincount(groups)[np.unique(groups)], 2)
    again = clip_files.read.__wrapped__(str(tmp_path / "data"), ("", ""), 32, 6, 0.2, 0.3)
    assert again.sha256 == clips.sha256


def test_an_epoch_has_each_clip_once(tmp_path):
    task = of(series(tmp_path / "data"), "data.test=0.4", "train.batch_size=2")
    facts = task.facts()
    assert facts["steps_per_epoch"] == facts["train_clips"] // 2
    rows = [
        batch["inputs"][:, row].tobytes()
        for batch in map(task.batch, range(facts["steps_per_epoch"]))
        for row in range(2)
    ]
    assert len({*rows}) == len(rows)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A bright bar that moves to the left, or to the right, in 6 clips each; and two lists."""
    folder = tmp_path_factory.mktemp("videos")
    for name, way in (("Left", -1), ("Right", 1)):
        (folder / "clips" / name).mkdir(parents=True)
        for number in range(6):
            frames = np.zeros((5 + 2 * number, 16, 32, 3), np.uint8)
            for t, frame in enumerate(frames):
                frame[:, (8 + 3 * number + 2 * way * t) % 28 :][:, :4] = 255
            write_video(folder / "clips" / name / f"v_{name}_g{number:02}_c01.avi", frames)
    clips = sorted(f"{p.parent.name}/{p.name}" for p in (folder / "clips").rglob("*.avi"))
    train = [f"{name} {1 + (name[0] == 'R')}" for name in clips if "g05" not in name]
    (folder / "trainlist.txt").write_text("\n".join(train) + "\n")
    (folder / "testlist.txt").write_text("\r\n".join(n for n in clips if "g05" in n))
    return folder


def options(folder):
    lists = [f"data.{name}={folder / name}.txt" for name in ("trainlist", "testlist")]
    return [f"data.path={folder / 'clips'}", "data.side=8", "data.valid=0.3", *lists]


@pytest.mark.slow
def test_a_folder_of_videos_is_trained_on_and_shown(videos, tmp_path, capsys):
    changes = [f"--config.{change}" for change in (*SMALL, *options(videos))]
    experiment = f"--config={ROOT / 'experiments' / 'actions.py'}"
    run = tmp_path / "run"
    assert launch.main(["train", experiment, *changes, f"--workdir={run}"]) == 0
    data = json.loads((run / "run.json").read_text())["data"]
    assert data["test_clips"] == 2
    assert data["train_clips"] + data["valid_clips"] == 10
    assert 0 <= data["one_frame_accuracy"] <= 1
    assert data["length"] == "5 to 6"
    assert re.search(r"test accuracy: (0|0\.5|1)", capsys.readouterr().out)
    assert launch.main(["show", f"--workdir={run}"]) == 0
    assert re.search(r"confusion\.png", capsys.readouterr().out)
    assert [*run.rglob("confusion.png")]

    (videos / "testlist.txt").write_text("Left/v_Left_g05_c01.avi\n")  # of a run that has begun
    clip_files.read.cache_clear()
    assert launch.main(["show", f"--workdir={run}"]) == 0  # of the clips that the run keeps
    shutil.rmtree(run / "data")
    assert launch.main(["show", f"--workdir={run}"]) == 2
    assert "the clips of this run changed since it began" in capsys.readouterr().err


def test_frames_of_videos_are_sampled_evenly(videos):
    clips = clip_files.read(str(videos / "clips"), ("", ""), 8, 6, 0.3, 0.3)
    assert clips.classes == ("Left", "Right")
    assert [len(clip) for clip in clips.steps] == [5, 6, 6, 6, 6, 6] * 2
    assert clips.steps[0].shape[1:] == (8, 8, 3)
    whole = clip_files.read(str(videos / "clips"), ("", ""), 8, 99, 0.3, 0.3)
    np.testing.assert_array_equal(clips.steps[5], whole.steps[5][[1, 3, 6, 8, 11, 13]])


def refused(folder, words, *changes):
    clip_files.read.cache_clear()
    with pytest.raises(UsageError, match=words) as caught:
        of(folder, *changes)
    assert "\n" not in str(caught.value)


def test_faults_of_joints_are_named(tmp_path):
    data = series(tmp_path / "data")
    refused(data, "set data.shortest to 0", "data.shortest=3")
    refused(data, "has no pictures: leave data.side unset", "data.side=16")
    refused(data, "data.test is a share between 0 and 1, got 1.5", "data.test=1.5")
    refused(data, "clips are for training, and a batch has 99", "train.batch_size=99")
    refused(data, "given together, or neither", "data.trainlist=a.txt")
    few = series(tmp_path / "few", count=4)
    refused(few, "of the 8 clips of .*few none is for valid")
    for name in ("train", "test"):
        (tmp_path / name).write_text(f"up/v_up_g0{len(name) % 2}_c00.npy\n")
    lists = [f"data.{name}list={tmp_path / name}" for name in ("train", "test")]
    refused(few, "the class .*few/down has no example for training", *lists)
    file = data / "up" / "v_up_g03_c01.npy"
    faults = [
        (np.ones((4, 2)), "v_up_g03_c01.npy has 2 numbers a step, and .*down.* has 3"),
        (
            np.array([[1, 2, 3], [4, np.nan, 6]]),
            "c01.npy has a number .*: nan, in column 2 of step 2",
        ),
        (np.ones(3), r"c01.npy should hold numbers \[T, D\], not float64 \[3\]"),
        (np.full((2, 3), "a"), r"c01.npy should hold numbers"),
        (np.ones((0, 3)), "c01.npy has no steps"),
    ]
    for values, words in faults:
        np.save(file, values)
        refused(data, words)
    file.write_bytes(b"no array")
    refused(data, "cannot read .*v_up_g03_c01.npy")
    file.rename(data / "up" / "v_up_g03_c01.csv")
    refused(data, "are of different kinds")
    (data / "none").mkdir()
    refused(data, "the class .*none has no example")
    refused(tmp_path / "data" / "up", "a folder for each class, at least 2, and has 0")
    refused(tmp_path / "absent", "cannot read data.path .*absent: No such file")

    data = series(tmp_path / "tables", kind="csv")
    file = data / "up" / "v_up_g03_c01.csv"
    for content, words in (
        ("x,y,z\n1,2,3\n\n4,five,6\n", r"c01.csv:4 is not all numbers: 4,five,6"),
        ("1,2,3\n4,5\n", r"c01.csv:2 has 2 columns, and line 1 3"),
        ("1,2,3\n4,inf,6\n", "c01.csv has a number that is not finite: inf"),
        ("x,y,z\n", "c01.csv has no numbers"),
    ):
        file.write_text(content)
        refused(data, words)


def labelled(folder, *, heading="", label=lambda name: name, apart=False):
    """The series of `series` as CSV files with a column of labels, in one folder, or apart by class."""
    rng = np.random.default_rng(0)
    for number in range(20):
        for name in ("going up", "down"):
            inner = folder / name if apart else folder
            inner.mkdir(parents=True, exist_ok=True)
            rows = [f"{t},{x:.3f},{label(name)}" for t, x in enumerate(rng.normal(size=4))]
            text = "\n".join([*([heading] if heading else []), *rows, ""])
            (inner / f"{name}{number}.csv").write_text(text, encoding="utf-16")
    return folder


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("heading", ["", "t,x,y", "t,x,Label"])
def test_a_column_of_labels_is_no_input(tmp_path, heading, apart):
    clip_files.read.cache_clear()
    task = of(labelled(tmp_path / "data", heading=heading, apart=apart))
    assert task.batch(0)["inputs"].shape == (6, 4, 2)
    found = clip_files.read(str(tmp_path / "data"), ("", ""), 32, 6, 0.1, 0.2)
    assert found.classes == ("down", "going up")
    assert np.bincount(found.labels).tolist() == [20, 20]


def test_labels_that_are_numbers_take_a_heading(tmp_path):
    numbered = {"going up": 1, "down": 0}.get
    data = labelled(tmp_path / "data", heading="t,x,class", label=numbered)
    found = clip_files.read(str(data), ("", ""), 32, 6, 0.1, 0.2)
    assert (found.classes, found.shape) == (("0", "1"), (2,))
    data = labelled(tmp_path / "bare", label=numbered)
    refused(data, "at least 2, and has 0, and no labels: the last column of .* has no words")
    data = labelled(tmp_path / "apart", label=str.upper, apart=True)
    clip_files.read.cache_clear()
    assert of(data).batch(0)["inputs"].shape[-1] == 2
    data = labelled(tmp_path / "other", label=lambda name: "down", apart=True)
    refused(data, "has the label 'down' in its last column, and lies in the folder of 'going up'")
    (data / "down" / "down3.csv").write_text("1,2,down\n3,4,up\n")
    refused(data, "down3.csv:2 has the label 'up', and the first line 'down'")
    (data / "down" / "down3.csv").write_text("1,2,down\n3,4,\n")
    refused(data, "down3.csv:2 has no label|down3.csv:2 is not all numbers")


def test_a_list_says_what_a_file_of_labels_is(tmp_path):
    data = labelled(tmp_path / "data")
    (tmp_path / "train").write_text(
        "".join(f"{name}/{name}{n}.csv\r\n" for n in range(9) for name in ("going up", "down")),
        encoding="utf-8-sig",
    )
    (tmp_path / "test").write_text("going up/going up9.csv 1\ndown/down9.csv 2", encoding="utf-16")
    lists = [f"data.{name}list={tmp_path / name}" for name in ("train", "test")]
    assert of(data, *lists).facts()["test_clips"] == 2


def test_linked_folders_of_clips_are_read_once(tmp_path):
    data, away = series(tmp_path / "data"), series(tmp_path / "away", count=6)
    plain = clip_files.read(str(data), ("", ""), 32, 6, 0.1, 0.2)
    (data / "up" / "more").symlink_to(away / "up")
    (data / "up" / "round").symlink_to(data)
    (data / "up" / "._v_up_g00_c00.npy").write_bytes(b"what another system leaves")
    clip_files.read.cache_clear()
    found = clip_files.read(str(data), ("", ""), 32, 6, 0.1, 0.2)
    assert len(found.labels) == len(plain.labels) + 6
    (data / "again").symlink_to(data / "up")
    refused(data, "again and .*up are one folder: remove the link")


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16])
def test_a_constant_column_is_not_scaled_by_its_rounding(tmp_path, stored):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(30):
            values = np.stack([rng.normal(size=5), np.full(5, 14.62), np.full(5, 0.3)], 1)
            values[:, 2] *= 1 + np.finfo(stored).eps * rng.integers(-1, 2, 5)
            np.save(tmp_path / name / f"{number}.npy", values.astype(stored))
    clip_files.read.cache_clear()
    found = clip_files.read(str(tmp_path), ("", ""), 32, 6, 0.1, 0.2)
    train = np.concatenate([found.steps[number] for number in found.splits["train"]])
    np.testing.assert_allclose(train.std(0), [1, 0, 0], atol=2e-3)


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    data = series(tmp_path / "data")
    file = data / "up" / "v_up_g03_c01.npy"
    try:
        file.rename(data / "up" / b"\xff.npy".decode("utf-8", "surrogateescape"))
    except OSError:
        pytest.skip("this file system has none")
    clip_files.read.cache_clear()
    assert of(data).batch(0)["inputs"].shape == (6, 4, 3)


def test_faults_of_videos_and_lists_are_named(videos, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("Left", "Right"):
        (folder / name).mkdir()
        for file in (videos / "clips" / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    shares = ("data.side=8", "data.valid=0.3", "data.test=0.3", "train.batch_size=1")
    refused(folder, "data.side must be at least 4", "data.side=2")
    (folder / "Left" / "v_Left_g04_c01.avi").write_bytes(b"")
    refused(folder, "v_Left_g04_c01.avi is no video that can be decoded", *shares)
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    lists = (*shares, f"data.trainlist={train}", f"data.testlist={test}")
    train.write_text("Left/v_Left_g00_c01.avi 1\nRight/v_Right_g00_c01.avi 2\n")
    for content, words in (
        ("Left/absent.avi\n", "test.txt:1 names Left/absent.avi, which is not in data.path"),
        ("\nLeft/v_Left_g00_c01.avi", "test.txt:2 names Left/v_.*, as .*train.txt:1 does"),
        ("Left/v_Left_g01_c01.avi\n" * 2, "test.txt:2 names .*, as line 1 does"),
        ("\n", "test.txt names no clip"),
    ):
        test.write_text(content)
        refused(folder, words, *lists)
    test.unlink()
    refused(folder, "cannot read .*test.txt: No such file", *lists)


def test_the_encoder_needs_one_vector_a_frame():
    with pytest.raises(UsageError, match=r"encoder.features must be at least 1"):
        made("encoder.features=0")


@pytest.mark.parametrize("classes", [3, 40])
def test_a_confusion_matrix_has_its_counts_and_shares(classes, tmp_path, monkeypatch):
    counts = np.zeros((classes, classes), int)
    counts[:3, :3] = [[5, 0, 0], [1, 2, 1], [0, 0, 0]]
    figures = []
    monkeypatch.setattr(figure, "save", lambda drawn, path: figures.append(drawn))
    names = [f"class ${number}" for number in range(classes)]
    figure.confusion(counts, names=names, path=tmp_path / "a.png")
    axis = figures[0].axes[0]
    assert axis.get_title() == "77.8% of 9 right"
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts == ({} if classes == 40 else {(0, 0): "5", (0, 1): "1", (1, 1): "2", (2, 1): "1"})
    shares = axis.images[0].get_array()
    np.testing.assert_allclose(shares[:3, :3], [[1, 0, 0], [0.25, 0.5, 0.25], [0, 0, 0]])
    figures[0].savefig(tmp_path / "a.png", dpi=40)


@pytest.mark.slow
def test_the_quick_configuration_sees_the_motion(tmp_path):
    experiment = f"--config={ROOT / 'experiments' / 'actions.py'}"
    run = tmp_path / "run"
    steps = "--config.train.steps=2000"  # of 5,000: to see that it learns
    assert launch.main(["train", experiment, steps, f"--workdir={run}"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["split"] == "valid"][-1]["error"] < 0.5
    assert json.loads((run / "run.json").read_text())["data"]["one_frame_accuracy"] < 0.15


def test_a_run_keeps_its_clips_from_one_folder_and_through_links(tmp_path):
    flat = labelled(tmp_path / "flat")
    linked = series(tmp_path / "linked", count=6)
    (linked / "up" / "more").symlink_to(series(tmp_path / "away", count=4) / "up")
    for data in (flat, linked):
        config = configuration.load(
            str(ROOT / "experiments" / "actions.py"), [*SMALL, f"data.path={data}"]
        )
        run = tmp_path / f"run of {data.name}"
        run.mkdir()
        kept = tasks.make_task(config, run=run)
        kept.keep(run)
        copies = {file.name for file in (run / "data").rglob("*") if file.is_file()}
        assert copies == {name.rpartition("/")[2] for name in folders.files(data)}
