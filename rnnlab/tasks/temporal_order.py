"""Temporal order: which of X and Y came first, second (and third), among distractors.

Hochreiter and Schmidhuber 1997 (experiment 6), at the lengths of Martens and Sutskever 2011 and
Pascanu et al. 2013: every symbol is one of four distractors a, b, c, d, uniform, but for two (or
three) which are X or Y, uniform. Of a sequence of T steps these stand, uniform, in the tenths of T
that begin at T/10 and 5T/10, or T/10, 3T/10 and 6T/10. The answer, at the last step, is what they
were, in their order: one of 4 (or 8) classes.

data.symbols: 2 (experiment 6a) or 3 (6b). T = train.window; lengths may vary.

Without memory one guesses: ln 4, or ln 8, nats.
"""

import itertools
import math
from pathlib import Path

import numpy as np

from rnnlab.data import draws
from rnnlab.errors import UsageError
from rnnlab.tasks.kinds import sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: two or three symbols among distractors",
    metric="nats; share of wrong answers",
    experiment="memory",
)

TENTHS = {2: (1, 5), 3: (1, 3, 6)}  # where the tenths begin
DISTRACTORS = 4


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it. Raises UsageError for other symbols."""
    facts = sequences.options(config, symbols=2)
    count = facts["symbols"]
    if count not in TENTHS:
        raise UsageError(f"data.symbols must be 2 or 3 for temporal_order, got {count}")

    def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        rows = len(lengths)
        inputs = random.integers(2, 2 + DISTRACTORS, (time, rows))
        symbols = random.integers(0, 2, (count, rows))
        for tenth, symbol in zip(TENTHS[count], symbols, strict=True):
            begin = tenth * lengths // 10
            place = random.integers(begin, begin + lengths // 10, (rows,))
            inputs[place, np.arange(rows)] = symbol
        last = np.arange(time)[:, None] == lengths - 1
        number = np.zeros(rows, np.int64)  # the symbols as digits, the first one highest
        for symbol in symbols:
            number = 2 * number + symbol
        return sequences.Drawn(inputs, np.where(last, number, 0), last)

    problem = sequences.Problem(
        inputs=2 + DISTRACTORS,
        outputs=2**count,
        draw=draw,
        baseline=("guessing", count * math.log(2)),
        unit="sequence",
        facts=facts,
        least=10,
        names=tuple("XYabcd"),
        classes=tuple("".join(word) for word in itertools.product("XY", repeat=count)),
    )
    return sequences.make_task(config, problem)
