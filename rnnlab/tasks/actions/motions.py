"""Videos of one object that moves in one of ten ways; the class is the motion.

Positions live on a torus and sizes on a circle of sizes, so a frame by itself has the same distribution
in every class: who sees one frame can do no better than guess.
"""

import numpy as np

from rnnlab.data import sprites
from rnnlab.data.draws import Random

MOTIONS = (
    *("left", "right", "up", "down"),
    *("clockwise", "counter-clockwise", "grow", "shrink", "shake", "still"),
)


def draw(
    random: Random, lengths: np.ndarray, time: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [T, B, side, side, 1], classes int [B], places in MOTIONS) of B videos.

    Look, brightness, speed, place and size are drawn alike for all classes. What stands at t >= a
    video's length (int [B]) is black.
    """
    rows = len(lengths)
    classes = random.integers(0, len(MOTIONS), (rows,))
    looks = random.integers(0, len(sprites.LOOKS), (rows,))
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
    frames = sprites.grey(
        ink[:, None, None] * sprites.rendered(looks, centres, sizes, side, torus=True), random, 0.06
    )
    frames[t >= lengths] = 0
    return frames[..., None], classes
