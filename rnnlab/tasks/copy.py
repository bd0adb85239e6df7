"""The copying memory problem: ten symbols, to be said again after a delay.

Arjovsky et al. 2016 (section 5.1), after Hochreiter and Schmidhuber 1997: 10 symbols of 8, uniform;
a delay of T0 - 1 blanks; a delimiter; 10 blanks. The answer is blank for T0 + 10 steps and then the
ten symbols, so that a sequence has T = T0 + 20 steps, which is train.window; lengths, that is
delays, may vary. The loss is the mean over all steps.

Without memory one says blank, and then one of the 8 by chance: 10 ln 8 / T nats a step.
"""

from pathlib import Path

from rnnlab.tasks.kinds import patterns, sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-many",
    data="drawn: symbols, to be said again after a pause",
    metric="nats; share of wrong sequences",
    experiment="copy_memory",
)

COUNT, SYMBOLS = 10, 8


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it."""
    return patterns.recall_task(
        config,
        facts=sequences.options(config),
        count=COUNT,
        symbols=SYMBOLS,
        cue=COUNT + 1,
        names="01234567.:",
    )
