"""What the benchmark's workers do: the same train step and the same sampling in each library.

A file is a library, a class of it a `Contender`. This file imports none of them.
"""

import itertools
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

GATES = {"lstm": 4, "gru": 3, "ugrnn": 2, "rnn": 1}
LEARNING_RATE = 1e-3
CLIP = 0.01  # binds from the first step on: whoever does not clip is found out
TEMPERATURE = 0.8


class Case(NamedTuple):
    """What is trained: a character model, one-hot -> stack of cells -> readout."""

    cell: str
    layers: int
    hidden: int
    batch: int
    time: int
    vocabulary: int
    remat: bool = False

    @property
    def shape(self) -> str:
        """As the flag --shapes writes it."""
        return f"{self.layers}x{self.hidden}xB{self.batch}xT{self.time}"


def flops(case: Case) -> int:
    """Floating-point operations of the matrix products in one train step.

    A product [n, k] x [k, m] counts 2 n k m, and twice as much again backward (one product for
    either operand's gradient). Each of the T*B tokens meets, with G gates in a cell of H units, a
    recurrent kernel H x GH in each of L layers, an input kernel H x GH in all but the first, and
    the readout H x V:

        3 * 2 * T*B * (L H GH + (L - 1) H GH + H V)

    The one-hot input counts as the gather it is: 0. PyTorch and Flax multiply by it and so do more
    than is counted. Pointwise work and the optimiser are not counted.
    """
    square = case.hidden * GATES[case.cell] * case.hidden
    weights = (2 * case.layers - 1) * square + case.hidden * case.vocabulary
    return 6 * case.time * case.batch * weights


def draw_tokens(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets), int32 [T, B] each: random, the targets one step ahead."""
    random = np.random.default_rng(0)
    text = random.integers(case.vocabulary, size=(case.time + 1, case.batch), dtype=np.int32)
    return text[:-1], text[1:]


class Contender:
    """One library in its worker. A subclass says how it does `setup`, `step`, `check`, `trained`,
    `product` and `text`, or those of them that it is asked for."""

    def setup(self, *, case: Case, weights: Any) -> None:
        """Take a case, and `weights` as `Own.exported` gives them for this library."""
        raise NotImplementedError

    ahead = False  # whether a step is under way when `step` returns, and the one before finished

    def step(self) -> None:
        """One train step; where it is `ahead`, as in a train loop that reads a report late."""
        raise NotImplementedError

    def settle(self) -> None:
        """Wait for the last step."""

    def check(self) -> dict[str, Any]:
        """logits [T, B, V], loss and gradients at the weights given, laid out as they were."""
        raise NotImplementedError

    def trained(self) -> dict[str, Any]:
        """weights and moment, the first of Adam's, laid out as the gradients of `check`."""
        raise NotImplementedError

    def product(self, size: int) -> Callable[[], None]:
        """A float32 product of two square matrices, finished when it returns."""
        raise NotImplementedError

    def text(self, *, length: int, count: int) -> np.ndarray:
        """`length` characters of `count` texts, int [length, count]."""
        raise NotImplementedError

    def times(self, *, steps: int) -> list[float]:
        """Seconds of each of so many train steps.

        Of many, from the end of one to the end of the next; one more goes first, which wakes the
        threads up and fills the caches that another worker has used.
        """
        if steps < 4:  # long ones, that gain nothing by being dispatched ahead
            return [self._alone() for _ in range(steps)]
        moments = []
        for _ in range(steps + 1):
            self.step()
            moments.append(time.perf_counter())
        if self.ahead:
            self.settle()
            moments = [*moments[1:], time.perf_counter()]
        return [after - before for before, after in itertools.pairwise(moments)]

    def _alone(self) -> float:
        began = time.perf_counter()
        self.step()
        self.settle()
        return time.perf_counter() - began

    def writing(self, *, length: int, count: int) -> list[float]:
        """Seconds of `length` characters of `count` texts, as a list of one."""
        began = time.perf_counter()
        shape = self.text(length=length, count=count).shape
        found = time.perf_counter() - began
        assert shape == (length, count), shape
        return [found]

    def peak_flops(self, *, seconds: float) -> float:
        """Floating-point operations a second: the best of several large square products."""
        best = 0.0
        for size in (512, 1024, 2048, 4096):
            product = self.product(size)
            product()
            end, spent = time.perf_counter() + seconds / 4, 0.0
            while time.perf_counter() + spent < end or not spent:
                began = time.perf_counter()
                product()
                spent = time.perf_counter() - began
                best = max(best, 2 * size**3 / spent)
            if 8 * spent > seconds:  # what the next size would take
                break
        return best

    def peak_bytes(self) -> int:
        """The most memory that this process has held at once."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
