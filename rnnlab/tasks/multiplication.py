"""The multiplication problem: the product of the two marked numbers of a sequence.

Hochreiter and Schmidhuber 1997 (experiment 5). As the adding problem (`rnnlab.tasks.adding`), but
for the answer, which is the product; it tells whether a model stores values or integrates them.

Whoever always says the mean, 1/4, has the variance of the product as squared error:
E[x^2]^2 - E[x]^4 = 1/9 - 1/16 = 7/144.
"""

from pathlib import Path

from rnnlab import sequences
from rnnlab.types import Config, Task


def make(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it."""
    facts = sequences.options(config)
    problem = sequences.Problem(
        inputs=2,
        outputs=1,
        vectors=True,
        real=True,
        draw=lambda *how: sequences.marked_pair(*how, answer=lambda pair: pair.prod(0)),
        baseline=("always the mean", 7 / 144),
        unit="sequence",
        facts=facts,
        least=2,
        tell=sequences.told_pair,
    )
    return sequences.make(config, problem)
