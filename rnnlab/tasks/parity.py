"""Parity: whether the number of ones in a sequence is odd.

Bengio et al. 1994 (section V, the parity problem), Hochreiter and Schmidhuber 1997: uniform and
independent bits, the answer at the last step alone. Every bit matters, and no shorter part of the
sequence says anything, so that gradients have nothing to go by at first: lengths that vary from 1 or
2 (data.shortest) make it learnable. T = train.window.

Without memory one guesses: ln 2 nats.
"""

import math
from pathlib import Path

import numpy as np

from rnnlab.data import draws
from rnnlab.tasks.kinds import sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: bits",
    metric="nats; share of wrong answers",
    experiment="memory",
)


def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
    """See `sequences.Problem`."""
    t = np.arange(time)[:, None]
    inputs = random.integers(0, 2, (time, len(lengths)))
    odd = np.where(t < lengths, inputs, 0).sum(0) % 2
    last = t == lengths - 1
    return sequences.Drawn(inputs, np.where(last, odd, 0), last)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it."""
    facts = sequences.options(config)
    problem = sequences.Problem(
        inputs=2,
        outputs=2,
        draw=draw,
        baseline=("guessing", math.log(2)),
        unit="sequence",
        facts=facts,
        classes=("even", "odd"),
    )
    return sequences.make_task(config, problem)
