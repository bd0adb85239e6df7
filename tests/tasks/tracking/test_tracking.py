"""Tracking: what the answers are, what a baseline reaches, boxes ahead from MOT files, the pictures."""

import shutil

import numpy as np
import pytest

from rnnlab.data import draws
from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.tasks.metrics.boxes import iou
from rnnlab.tasks.tracking import crossings, figure, mot, task, tracks
from rnnlab.train.from_config import build
from rnnlab.train.saved import open_run
from rnnlab.train.session import fit
from tests.support import ROOT
from tests.tasks.small import COMMON, QUICK


def settings(*more):
    path = str(ROOT / "experiments" / "tracking.py")
    return configuration.load(path, [*COMMON, *QUICK["tracking"], *more])


# ---- videos


def test_the_answers_are_the_boxes_of_the_video():
    config = settings("train.window=10", "data.shortest=8")
    batch = task.make_task(config).batch(3)
    assert batch["inputs"].dtype == np.uint8
    assert batch["targets"].shape == (10, 8, 4)
    there = np.arange(10)[:, None] < batch["lengths"]
    np.testing.assert_array_equal(batch["weights"], there)
    assert {*batch["lengths"].tolist()} <= {8, 9, 10}
    assert not batch["inputs"][~there].any()
    mean, spread = task.mean_box(10)
    boxes = batch["targets"] * spread + mean
    marks = crossings.box_masks(boxes[0], 16)
    np.testing.assert_array_equal(batch["inputs"][0, ..., 1], marks)
    assert not batch["inputs"][1:, ..., 1].any()


def test_the_baselines_are_what_the_task_says():
    found = crossings.draw(draws.Random(7, draws.OWN), 400, 16, 16)
    # Of the loss, on videos other than those its units are of.
    mean, spread = task.mean_box(16)
    loss = (((found.boxes - mean) / spread) ** 2).mean()
    assert loss == pytest.approx(task.make_task(settings("train.window=16")).baseline[1], rel=0.05)
    # Of the IoU, as the docstring has them.
    hidden = task.baselines(found, task.HIDDEN)
    covered = task.baselines(found, task.COVERED)
    assert hidden["last_seen"] == pytest.approx(0.17, abs=0.03)
    assert hidden["constant_velocity"] == pytest.approx(0.57, abs=0.03)
    assert covered["last_seen"] == pytest.approx(0.29, abs=0.03)
    assert covered["constant_velocity"] == pytest.approx(0.73, abs=0.03)
    assert hidden["mean_box"] < covered["mean_box"] < 0.25


def test_a_guess_by_hand():
    boxes = np.tile([0.0, 0.5, 0.2, 0.2], (5, 1, 1))
    boxes[:, 0, 0] = [0.1, 0.2, 0.3, 0.4, 0.4]
    seen = np.array([1.0, 1.0, 0.4, 0.0, 0.9])[:, None]
    found = task.baselines(crossings.Crossings(np.zeros(0), boxes, seen), 0.5)
    assert found["last_seen"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["constant_velocity"] == pytest.approx(1.0)


def test_the_end_measures_hidden_steps_alone():
    config = settings("train.window=8", "eval.sequences=8")
    one, _ = build(config)
    params = one.init(np.uint32([0, 0]))
    # A model of no weights always says its bias: the mean box.
    params = {**params, "readout": {**params["readout"], "kernel": 0 * params["readout"]["kernel"]}}
    box = task.mean_box(8)[0]
    found = one.finish(params)
    video = crossings.draw(draws.Random(config.seed, draws.TEST, 0), 8, 8, 16)
    values = iou(np.broadcast_to(box, video.boxes.shape), video.boxes)
    assert found["test_iou"] == pytest.approx(values.mean(), rel=1e-4)
    assert found["hidden_iou"] == pytest.approx(values[video.seen < 0.5].mean(), rel=1e-4)
    assert found["covered_iou"] == pytest.approx(values[video.seen < 0.1].mean(), rel=1e-4)
    assert one.evaluate(params)["iou"] < 0.5


def test_longer_videos_at_the_end():
    one, _ = build(
        settings("train.window=8", "eval.lengths=(10,)", "eval.sequences=8", "eval.longer=8")
    )
    assert 0 <= one.finish(one.init(np.uint32([0, 0])))["iou_at_10"] <= 1


# ---- MOT


def write(folder, count=4, time=12, seed=0):
    """Two sequences of tracks with a constant velocity each, and a size that grows."""
    random = draws.Random(seed, draws.OWN)
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        rows = []
        for which in range(count):
            place, step = 100 + 100 * random.uniform((2,)), 6 * random.uniform((2,)) - 3
            for t in range(time):
                x, y = place + t * step
                rows.append(f"{t + 1},{which},{x:.4f},{y:.4f},{20 + t},{40 + t},1")
        (folder / name / "gt.txt").write_text("\n".join(rows))
    return folder


MOT = ["data.name=mot", "data.ahead=3", "train.window=5"]


def test_changes_are_undone_and_overlaps_do_not_depend_on_the_box():
    random = draws.Random(1, draws.OWN)
    before, after, other = 10 + 20 * random.uniform((3, 3, 7, 4))
    np.testing.assert_allclose(
        tracks.changed(before, tracks.change(before, after)), after, rtol=1e-12
    )
    spread = np.float32([0.5, 2.0, 1.0, 0.25])
    base = np.float32(random.normal((3, 7, 4)))
    ways = [(np.float32(tracks.change(before, b)) - base) / spread for b in (after, other)]
    measures = dict(tracks.judge_ahead(tuple(spread.tolist())))
    targets = np.concatenate([ways[1], base], -1)
    np.testing.assert_allclose(
        measures["iou"](ways[0], targets), iou(after, other), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        measures["loss"](ways[0], targets), ((ways[0] - ways[1]) ** 2).mean(-1), rtol=1e-5
    )


def test_what_is_asked_is_the_box_ahead(tmp_path):
    config = settings(*MOT, f"data.path={write(tmp_path)}", "data.held=two")
    one = task.make_task(config)
    batch = one.batch(0)
    found = [t for s in mot.sequences(tmp_path) if s.name == "one" for t in mot.tracks(s)]
    last = [tracks.change(t.boxes[:-1], t.boxes[1:]) for t in found]
    unit = np.sqrt((np.concatenate(last) ** 2).mean(0))
    # Constant velocity misses nothing but at the first box of a track, of which 9 are asked.
    first = np.stack([tracks.change(t.boxes[0], t.boxes[3]) for t in found])
    spread = np.sqrt((first**2).mean(0) / 9)
    size = found[0].boxes[:, 2:]  # alike in all tracks
    mirrored = 0
    for row in range(8):
        grown = np.exp(batch["targets"][0, row, 2] * spread[2])  # (23 + at) / (20 + at)
        at = round(3 / (grown - 1) - 20)
        inputs, targets = batch["inputs"][:, row], batch["targets"][:, row]
        assert inputs[:, 8].tolist() == [1, 0, 0, 0, 0]
        np.testing.assert_allclose(targets[1:, :4], 0, atol=1e-3)
        np.testing.assert_allclose(targets[0, 4:], 0)
        moved = inputs[1:, :2] * unit[:2] * size[at : at + 4]
        ahead = targets[1:, 4:6] * size[at + 1 : at + 5]
        np.testing.assert_allclose(ahead, 3 * moved, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(targets[0, :2] * spread[:2] * size[at], ahead[0], rtol=1e-3)
        steps = [t.boxes[1, :2] - t.boxes[0, :2] for t in found]
        ways = [
            [np.allclose(moved[0], step * [sign, 1], rtol=1e-3) for step in steps]
            for sign in (1, -1)
        ]
        assert np.sum(ways) == 1
        mirrored += any(ways[1])
    assert 0 < mirrored < 8
    facts = one.facts()
    assert (facts["train_tracks"], facts["valid_tracks"]) == (4, 4)
    assert facts["valid_boxes"] == 4 * (12 - 3)
    assert facts["split"] == "by sequence: two"
    assert facts["constant_velocity_iou"] > facts["staying_iou"]


def test_constant_velocity_by_hand():
    boxes = np.array([[0.0, 0, 9, 9], [2, 0, 9, 9], [3, 0, 5, 9]])
    last = tracks.velocity(boxes, 1, 2)
    np.testing.assert_allclose(last[:2], [[0, 0, 9, 9], [6, 0, 9, 9]])
    np.testing.assert_allclose(last[2], boxes[2])  # its width would be -3
    np.testing.assert_allclose(tracks.velocity(boxes, 5, 1)[2], [4.5, 0, 3, 9])


def test_the_baseline_of_the_loss_is_that_of_constant_velocity(tmp_path):
    write(tmp_path)
    every = (tmp_path / "one/gt.txt").read_text().splitlines()
    # Sizes that stay: who goes on as before is right but at the first box of a track, where he stays.
    still = [",".join([*line.split(",")[:4], "20,40,1"]) for line in every]
    for name in ("one", "two"):
        (tmp_path / name / "gt.txt").write_text("\n".join(still))
    config = settings(*MOT, f"data.path={tmp_path}", "data.held=two")
    found = mot.tracks(mot.sequences(tmp_path)[1])
    change = np.stack([tracks.change(t.boxes[:-3], t.boxes[3:])[..., :2] for t in found])
    spread = np.sqrt((change[:, 0] ** 2).mean(0) / 9)
    # Each piece of at most 5 steps begins anew.
    expected = ((change[:, [0, 5]] / spread) ** 2).sum() / 4 / (4 * 9)
    assert task.make_task(config).baseline[1] == pytest.approx(expected, rel=1e-3)


def test_the_model_learns_the_boxes_ahead(tmp_path):
    config = settings(*MOT, f"data.path={write(tmp_path)}", "train.steps=30")
    fit(config, tmp_path / "run", [])
    run = open_run(tmp_path / "run", "latest", print)
    found = run.task.evaluate(run.params)
    assert found["loss"] < run.task.evaluate(run.task.init(np.uint32([0, 0])))["loss"]
    assert 0 < found["iou"] < 1
    (tmp_path / "shown").mkdir()
    assert len(run.task.draw(run.params, tmp_path / "shown")) == 2
    # The run keeps its boxes; others than those are refused.
    path = tmp_path / "one/gt.txt"
    path.write_text(path.read_text().replace(",20,40,1", ",21,40,1"))
    again = open_run(tmp_path / "run", "latest", print)
    assert again.task.evaluate(run.params) == found
    with pytest.raises(UsageError, match="changed since it began"):
        fit(None, tmp_path / "run", [])
    shutil.rmtree(tmp_path / "run" / "data")
    with pytest.raises(UsageError, match="changed since it began"):
        open_run(tmp_path / "run", "latest", print)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.name=films"], "crossings or mot"),
        (["data.path=somewhere"], "data.path is for data.name=mot"),
        (["data.size=8"], "at least 16"),
        (["data.name=mot"], "set data.path"),
        ([*MOT, "data.path={folder}", "data.ahead=0"], "data.ahead must be at least 1"),
        ([*MOT, "data.path={folder}", "data.held=three"], "has no three, but one, two"),
        ([*MOT, "data.path={folder}", "data.held=one,two"], "data.held"),
        ([*MOT, "data.path={folder}", "data.valid=1.0"], "data.valid"),
        ([*MOT, "data.path={folder}", "data.ahead=50"], "of 0 tracks"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, words):
    write(tmp_path, count=2, time=6)
    with pytest.raises(UsageError, match=words):
        task.make_task(settings(*[change.format(folder=tmp_path) for change in changes]))


# ---- pictures


def test_the_pictures_show_both_boxes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rows, time = 4, 5
    true = np.tile([0.3, 0.5, 0.4, 0.4], (time, rows, 1))
    videos = figure.Tracking(
        frames=np.full((time, rows, 20, 20), 90, np.uint8),
        true=true,
        said=true + np.array([0.4, 0, 0, 0]),
        hidden=np.arange(time)[:, None] > np.arange(rows),
    )
    written = figure.tracking(videos, tmp_path, milliseconds=200, shown=3)
    assert [path.name for path in written] == ["tracking.gif", "tracking.png"]
    with image.open(written[0]) as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (time, 200, 0)
        assert film.size == (3 * 204 + 4, 2 * 204 + 4 + figure.MARGIN)
    with image.open(written[1]) as strip:
        pixels = np.asarray(strip)
    colours = [tuple(bytes.fromhex(colour[1:])) for colour, _ in figure.LINES.values()]
    tile = pixels[4:144, 4:144]  # of 20 pixels, 7 times as large
    true_ones, said = ((tile == colour).all(-1) for colour in colours)
    assert true_ones.any()
    assert said.any()
    # Dashes cover less than the line, and neither blurs into the pixels.
    assert said.sum() < 0.8 * true_ones.sum()
    assert {*map(tuple, tile.reshape(-1, 3))} <= {
        (90, 90, 90),
        (255, 255, 255),
        (0, 0, 0),
        *colours,
    }


def test_a_box_of_negative_size_is_drawn_as_a_point(tmp_path):
    videos = figure.Tracking(
        frames=np.zeros((2, 1, 20, 20), np.uint8),
        true=np.full((2, 1, 4), 0.5),
        said=np.full((2, 1, 4), -0.5),
        hidden=np.zeros((2, 1), bool),
    )
    assert all(
        path.exists() for path in figure.tracking(videos, tmp_path, milliseconds=100, shown=8)
    )


def test_an_encoder_without_a_vector_at_its_end_is_refused():
    path = str(ROOT / "experiments" / "tracking.py")
    settings = configuration.load(path, ["encoder.features=0"])
    with pytest.raises(UsageError, match=r"encoder\.features must be at least 1, got 0"):
        task.make_task(settings)
