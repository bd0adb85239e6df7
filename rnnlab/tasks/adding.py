"""The adding problem: the sum of the two marked numbers of a sequence.

Hochreiter and Schmidhuber 1997 (experiment 4), in the form of Arjovsky et al. 2016 (section 5.2):
each step has a number, uniform in [0, 1), and a mark, which is 1 at one step of the first half and
at one of the second, both uniform there, and else 0. The answer, at the last step, is the sum of the
two marked numbers; it counts as wrong if it is off by more than 0.04.

T = train.window; lengths may vary. Whoever always says the mean, 1, has the variance of the sum as
squared error: 2 / 12.
"""

from pathlib import Path

from rnnlab.tasks.kinds import patterns
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: numbers, two of them marked",
    metric="squared error of the sum; share of wrong answers",
    experiment="adding",
)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it."""
    return patterns.marked_pair_task(config, answer=lambda pair: pair.sum(0), variance=1 / 6)
