"""A classifier that sees one frame of a clip and no motion: what the network must do better than."""

import functools

import numpy as np

from rnnlab.data import draws
from rnnlab.tasks.actions import motions

FRAMES = 1500, 1000  # of training and of testing, at most


def accuracy(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int
) -> float:
    """The share of right answers of who sees one frame and no motion.

    train, test: (frames [N, ...], classes int [N]). Kernel ridge regression of one-hot targets with a
    Gaussian kernel, as wide as the median distance of two training frames, and a ridge of 0.01.
    """

    def flattened(frames: np.ndarray) -> np.ndarray:
        return frames.reshape(len(frames), -1).astype(np.float64)

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums = (a**2).sum(1)[:, None] + (b**2).sum(1)
        return np.maximum(sums - 2 * a @ b.T, 0.0)

    known, asked = flattened(train[0]), flattened(test[0])
    distances = squared(known, known)
    width = float(np.median(distances)) or 1.0
    kernel = np.exp(-distances / width) + 0.01 * np.eye(len(known))
    targets = np.eye(classes)[train[1]] - 1 / classes
    answers = np.exp(-squared(asked, known) / width) @ np.linalg.solve(kernel, targets)
    return float((answers.argmax(1) == test[1]).mean())


@functools.lru_cache(maxsize=4)
def accuracy_on_motions(time: int, side: int) -> float:
    """Its share of right answers for the built-in clips of `time` frames, by their middle frames; by
    construction 1 in 10."""
    count = sum(FRAMES)
    random = draws.Random(0, draws.OWN)
    frames, classes = motions.draw(random, np.full(count, time), time, side)
    frame, known = frames[time // 2], FRAMES[0]
    names = len(motions.MOTIONS)
    return accuracy((frame[:known], classes[:known]), (frame[known:], classes[known:]), names)
