"""Noiseless memorisation: a few symbols, to be said again after a delay, when a cue comes.

Martens and Sutskever 2011 (section 5.1.4 and the definitions of its supplement), after Jaeger 2012:
the message, a delay of T0 steps of one symbol that means nothing, a cue, and that symbol again to
the end; the answer is "nothing" until the cue and, from the step of the cue on, the message. A
sequence has T0 + 2 n steps for a message of n, which is train.window; lengths, that is delays, may
vary. The loss is the mean over all steps.

data.bits: 5 for a message of 5 symbols of 2, or 20 for one of 10 symbols of 5 (which is 23 bits).

Without memory one says nothing, and then a symbol by chance: n ln k / T nats a step.
"""

from pathlib import Path

from rnnlab.errors import UsageError
from rnnlab.tasks.kinds import patterns, sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-many",
    data="drawn: bits, to be said again after a pause",
    metric="nats; share of wrong sequences",
    experiment="memory",
)

MESSAGES = {5: (5, 2), 20: (10, 5)}  # bits -> (length of the message, symbols)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; a run keeps nothing for it. Raises UsageError for other bits."""
    facts = sequences.options(config, bits=5)
    if facts["bits"] not in MESSAGES:
        raise UsageError(f"data.bits must be 5 or 20, got {facts['bits']}")
    count, symbols = MESSAGES[facts["bits"]]
    names = "01234"[:symbols] + ".:"
    return patterns.recall_task(
        config, facts=facts, count=count, symbols=symbols, cue=count, names=names
    )
