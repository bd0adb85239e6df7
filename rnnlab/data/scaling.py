"""Columns of numbers in units of what training has. What is constant there, up to rounding, is not scaled."""

from typing import Any, NamedTuple

import numpy as np

LARGE = 1e150  # whose square has no float64
ROUNDING = 8  # units in the last place by which equal numbers may differ,
TINY = np.finfo(np.float64).tiny
LEAST = 1e-12  # and of float64, which has been computed with, this share of the largest


class Scale(NamedTuple):
    """The mean and the spread of columns, float64 [D]."""

    mean: np.ndarray
    spread: np.ndarray

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """float32 [..., D], of mean 0 and variance 1 where the scale is from."""
        return ((columns - self.mean) / self.spread).astype(np.float32)


def constant(columns: np.ndarray, stored: Any = np.float64) -> np.ndarray:
    """bool [D]: which columns of [N, D] are constant up to rounding. stored: the dtype that the numbers
    have been in, the coarsest of several."""
    kind = np.dtype(stored)
    share = max(ROUNDING * float(np.finfo(kind).eps), LEAST) if kind.kind == "f" else 0.0
    low, high = columns.min(0).astype(np.float64), columns.max(0).astype(np.float64)
    return high - low <= np.maximum(share * np.maximum(np.abs(low), np.abs(high)), TINY)


def standard(columns: np.ndarray, stored: Any = np.float64) -> Scale:
    """To mean 0 and variance 1 over the rows of [N, D]; a constant column becomes 0, and what differs from
    it later stays in its own unit. stored: see `constant`."""
    columns = columns.astype(np.float64)
    same, low, high = constant(columns, stored), columns.min(0), columns.max(0)
    largest = np.maximum(np.abs(low), np.abs(high))
    unit = np.where(largest > LARGE, largest, 1.0)
    mean, spread = unit * (columns / unit).mean(0), unit * (columns / unit).std(0)
    return Scale(np.where(same, low / 2 + high / 2, mean), np.where(same, 1.0, spread))


def root_mean_square(columns: np.ndarray, least: float = 1e-9) -> np.ndarray:
    """float64 [D] of [N, D]; 1 where it is not above `least`, for what is 0 but for rounding."""
    found = np.sqrt((columns**2).mean(0))
    return np.where(found > least, found, 1.0)
