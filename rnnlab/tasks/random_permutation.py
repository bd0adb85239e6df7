"""The random permutation problem: the first symbol of a sequence is also its next one at the end.

Hochreiter and Schmidhuber 1997 (task 2b, "no local regularities"), in the form of Martens and
Sutskever 2011: of a dictionary of symbols the first is one of two, uniform, and all that follow are
of the others, uniform and independent. After T = train.window steps the first symbol comes again. It
is the only one that can be predicted, so the loss is that of this last prediction alone, among the
whole dictionary. Lengths may vary.

data.symbols: the size of the dictionary, 100 in the paper.

Without memory one says either of the two: ln 2 nats.
"""

import math
from pathlib import Path

import numpy as np

from rnnlab.data import draws
from rnnlab.errors import UsageError
from rnnlab.run.limits import check_sizes
from rnnlab.tasks.kinds import sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: symbols, of which the first returns at the end",
    metric="nats; share of wrong answers",
    experiment="memory",
)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it. Raises UsageError for too few symbols."""
    check_sizes(config, "data.symbols")
    facts = sequences.options(config, symbols=100)
    size = facts["symbols"]
    if size < 3:
        raise UsageError(f"data.symbols must be at least 3 for random_permutation, got {size}")

    def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        rows = len(lengths)
        inputs = random.integers(2, size, (time, rows))
        inputs[0] = random.integers(0, 2, (rows,))
        last = np.arange(time)[:, None] == lengths - 1
        return sequences.Drawn(inputs, np.where(last, inputs[0], 0), last)

    problem = sequences.Problem(
        inputs=size,
        outputs=size,
        draw=draw,
        baseline=("either of the two", math.log(2)),
        unit="sequence",
        facts=facts,
        least=2,
    )
    return sequences.make_task(config, problem)
