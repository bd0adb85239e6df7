"""What several tasks of memory share: symbols to be said again, and two marked numbers among many."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rnnlab.data.draws import Random
from rnnlab.tasks.kinds import sequences
from rnnlab.types import Config, Task


def draw_recall(
    random: Random, lengths: np.ndarray, time: int, *, count: int, symbols: int, cue: int
) -> sequences.Drawn:
    """`count` of the symbols 0 ... symbols - 1, then nothing (the symbol `symbols`), and at the end
    the same symbols are the answer, in their order; before it the answer is nothing. The symbol
    `symbols` + 1 stands `cue` steps before the end."""
    rows = len(lengths)
    t = np.arange(time)[:, None]
    message = random.integers(0, symbols, (count, rows))
    inputs = np.full((time, rows), symbols)
    inputs[:count] = message
    inputs = np.where(t == lengths - cue, symbols + 1, inputs)
    place = t - (lengths - count)  # [T, B], in the answer
    again = np.take_along_axis(message, np.clip(place, 0, count - 1), axis=0)
    return sequences.Drawn(
        inputs, np.where(place >= 0, again, symbols), np.ones((time, rows), bool)
    )


def draw_marked_pair(
    random: Random, lengths: np.ndarray, time: int, answer: Callable[[np.ndarray], np.ndarray]
) -> sequences.Drawn:
    """Inputs (number, mark): uniform numbers in [0, 1), and 1 at two steps, one in either half, else
    0. The answer, at the last step, is that of (the two numbers [2, B]) -> [B]."""
    rows = len(lengths)
    numbers = random.uniform((time, rows))
    half = lengths // 2
    places = np.stack([random.integers(0, half, (rows,)), random.integers(half, lengths, (rows,))])
    marks = (np.arange(time)[:, None, None] == places).any(1)  # [T, B]
    value = answer(np.take_along_axis(numbers, places, axis=0))
    last = np.arange(time)[:, None] == lengths - 1
    targets = np.where(last, value, 0.0)[..., None]
    return sequences.Drawn(np.stack([numbers, marks], axis=-1), targets, last)


def recall_task(
    config: Config, *, facts: dict[str, Any], count: int, symbols: int, cue: int, names: str
) -> Task:
    """The task whose sequences are those of `draw_recall`. names: of the symbols, one character each.

    Without memory one says nothing, and at the end one of the symbols by chance.
    """
    problem = sequences.Problem(
        inputs=symbols + 2,
        outputs=symbols + 1,
        draw=lambda *how: draw_recall(*how, count=count, symbols=symbols, cue=cue),
        baseline=("no memory", count * math.log(symbols) / sequences.mean_length(config)),
        unit="target",
        facts=facts,
        least=2 * count + 1,
        names=tuple(names),
        classes=tuple(names),
    )
    return sequences.make_task(config, problem)


def marked_pair_task(
    config: Config, *, answer: Callable[[np.ndarray], np.ndarray], variance: float
) -> Task:
    """The task whose sequences are those of `draw_marked_pair`. variance: of the answer, the squared error
    of whoever always says its mean."""
    problem = sequences.Problem(
        inputs=2,
        outputs=1,
        vectors=True,
        real=True,
        draw=lambda *how: draw_marked_pair(*how, answer=answer),
        baseline=("always the mean", variance),
        unit="sequence",
        facts=sequences.options(config),
        least=2,
        tell=describe_marked_pair,
    )
    return sequences.make_task(config, problem)


def describe_marked_pair(inputs: np.ndarray) -> str:
    """Of the inputs [T, 2] of `draw_marked_pair`, the marked numbers."""
    found = [f"{inputs[t, 0]:.4f} at {t}" for t in np.flatnonzero(inputs[:, 1])]
    return f"marked {' and '.join(found)} of {len(inputs)}"
