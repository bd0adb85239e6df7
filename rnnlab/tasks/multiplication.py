"""The multiplication problem: the product of the two marked numbers of a sequence.

Hochreiter and Schmidhuber 1997 (experiment 5). As the adding problem (`adding`), but
for the answer, which is the product; it tells whether a model stores values or integrates them.

Whoever always says the mean, 1/4, has the variance of the product as squared error:
E[x^2]^2 - E[x]^4 = 1/9 - 1/16 = 7/144.
"""

from pathlib import Path

from rnnlab.tasks.kinds import patterns
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: numbers, two of them marked",
    metric="squared error of the product; share of wrong answers",
    experiment="memory",
)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it."""
    return patterns.marked_pair_task(config, answer=lambda pair: pair.prod(0), variance=7 / 144)
