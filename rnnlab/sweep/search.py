"""Points of a search, for the `sweep(add)` of a config file: a grid, or random draws from a seed.

from rnnlab import search

def sweep(add):
    axes = {
        "optim.clip_norm": search.log_uniform(0.1, 10.0),
        "model.cell": search.choice("gru", "lstm"),
    }
    for point in search.random(20, axes, seed=0):
        add(**point)
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rnnlab.errors import UsageError

Axis = Callable[[float], Any]  # a number in [0, 1) -> a value


def grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values, the last key varying fastest.

    Raises UsageError for a key without values.
    """
    for key, values in axes.items():
        if not len(values):
            raise UsageError(f"the grid has no value for '{key}'")
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def random(count: int, axes: Mapping[str, Axis], *, seed: int) -> Iterator[dict[str, Any]]:
    """`count` points, each value drawn by itself (Bergstra and Bengio 2012).

    The draw of a key depends on the seed, the point's number and the key's name alone: more points
    leave the first ones as they are, and so does another key.

    Raises UsageError if `count` is less than 1.
    """
    if count < 1:
        raise UsageError(f"a random search needs at least 1 point, got {count}")
    for number in range(count):
        yield {key: axis(_uniform(seed, number, key)) for key, axis in axes.items()}


def _uniform(seed: int, number: int, key: str) -> float:
    # SeedSequence, whose output is the same in every version of NumPy.
    sequence = np.random.SeedSequence(seed, spawn_key=(number, *key.encode()))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(11)) / (1 << 53)


def uniform(low: float, high: float) -> Axis:
    """Between low and high. Raises UsageError unless low < high."""
    _ordered(low, high)
    return lambda u: low + u * (high - low)


def log_uniform(low: float, high: float) -> Axis:
    """Between low and high, its logarithm uniform. Raises UsageError unless 0 < low < high."""
    _ordered(low, high)
    if low <= 0:
        raise UsageError(f"log_uniform needs numbers greater than 0, got {low}")
    return lambda u: math.exp(math.log(low) + u * (math.log(high) - math.log(low)))


def integers(low: int, high: int) -> Axis:
    """Of low, low + 1 ... high. Raises UsageError unless low < high."""
    _ordered(low, high)
    return lambda u: low + int(u * (high - low + 1))


def choice(*values: Any) -> Axis:
    """One of the values. Raises UsageError if there are none."""
    if not values:
        raise UsageError("choice needs at least one value")
    return lambda u: values[int(u * len(values))]


def _ordered(low: float, high: float) -> None:
    if not low < high:
        raise UsageError(f"a range needs its lower end first, got {low} and {high}")
