"""The order in which the examples of a finite data set are trained on."""

import functools
from collections.abc import Callable

import numpy as np

from rnnlab.data.draws import ORDER, Random

POOL = 50  # batches within which examples are sorted by length


def shuffled(
    count: int, *, batch_size: int, seed: int, lengths: np.ndarray | None = None
) -> tuple[Callable[[int], np.ndarray], int]:
    """(step -> the numbers int [B] of the examples in its batch, steps an epoch).

    An epoch is the examples 0 ... count - 1 in a random order, a function of (seed, epoch), but for
    those that fill no batch. lengths: int [count]; with them examples of like length come in the same
    batch. `count` must be at least `batch_size`.
    """
    steps = count // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        found = Random(seed, ORDER, epoch).order(count)
        if lengths is None:
            return found
        return by_length(found, lengths, batch_size, Random(seed, ORDER, epoch, 1))

    def numbers(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps)
        return order(epoch)[place * batch_size :][:batch_size]

    return numbers, steps


def by_length(order: np.ndarray, lengths: np.ndarray, rows: int, random: Random) -> np.ndarray:
    """The order [N] in batches of like length: sorted within pools of POOL batches, and the batches
    shuffled. What fills no batch stays at the end, and so out."""
    full = len(order) // rows * rows
    pools = [
        pool[np.argsort(lengths[pool], kind="stable")]
        for pool in np.split(order[:full], range(POOL * rows, full, POOL * rows))
    ]
    batches = np.concatenate(pools).reshape(-1, rows)
    return np.concatenate([batches[random.order(len(batches))].ravel(), order[full:]])
