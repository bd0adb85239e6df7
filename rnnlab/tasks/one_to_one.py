"""One-to-one: a value or a label from one vector, the mapping without time.

A recurrent network of one step is a layer of its gates, and this is the degenerate case that shows it
(and what the recurrence of the other tasks adds). train.window must be 1.

Built in: the next state of the Henon map (Henon 1976), x' = 1 - 1.4 x^2 + y, y' = 0.3 x, from a state
drawn on its attractor. Real data: data.path is a CSV file of numbers, one example a line, with a
heading or without; the last column is the answer, a label (data.labels) or a value. Labels may be words,
and a column of words alone is one of labels unless data.labels says no. The columns are scaled to mean 0
and variance 1 over the training examples, and so is an answer that is a value. Of the lines in random
order data.valid and data.test are the shares that are held out.

Whoever knows nothing of the vector says the mean (squared error: the variance), or how frequent each
label is (nats: their entropy).
"""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import draws, scaling, tables
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.kinds.epochs import shuffled
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="one-to-one",
    data="drawn: states of the Henon map; a CSV file of yours",
    metric="squared error of the next value, or accuracy of the label",
    experiment="one_to_one",
)
MOST_LABELS = 1000
SETTLED = 60  # steps after which a state is on the attractor, to about 1e-3 of its size


def henon(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
    """See `sequences.Problem`: states [1, B, 2] and the states that follow them."""
    x, y = 0.2 * random.uniform((2, len(lengths))) - 0.1
    for _ in range(SETTLED):
        x, y = 1 - 1.4 * x**2 + y, 0.3 * x
    following = np.stack([1 - 1.4 * x**2 + y, 0.3 * x], axis=-1)
    there = np.ones((1, len(lengths)), bool)
    return sequences.Drawn(np.stack([x, y], axis=-1)[None], following[None], there)


@functools.cache
def variance() -> float:
    """The squared error of whoever always says the mean state: the mean of both variances, over
    200,000 states."""
    found = henon(draws.Random(0, draws.PIXELS), np.ones(200_000, int), 1).targets[0]
    return float(found.var(axis=0).mean())


class Table(NamedTuple):
    """A CSV file."""

    vectors: np.ndarray  # float64 [N, D]
    answers: np.ndarray  # float64 [N], values; or int32 [N], places in `names`
    names: tuple[str, ...]  # of the labels; () where the answers are values
    sha256: str


@functools.lru_cache(maxsize=2)
def read(path: str, labels: bool | None, encoding: str | None = None) -> Table:
    """The numbers of a CSV file. labels: see `tables.read`, whose errors it raises, with the line."""
    file = Path(path).expanduser()
    with reading(file):
        content = file.read_bytes()
    found = tables.read(file, encoding, labels=labels)
    said, numbers, names = found.labels, found.numbers, ()
    if labels and (values := _values(said)) is not None:  # 0 and 1, say
        known, answers = np.unique(values, return_inverse=True)
        names = tuple(f"{value:g}" for value in known)
    elif said:
        known, answers = np.unique(said, return_inverse=True)
        names = tuple(map(str, known))
    else:
        numbers, answers = numbers[:, :-1], numbers[:, -1]
    if not numbers.shape[1]:
        raise UsageError(
            f"{file}:{found.lines[0]} has 1 column: each line has at least one number and its answer"
        )
    wrong = ~np.isfinite(np.column_stack([numbers, answers])).all(1)
    if wrong.any():
        line = found.lines[int(wrong.argmax())]
        raise UsageError(f"{file}:{line} has a number that is not finite")
    if len(names) > MOST_LABELS:
        raise UsageError(
            f"the last column of {file} has {len(names)} labels: is it a value? then set data.labels "
            "to False"
        )
    answers = answers.astype(np.int32) if names else answers
    return Table(numbers, answers, names, hashlib.sha256(content).hexdigest())


def _values(labels: tuple[str, ...]) -> np.ndarray | None:
    """Labels that are all finite numbers, as numbers; None if one is a word."""
    try:
        values = np.array([float(label) for label in labels])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the table must be that of the run.

    Raises UsageError for a window other than 1, or a table or shares that do not fit.
    """
    chosen = sequences.options(config, path="", labels=None, valid=0.1, test=0.1, encoding=None)
    if config.train.window != 1:
        raise UsageError(
            f"one vector is one step: set train.window to 1, not {config.train.window}"
        )
    if chosen["path"]:
        return _table_task(config, chosen, kept)
    problem = sequences.Problem(
        inputs=2,
        outputs=2,
        vectors=True,
        real=True,
        draw=henon,
        baseline=("always the mean", variance()),
        unit="vector",
        facts={"map": "Henon"},
        tell=lambda inputs: "state {:.4f} {:.4f}".format(*inputs[0]),
    )
    return sequences.make_task(config, problem)


def _table_task(config: Config, chosen: dict[str, Any], kept: Path | None) -> Task:
    table = read(chosen["path"], chosen["labels"], chosen["encoding"])
    unchanged(kept, "table", chosen["path"], table.sha256)
    count, names = len(table.answers), table.names
    shares = {key: chosen[key] for key in ("valid", "test")}
    held = {key: math.ceil(share * count) for key, share in shares.items()}
    rest = count - sum(held.values())
    if min(shares.values()) <= 0 or rest < config.train.batch_size:
        raise UsageError(
            f"of {count} lines data.valid and data.test hold out {held['valid']} and {held['test']}, and "
            f"a batch has {config.train.batch_size}"
        )
    order = draws.Random(0, draws.ORDER).order(count)  # the same split for all seeds
    splits = np.split(order, [rest, rest + held["valid"]])
    if names:
        targets = table.answers
        shares_of = np.bincount(targets[splits[0]], minlength=len(names)) / rest
        known = shares_of[shares_of > 0]
        baseline = ("frequency of the labels", float(-(known * np.log(known)).sum()))
    else:
        values = table.answers[:, None]
        targets = scaling.standard(values[splits[0]])(values)
        baseline = ("always the mean", float(targets[splits[1]].var()))
    inputs = scaling.standard(table.vectors[splits[0]])(table.vectors)

    def batch(numbers: np.ndarray) -> sequences.Batch:
        there = np.ones((1, len(numbers)), bool)
        return {
            "inputs": inputs[None, numbers],
            "targets": targets[None, numbers],
            "weights": there,
        }

    numbers, per_epoch = shuffled(rest, batch_size=config.train.batch_size, seed=config.seed)
    in_order = functools.partial(sequences.in_order, size=config.eval.chunk, batch=batch)

    def example(step: int) -> sequences.Batch:
        number = draws.Random(config.seed, draws.SHOW, step).integers(0, len(splits[1]), (1,))
        return batch(splits[1][number])

    metric = "accuracy" if names else "loss"
    source = sequences.Source(
        train=lambda step: batch(splits[0][numbers(step)]),
        valid=in_order(splits[1]),
        last={f"test_{metric}": (metric, in_order(splits[2]))},
        example=example,
        facts=lambda: {
            "source": chosen["path"],
            "sha256": table.sha256,
            "train_lines": rest,
            "valid_lines": held["valid"],
            "test_lines": held["test"],
            "steps_per_epoch": per_epoch,
        },
    )
    problem = sequences.Problem(
        inputs=inputs.shape[1],
        outputs=len(names) or 1,
        vectors=True,
        real=not names,
        draw=None,
        baseline=baseline,
        unit="vector",
        facts={"labels": bool(names), "valid": chosen["valid"], "test": chosen["test"]},
        classes=names,
        tell=lambda inputs: "vector  " + " ".join(f"{value:.3f}" for value in inputs[0]),
    )
    return sequences.make_task(config, problem, source)
