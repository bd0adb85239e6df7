"""Tracking: drawn videos against their boxes, the rules to beat, and tracks of files."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks import settings

from rnnlab import draws, mot, moving, tasks
from rnnlab.tasks import tracking
from rnnlab.types import UsageError

SIDE = 20


def videos(rows=40, time=16):
    return moving.crossings(draws.Random(0, draws.TRAIN), rows, time, SIDE)


def test_boxes_lie_where_the_target_is():
    found = videos()
    assert found.boxes.min() >= -1e-9
    assert found.boxes.max() <= 1 + 1e-9
    half = found.boxes[..., 2:] / 2
    assert (found.boxes[..., :2] - half >= -1e-6).all()
    assert (found.boxes[..., :2] + half <= 1 + 1e-6).all()
    # The mark of the first frame covers the box, to a pixel; all later ones are black.
    for row in range(found.frames.shape[1]):
        ys, xs = np.nonzero(found.frames[0, row, ..., 1])
        x, y, w, h = found.boxes[0, row] * SIDE
        assert abs((xs.min() + xs.max() + 1) / 2 - x) <= 1
        assert abs((ys.min() + ys.max() + 1) / 2 - y) <= 1
        assert abs(len({*xs}) - w) <= 1.01
        assert abs(len({*ys}) - h) <= 1.01
    assert not found.frames[1:, ..., 1].any()
    # It hides, in many videos and not all the time; and comes back.
    hidden = found.seen < tracking.HIDDEN
    assert 0.1 < hidden.mean() < 0.5
    back = [(np.diff(column.astype(int)) == -1).any() for column in hidden.T]
    assert np.mean(back) > 0.5


def test_what_is_hidden_cannot_be_seen():
    found = videos()
    picture = found.frames[..., 0].astype(float)
    hidden = found.seen < 0.01
    inside = [moving.filled(boxes, SIDE) > 0 for boxes in found.boxes]
    spread_hidden, spread_seen = [], []
    for t, masks in enumerate(inside):
        for row, mask in enumerate(masks):
            spread = picture[t, row][mask].std()
            (spread_hidden if hidden[t, row] else spread_seen).append(spread)
    assert np.mean(spread_hidden) < 0.7 * np.mean(spread_seen)


def test_the_rules_are_what_they_say():
    boxes = np.zeros((6, 1, 4))
    boxes[:, 0, 0] = [0, 1, 2, 3, 5, 6]
    boxes[..., 2:] = 1
    seen = np.array([1, 1, 0, 0, 1, 0], bool)[:, None]
    still = moving.carried(boxes, seen, velocity=False)[:, 0, 0]
    assert still.tolist() == [0, 1, 1, 1, 5, 5]
    moved = moving.carried(boxes, seen, velocity=True)[:, 0, 0]
    assert moved[:5].tolist() == [0, 1, 2, 3, 5]
    found = tracking.rules(0, SIDE, 16, 200)
    assert 0 < found["hidden_iou_last_seen"] < found["hidden_iou_constant_velocity"] < 1


def test_overlap_is_that_of_the_boxes():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.1, 0.9, (2, 50, 4))
    corner = boxes.copy()
    corner[..., :2] -= boxes[..., 2:] / 2
    expected = mot.overlap(corner[0], corner[1])
    np.testing.assert_allclose(tracking.iou(*jnp.asarray(boxes)), expected, rtol=1e-4, atol=1e-6)
    assert float(tracking.iou(jnp.array([0.5, 0.5, -1, 0.1]), jnp.array([0.5, 0.5, 0.2, 0.2]))) == 0


def test_moves_lead_from_box_to_box():
    rng = np.random.default_rng(1)
    boxes = rng.uniform(10, 50, (9, 4))
    found = tracking.moves(boxes)
    # What the move of the next box overlaps is what the next box does, whatever the scale.
    still = np.asarray(tracking.moved_iou(jnp.zeros((8, 4)), jnp.asarray(found)))
    np.testing.assert_allclose(still, mot.overlap(boxes[:-1], boxes[1:]), rtol=1e-4, atol=1e-6)
    same = np.asarray(tracking.moved_iou(jnp.asarray(found), jnp.asarray(found)))
    np.testing.assert_allclose(same, 1.0, rtol=1e-5)


def write_sequences(folder, count=3):
    for number in range(count):
        lines = [
            f"{t},{track},{10 * track + 2 * t},{5 * track},{8 + 0.1 * t:.2f},20,1"
            for track in range(1, 9)
            for t in range(1, 12)
        ]
        one = folder / f"S-{number}" / ("gt" if number else "")
        one.mkdir(parents=True)
        (one / "gt.txt").write_text("\n".join(lines))


def test_tracks_of_files(tmp_path):
    write_sequences(tmp_path)
    config = settings("tracking", f"data.path={tmp_path}", "train.window=6")
    one = tasks.make(config)
    facts = one.facts()
    assert (facts["train_tracks"], facts["valid_tracks"], facts["test_tracks"]) == (12, 4, 8)
    assert facts["test"] == "S-2"
    assert facts["test_iou_standing_still"] < facts["test_iou_constant_velocity"] < 1
    batch = one.batch(3)
    assert batch["inputs"].shape == (6, 8, 4)
    # A step's answer is the next step's input.
    for column, length in enumerate(batch["lengths"]):
        np.testing.assert_array_equal(
            batch["targets"][: length - 1, column], batch["inputs"][1:length, column]
        )
    expected = tracking.moves(np.array([[12.0, 5, 8.1, 20], [14, 5, 8.2, 20]]))[0]
    moves = batch["inputs"][batch["weights"]]
    assert np.abs(moves - expected).sum(-1).min() < 1.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.shortest=4", "leave data.shortest at 0"),
        ("data.side=4", "12 or more"),
        ("data.stack=0", "data.stack 1 or more"),
        ("encoder.channels=()", "encoder.channels"),
        ("data.path=nowhere", "is no folder"),
    ],
)
def test_what_does_not_fit_is_one_line(change, told):
    with pytest.raises(UsageError, match=told) as error:
        tasks.make(settings("tracking", change))
    assert "\n" not in str(error.value)


def test_one_sequence_is_too_few(tmp_path):
    write_sequences(tmp_path, count=1)
    with pytest.raises(UsageError, match="takes two or more"):
        tasks.make(settings("tracking", f"data.path={tmp_path}"))
