"""Pictures drawn from random numbers: digits and shapes, in grey, and what a camera makes of them.

Lengths are in pixels, positions are (y, x) of the centre.
"""

import numpy as np

from rnnlab.data.draws import Random

# Pixels a side of anything that is drawn: thousands of such pictures fill any memory.
LARGEST = 1024
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


def grey(ink: np.ndarray, random: Random, noise: float) -> np.ndarray:
    """uint8 of what a camera with noise sees of ink in [0, 1]."""
    return np.clip(255 * (ink + noise * random.normal(ink.shape)), 0, 255).astype(np.uint8)
