"""Videos of two objects that turn, bounce, cross and pass behind a bar; one of them is to be followed.

Lengths are in pixels, positions are (y, x) of the centre, boxes (cx, cy, w, h) as shares of the side.
"""

from typing import NamedTuple

import numpy as np

from rnnlab.data import sprites
from rnnlab.data.draws import Random


class Crossings(NamedTuple):
    """B videos of two objects and a bar, and where the object to be followed is."""

    # uint8 [T, B, side, side, 2]: the picture, and a mark that fills the object's box in the first
    # frame and is black in all others
    frames: np.ndarray
    boxes: np.ndarray  # float [T, B, 4]: (cx, cy, w, h), also where the object is hidden
    seen: np.ndarray  # float [T, B]: the share of the object that is not covered


def draw(random: Random, rows: int, time: int, side: int) -> Crossings:
    """Videos in which two objects of different looks turn and bounce off the sides.

    A bar, upright or lying and wider than an object, hides what passes behind it. Both objects begin
    beside it, on either side, and head for it. One of the two, drawn by chance, is in front where they
    meet. Speed, turn, size, brightness and the place of the bar vary from video to video.
    """
    looks = random.integers(0, len(sprites.LOOKS), (2, rows))
    looks[1] += looks[1] == looks[0]
    looks[1] %= len(sprites.LOOKS)
    sizes = (0.26 + 0.08 * random.uniform((2, rows))) * side
    extents = sizes[..., None] * sprites.EXTENTS[looks]  # [2, B, (w, h)]
    thick = (0.34 + 0.08 * random.uniform((rows,))) * side
    middle = (0.45 + 0.1 * random.uniform((rows,))) * side
    upright = random.integers(0, 2, (rows,)).astype(bool)
    first = random.integers(0, 2, (rows,))  # the side of the bar on which the target begins
    speed = (0.045 + 0.025 * random.uniform((2, rows))) * side  # pixels a frame
    heading = (random.uniform((2, rows)) - 0.5) * 1.6  # against the way straight at the bar
    turn = (random.uniform((2, rows)) - 0.5) * 0.3  # radians a frame
    ink = 0.7 + 0.3 * random.uniform((2, rows))
    in_front = random.integers(0, 2, (rows,)).astype(bool)  # the other object, of the target

    # Across the bar and along it; turned to (y, x) below.
    half = np.where(upright[:, None], extents, extents[..., ::-1]) / 2  # [2, B, (across, along)]
    after = np.stack([first, 1 - first])  # [2, B]: 1 where an object begins beyond the bar
    room = np.where(after == 1, side - middle - thick / 2, middle - thick / 2) - 2 * half[..., 0]
    # Where the room is too narrow for all of an object, it begins at the edge.
    gap = half[..., 0] + np.clip(room, 0, None) * random.uniform((2, rows))
    place = np.stack(
        [
            np.where(after == 1, side - gap, gap),
            half[..., 1] + (side - 2 * half[..., 1]) * random.uniform((2, rows)),
        ],
        -1,
    )
    to_bar = np.where(after == 1, -1.0, 1.0)
    velocity = speed[..., None] * np.stack([to_bar * np.cos(heading), np.sin(heading)], -1)
    cosine, sine = np.cos(turn), np.sin(turn)
    path = np.empty((time, 2, rows, 2))
    for t in range(time):
        path[t] = place
        across, along = velocity[..., 0], velocity[..., 1]
        velocity = np.stack([cosine * across - sine * along, sine * across + cosine * along], -1)
        place = place + velocity
        beyond = (place < half) | (place > side - half)
        place = np.where(place < half, 2 * half - place, place)
        place = np.where(place > side - half, 2 * (side - half) - place, place)
        velocity = np.where(beyond, -velocity, velocity)
    centres = np.where(upright[:, None], path[..., ::-1], path)  # (y, x)

    bar = abs(np.arange(side) + 0.5 - middle[:, None]) < thick[:, None] / 2  # [B, side]
    bar = np.where(upright[:, None, None], bar[:, None, :], bar[:, :, None])  # [B, side, side]
    target, other = (
        sprites.rendered(
            looks[one],
            centres[:, one],
            np.broadcast_to(sizes[one], (time, rows)),
            side,
            torus=False,
        )
        for one in (0, 1)
    )
    covered = np.where(in_front[:, None, None], other, 0.0)
    left = target * (1.0 - covered) * ~bar
    scene = np.where(
        in_front[:, None, None],
        _over(ink[1], other, _over(ink[0], target, 0.0)),
        _over(ink[0], target, _over(ink[1], other, 0.0)),
    )
    scene = np.where(bar, 0.4, scene)
    boxes = np.concatenate(
        [centres[:, 0, :, ::-1], np.broadcast_to(extents[0], (time, rows, 2))], -1
    )
    frames = np.zeros((time, rows, side, side, 2), np.uint8)
    frames[..., 0] = sprites.grey(scene, random, 0.04)
    frames[0, ..., 1] = box_masks(boxes[0] / side, side)
    return Crossings(frames, boxes / side, left.sum((-1, -2)) / target.sum((-1, -2)))


def _over(ink: np.ndarray, shape: np.ndarray, below: np.ndarray | float) -> np.ndarray:
    return ink[:, None, None] * shape + (1.0 - shape) * below


def box_masks(boxes: np.ndarray, side: int) -> np.ndarray:
    """uint8 [B, side, side]: 255 where a pixel's centre lies in the box, of boxes [B, 4]."""
    centre = (np.arange(side) + 0.5) / side
    x, y = (abs(centre - boxes[:, axis, None]) <= boxes[:, axis + 2, None] / 2 for axis in (0, 1))
    return 255 * (y[:, :, None] & x[:, None, :]).astype(np.uint8)


def extrapolate(boxes: np.ndarray, seen: np.ndarray, *, velocity: bool) -> np.ndarray:
    """What one says of hidden boxes who knows those before: [T, B, 4] of boxes [T, B, 4] with seen
    bool [T, B]. The last box that was seen; with `velocity` it moves on, by what lay between the last
    two of successive steps that were both seen. Who has seen nothing yet says the first box."""
    found, last, step = np.empty_like(boxes), boxes[0], np.zeros_like(boxes[0])
    before = np.zeros(boxes.shape[1], bool)
    for t, (box, there) in enumerate(zip(boxes, seen, strict=True)):
        if t:
            step = np.where((there & before)[:, None], box - boxes[t - 1], step)
        on = last + step if velocity else last
        last = np.where(there[:, None], box, on)
        found[t], before = last, there
    return found
