"""Dyck-k words of bounded depth: which kind of bracket closes next.

The language Dyck-(k, m) of Hewitt et al. 2020: well-nested words of k kinds of brackets, at no point
more than m open. A word of T = train.window symbols, an even number, is drawn from left to right:
where both may come, the next bracket opens or closes with probability 1/2; it opens where none is
open, and closes where m are, or where as many are open as symbols are left. The kind of an opening
bracket is uniform. Lengths may vary.

At each step after which a bracket closes, the answer is its kind, which is that of the last one that
is still open; the other steps have no answer.

data.kinds: k; data.depth: m.

Without memory one guesses the kind: ln k nats. (Whoever reads the last symbol alone is right where
that has just opened a bracket.)
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
    mapping="many-to-many in step",
    data="drawn: nested brackets",
    metric="nats; share of words with a wrong answer",
    experiment="memory",
)

KINDS = 10_000  # each has a name
BRACKETS = ("()", "[]", "{}", "<>")


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it. Raises UsageError for kinds or a depth out
    of range."""
    check_sizes(config, "data.depth")
    facts = sequences.options(config, kinds=2, depth=4)
    kinds, most = facts["kinds"], facts["depth"]
    if kinds < 2:
        raise UsageError(f"data.kinds must be at least 2, or there is nothing to tell: got {kinds}")
    if kinds > KINDS:
        raise UsageError(f"data.kinds must be at most {KINDS}, got {kinds}")
    if most < 1:
        raise UsageError(f"data.depth must be at least 1, got {most}")

    def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        rows = np.arange(len(lengths))
        kind = random.integers(0, kinds, (time, len(rows)))
        opens = random.integers(0, 2, (time, len(rows))).astype(bool)
        stack = np.zeros((min(most, time), len(rows)), np.int64)  # the kinds that are open
        depth = np.zeros(len(rows), np.int64)
        word = np.zeros((time, len(rows)), np.int64)  # k kinds that open, k that close
        for t in range(time):
            # Beyond the length of a row its depth is 0 and it opens once: nobody sees that.
            opening = ((depth == 0) | opens[t]) & (depth < most) & (depth < lengths - t)
            closing = ~opening & (depth > 0)
            top = stack[depth - 1, rows]
            word[t] = np.where(opening, kind[t], np.where(closing, kinds + top, 0))
            stack[depth[opening], rows[opening]] = kind[t, opening]
            depth += opening.astype(np.int64) - closing
        coming = np.concatenate([word[1:], np.zeros_like(word[:1])])
        there = (coming >= kinds) & (np.arange(time)[:, None] < lengths - 1)
        return sequences.Drawn(word, np.where(there, coming - kinds, 0), there)

    brackets = kinds <= len(BRACKETS)
    names = [
        BRACKETS[kind][side] if brackets else f"{'+-'[side]}{kind}"
        for side in range(2)
        for kind in range(kinds)
    ]
    problem = sequences.Problem(
        inputs=2 * kinds,
        outputs=kinds,
        draw=draw,
        baseline=("guessing", math.log(kinds)),
        unit="target",
        facts=facts,
        least=2,
        multiple=2,
        names=tuple(names),
        classes=tuple(names[kinds:]),
    )
    return sequences.make_task(config, problem)
