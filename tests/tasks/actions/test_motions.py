"""Drawn videos: the class is the motion, and no frame by itself tells it."""

import numpy as np
import pytest

from rnnlab.data.draws import TRAIN, Random
from rnnlab.tasks.actions import motions, one_frame

SIDE, TIME = 16, 12
PLACE = {name: number for number, name in enumerate(motions.MOTIONS)}


@pytest.fixture(scope="module")
def clips():
    lengths = np.full(3000, TIME)
    return motions.draw(Random(0, TRAIN, 0), lengths, TIME, SIDE)


def angles(frames):
    """The phases [T, B, 2] of the ink's centre on the torus, (y, x), and the ink [T, B]."""
    ink = np.clip(frames[..., 0].astype(float) - 60, 0, None)  # noise is mostly below
    wave = np.exp(2j * np.pi * (np.arange(SIDE) + 0.5) / SIDE)
    return np.stack([np.angle(ink.sum(3) @ wave), np.angle(ink.sum(2) @ wave)], -1), ink.sum((2, 3))


def test_objects_move_as_their_class_says(clips):
    frames, classes = clips
    found, ink = angles(frames)
    steps = (np.diff(found, axis=0) + np.pi) % (2 * np.pi) - np.pi  # [T - 1, B, 2]
    steps *= SIDE / (2 * np.pi)  # pixels
    mean = np.median(steps, 0)  # [B, (down, right)]
    for name, axis, sign in (("right", 1, 1), ("left", 1, -1), ("down", 0, 1), ("up", 0, -1)):
        own = mean[classes == PLACE[name]]
        np.testing.assert_allclose(np.median(sign * own[:, axis]), 1.1, atol=0.1)
        assert abs(np.median(own[:, 1 - axis])) < 0.05
        assert (sign * own[:, axis] > 0.5).mean() > 0.95
    turns = np.sign(steps[:-1, :, 1] * steps[1:, :, 0] - steps[:-1, :, 0] * steps[1:, :, 1]).sum(0)
    assert (turns[classes == PLACE["clockwise"]] > 0).mean() > 0.95  # as seen, y points down
    assert (turns[classes == PLACE["counter-clockwise"]] < 0).mean() > 0.95
    moved = np.median(np.abs(steps).sum(-1), 0)
    assert (moved[classes == PLACE["still"]] < 0.6).mean() > 0.95
    assert (moved[classes == PLACE["shake"]] > 0.6).mean() > 0.95
    growing = (np.diff(ink, axis=0) > 0).mean(0)
    assert (growing[classes == PLACE["grow"]] > 0.5).mean() > 0.95
    assert (growing[classes == PLACE["shrink"]] < 0.5).mean() > 0.95


def test_classes_are_equally_frequent(clips):
    counts = np.bincount(clips[1], minlength=len(motions.MOTIONS))
    assert abs(counts - 300).max() < 4.5 * np.sqrt(300 * 0.9)


@pytest.mark.parametrize("t", [0, TIME - 1])
def test_one_frame_says_nothing_of_the_class(clips, t):
    frames, classes = clips
    frame = frames[t]
    known, asked = slice(0, 2000), slice(2000, None)
    split = (frame[known], classes[known]), (frame[asked], classes[asked])
    share = one_frame.accuracy(*split, len(motions.MOTIONS))
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 1000)
    # Of each class the mean frame is the same, and so is how much ink there is and how it is spread.
    pixels = frame[..., 0].reshape(len(frame), -1) / 255.0
    for value in (*pixels.T[::17], pixels.sum(1), (pixels**2).sum(1), pixels.max(1)):
        groups = [value[classes == name] for name in range(len(motions.MOTIONS))]
        spread = value.std() / np.sqrt([len(group) for group in groups])
        assert (
            abs(np.array([group.mean() for group in groups]) - value.mean()) < 4.5 * spread
        ).all()


def test_two_frames_do_say_something(clips):
    frames, classes = clips
    # What a classifier cannot find in one frame it finds where there is something: in the difference.
    steps = angles(frames)[0][4:6]
    step = (np.diff(steps, axis=0)[0] + np.pi) % (2 * np.pi) - np.pi
    split = (step[:2000], classes[:2000]), (step[2000:], classes[2000:])
    assert one_frame.accuracy(*split, len(motions.MOTIONS)) > 0.35


def test_a_clip_ends_in_black():
    lengths = np.array([3, 8, 5])
    frames, _ = motions.draw(Random(1, TRAIN, 0), lengths, 8, SIDE)
    assert frames.shape == (8, 3, SIDE, SIDE, 1)
    assert frames.dtype == np.uint8
    assert (frames.max((2, 3, 4)) > 0).sum(0).tolist() == lengths.tolist()
