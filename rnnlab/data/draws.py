"""Random numbers that are pure functions of (seed, purpose, step), the same in every version of NumPy."""

from typing import Any

import numpy as np

from rnnlab.errors import UsageError

# What random numbers are for: no two purposes share a sequence. Of batches of text:
SHIFT, WINDOWS, HELD_OUT, FORGET = range(4)
# of all other tasks:
TRAIN, EVALUATE, LONGER, SHOW, ORDER, PIXELS, TEST, OWN = range(16, 24)


class Random:
    """Random numbers of (seed, purpose, step): PCG64's raw bits, which are the same in every version
    of NumPy, as its distributions are not. Raises UsageError for a negative seed."""

    def __init__(self, seed: int, purpose: int, *step: int):
        if seed < 0:
            raise UsageError(f"a seed must not be negative: {seed}")
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *step)))

    def integers(self, low: Any, high: Any, shape: tuple[int, ...]) -> np.ndarray:
        """int64 of `shape` in [low, high), which may be arrays that broadcast to it; the bias of the
        remainder is below 1e-9 for any length."""
        raw = self._bits.random_raw(shape)
        return low + (raw % np.asarray(high - low).astype(np.uint64)).astype(np.int64)

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """float64 of `shape` in [0, 1)."""
        return (self._bits.random_raw(shape) >> np.uint64(11)) * 2.0**-53

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """float64 of `shape`, of zero mean and unit variance (Box and Muller 1958)."""
        first, second = self.uniform(shape), self.uniform(shape)
        return np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second)

    def order(self, count: int) -> np.ndarray:
        """The numbers 0 ... count - 1 in random order."""
        return np.argsort(self.uniform((count,)), kind="stable")
