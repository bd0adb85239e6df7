"""Videos drawn from random numbers: digits and shapes in motion.

`motions`: one object moves in one of ten ways, and the class is the motion. Positions live on a torus
and sizes on a circle of sizes, so a frame by itself has the same distribution in every class: who sees
one frame can do no better than guess. `crossings`: two objects turn, bounce, cross and pass behind a
bar; one of them is to be followed.

Lengths are in pixels, positions are (y, x) of the centre, boxes (cx, cy, w, h) as shares of the side.
"""

from typing import NamedTuple

import numpy as np

from rnnlab.data.draws import Random

MOTIONS = (
    *("left", "right", "up", "down"),
    *("clockwise", "counter-clockwise", "grow", "shrink", "shake", "still"),
)
LARGEST = (
    1024  # pixels a side of anything that is drawn: thousands of such pictures fill any memory
)
CELLS = 7  # an object is drawn on 7 x 7 cells, and its size is the side of these
_BITMAPS = (  # digits, 7 rows of 5
    "01110 10001 10001 10001 10001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00010 00100 00100 00100",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)


def _looks() -> np.ndarray:
    """float [15, 7, 7]: the ten digits, a square, a disc, a ring, a cross and a triangle."""
    found = np.zeros((len(_BITMAPS) + 5, CELLS, CELLS))
    for look, text in zip(found, _BITMAPS, strict=False):
        look[:, 1:6] = [[float(bit) for bit in row] for row in text.split()]
    y, x = np.mgrid[-3:4, -3:4]
    radius = np.hypot(x, y)
    found[10:] = (
        np.ones_like(radius),
        radius < 3.7,
        (radius < 3.7) & (radius > 2.1),
        (abs(x) < 2) | (abs(y) < 2),
        2 * abs(x) <= y + 3,
    )
    return found


LOOKS = _looks()  # [looks, 7, 7]
# [looks, 2]: (width, height) of what is drawn, as shares of the size
EXTENTS = np.array([[5 / CELLS, 1.0]] * len(_BITMAPS) + [[1.0, 1.0]] * 5)


def rendered(
    looks: np.ndarray, centres: np.ndarray, sizes: np.ndarray, side: int, *, torus: bool
) -> np.ndarray:
    """The ink, float [T, B, side, side] in [0, 1], of an object in each of B videos.

    looks: int [B]; centres: [T, B, 2], (y, x); sizes: [T, B]. torus: what leaves on one side comes
    back on the other. Between cells the ink is interpolated, so that a motion of less than a pixel
    can be seen.
    """
    away = np.arange(side) + 0.5 - centres[..., None]  # [T, B, 2, side]
    if torus:
        away = (away + side / 2) % side - side / 2
    pitch = CELLS / sizes[..., None, None, None]  # cells a pixel
    width = np.maximum(pitch, 1.0)
    cell = np.arange(CELLS) - (CELLS - 1) / 2
    share = np.clip(1.0 - abs(away[..., None] * pitch - cell) / width, 0.0, None) / width
    rows, columns = share[:, :, 0], share[:, :, 1]  # [T, B, side, CELLS]
    return np.clip(rows @ LOOKS[looks] @ columns.swapaxes(-1, -2), 0.0, 1.0)


def _grey(ink: np.ndarray, random: Random, noise: float) -> np.ndarray:
    """uint8 of what a camera with noise sees of ink in [0, 1]."""
    return np.clip(255 * (ink + noise * random.normal(ink.shape)), 0, 255).astype(np.uint8)


def motions(
    random: Random, lengths: np.ndarray, time: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [T, B, side, side, 1], classes int [B], places in MOTIONS) of B videos.

    Look, brightness, speed, place and size are drawn alike for all classes. What stands at t >= a
    video's length (int [B]) is black.
    """
    rows = len(lengths)
    classes = random.integers(0, len(MOTIONS), (rows,))
    looks = random.integers(0, len(LOOKS), (rows,))
    start = side * random.uniform((rows, 2))
    speed = 0.7 + 0.8 * random.uniform((rows,))  # pixels a frame
    turning = 0.55 + 0.35 * random.uniform((rows,))  # radians a frame
    radius = (0.1 + 0.1 * random.uniform((rows,))) * side
    phase = 2 * np.pi * random.uniform((rows,))
    growing = 0.07 + 0.06 * random.uniform((rows,))  # of the range of sizes, a frame
    level = random.uniform((rows,))  # where in this range the size begins
    ink = 0.6 + 0.4 * random.uniform((rows,))
    shaking = (2 * random.uniform((time, rows, 2)) - 1) * 0.12 * side

    t = np.arange(time)[:, None]
    is_one = {name: (classes == place) * 1.0 for place, name in enumerate(MOTIONS)}
    sense = is_one["clockwise"] - is_one["counter-clockwise"]  # y points down
    angle = phase + sense * turning * t  # [T, B]
    circle = radius * abs(sense)
    down = speed * t * (is_one["down"] - is_one["up"]) + circle * np.sin(angle)
    right = speed * t * (is_one["right"] - is_one["left"]) + circle * np.cos(angle)
    centres = start + np.stack([down, right], -1) + is_one["shake"][:, None] * shaking
    place = (level + growing * t * (is_one["grow"] - is_one["shrink"])) % 1.0
    sizes = 0.3 * side * 2.0**place
    frames = _grey(
        ink[:, None, None] * rendered(looks, centres, sizes, side, torus=True), random, 0.06
    )
    frames[t >= lengths] = 0
    return frames[..., None], classes


class Crossing(NamedTuple):
    """B videos of two objects and a bar, and where the object to be followed is."""

    # uint8 [T, B, side, side, 2]: the picture, and a mark that fills the object's box in the first
    # frame and is black in all others
    frames: np.ndarray
    boxes: np.ndarray  # float [T, B, 4]: (cx, cy, w, h), also where the object is hidden
    seen: np.ndarray  # float [T, B]: the share of the object that is not covered


def crossings(random: Random, rows: int, time: int, side: int) -> Crossing:
    """Videos in which two objects of different looks turn and bounce off the sides.

    A bar, upright or lying and wider than an object, hides what passes behind it. Both objects begin
    beside it, on either side, and head for it. One of the two, drawn by chance, is in front where they
    meet. Speed, turn, size, brightness and the place of the bar vary from video to video.
    """
    looks = random.integers(0, len(LOOKS), (2, rows))
    looks[1] += looks[1] == looks[0]
    looks[1] %= len(LOOKS)
    sizes = (0.26 + 0.08 * random.uniform((2, rows))) * side
    extents = sizes[..., None] * EXTENTS[looks]  # [2, B, (w, h)]
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
        rendered(
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
    frames[..., 0] = _grey(scene, random, 0.04)
    frames[0, ..., 1] = filled(boxes[0] / side, side)
    return Crossing(frames, boxes / side, left.sum((-1, -2)) / target.sum((-1, -2)))


def _over(ink: np.ndarray, shape: np.ndarray, below: np.ndarray | float) -> np.ndarray:
    return ink[:, None, None] * shape + (1.0 - shape) * below


def filled(boxes: np.ndarray, side: int) -> np.ndarray:
    """uint8 [B, side, side]: 255 where a pixel's centre lies in the box, of boxes [B, 4]."""
    centre = (np.arange(side) + 0.5) / side
    x, y = (abs(centre - boxes[:, axis, None]) <= boxes[:, axis + 2, None] / 2 for axis in (0, 1))
    return 255 * (y[:, :, None] & x[:, None, :]).astype(np.uint8)


def carried(boxes: np.ndarray, seen: np.ndarray, *, velocity: bool) -> np.ndarray:
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
