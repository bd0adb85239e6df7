"""A task made of examples whose answers are said: captions, translations, transcripts.

A file of rnnlab/tasks states its examples, its network, and how an answer is found and judged; the
batches as functions of the step, validation, the last test and what is shown follow from these.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.data.draws import ORDER, SHOW, Random
from rnnlab.errors import UsageError
from rnnlab.models import configured, stack
from rnnlab.types import Array, Config, Params, Task

Batch = dict[str, Any]  # of arrays
POOL = 50  # batches within which examples are sorted by length
Sums = dict[str, tuple[Array, Array]]  # metric -> (sum, count)


class Examples(NamedTuple):
    """Examples by their numbers."""

    # (numbers int [B]) -> a batch of these, of the same shapes for all; pure
    batch: Callable[[np.ndarray], Batch]
    truth: Callable[[int], Any]  # number -> what a right answer is, for `score` and `tell`
    size: int | None  # how many; None: every number is another one
    # int [size]: examples of like length come in the same batch of training, whose shape may depend
    # on the longest; None: they come as drawn
    lengths: Any = None


class Network(NamedTuple):
    """What is trained; pure functions of a dict pytree."""

    init: Callable[..., Params]  # (key, dtype) -> params
    # (params, batch, key) -> sums with "loss", of the rows where batch["there"], bool [B]; a key of
    # None means evaluation
    loss: Callable[[Params, Batch, Array | None], Sums]


def training(
    examples: Examples, *, batch_size: int, seed: int
) -> tuple[Callable[[int], Batch], int]:
    """(step -> a batch, a pure function of it; steps an epoch, 0 if there is no end of examples).

    An epoch is all examples in a random order, a function of (seed, epoch), but for those that fill
    no batch. Raises UsageError if they fill none.
    """
    if examples.size is None:
        rows = np.arange(batch_size)
        return lambda step: _all_there(examples.batch(step * batch_size + rows)), 0
    steps = examples.size // batch_size
    if not steps:
        raise UsageError(
            f"there are {examples.size} examples to train on, and a batch has {batch_size}: lower "
            "train.batch_size"
        )

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        found = Random(seed, ORDER, epoch).order(examples.size or 0)
        if examples.lengths is not None:
            found = _alike(found, examples.lengths, batch_size, Random(seed, ORDER, epoch, 1))
        return found

    def batch(step: int) -> Batch:
        epoch, place = divmod(step, steps)
        return _all_there(examples.batch(order(epoch)[place * batch_size :][:batch_size]))

    return batch, steps


def _alike(order: np.ndarray, lengths: np.ndarray, rows: int, random: Random) -> np.ndarray:
    """The order in batches of like length: sorted within pools of POOL batches, and the batches
    shuffled. What fills no batch stays at the end, and so out."""
    full = len(order) // rows * rows
    sorted_pools = [
        pool[np.argsort(lengths[pool], kind="stable")]
        for pool in np.split(order[:full], range(POOL * rows, full, POOL * rows))
    ]
    batches = np.concatenate(sorted_pools).reshape(-1, rows)
    return np.concatenate([batches[random.order(len(batches))].ravel(), order[full:]])


def _all_there(batch: Batch) -> Batch:
    return {**batch, "there": np.ones(_rows(batch), bool)}


def _rows(batch: Batch) -> int:
    return next(leaf.shape[leaf.ndim > 1] for leaf in batch.values() if np.ndim(leaf))


def chunks(examples: Examples, count: int, size: int) -> Iterable[tuple[np.ndarray, Batch]]:
    """The first `count` examples in batches of the same `size`: (numbers [B], batch). The last one's
    rows beyond `count` are not `there`."""
    for begin in range(0, count, size):
        numbers = np.arange(begin, begin + size)
        there = numbers < count
        batch = examples.batch(np.minimum(numbers, count - 1))
        yield numbers[there], {**batch, "there": there}


def make_task(
    config: Config,
    *,
    network_of: Callable[[dict[str, Any]], Network],
    train: Examples,
    valid: Examples,
    tests: dict[str, Examples],
    answer: Callable[[Params, Batch, int], list[Any]],
    score: Callable[[list[Any], list[Any]], dict[str, float]],
    tell: Callable[[Examples, int, Any], str],
    unit: str,
    measure: str,
    baseline: tuple[str, float],
    facts: dict[str, Any],
    fingerprint: dict[str, Any],
    keep: Callable[[Path], None] = lambda folder: None,
    draw: Callable[[Params, Path], list[Path]] | None = None,
    schedule: Callable[[int], Batch] = lambda step: {},
    writes: str = "",
    shapes: int = 1,
) -> Task:
    """The task of these examples.

    network_of: (values) -> the network, with `values` in place of the config's own, by dotted key.
    train, valid: what is trained on, and the first config.eval.examples of `valid` are the loss of a
        validation, of which the first config.eval.decoded are answered too, greedily. tests: by name,
        what is answered once, at the end, with a beam of config.eval.beam, up to
        config.eval.tested of each (0: all).
    answer: (params, batch, width of the beam) -> an answer for every row. score: (answers, truths) ->
        metrics. tell: (examples, number, answer) -> the example for a person.
    unit: what the loss is counted by; measure: in what; baseline: (who knows nothing of the input,
        its loss). facts: for run.json.
    schedule: step -> scalars that a batch of training has too. shapes: of the batches, see `Task`.

    config.eval has examples, decoded, tested, beam and chunk, the number of rows at once. Raises
    UsageError for counts out of range.
    """
    options = config.eval
    for key, least in (("examples", 1), ("decoded", 0), ("tested", 0), ("beam", 1), ("chunk", 1)):
        if options[key] < least:
            raise UsageError(f"eval.{key} must be at least {least}, got {options[key]}")
    batches, steps = training(train, batch_size=config.train.batch_size, seed=config.seed)
    network = network_of({})
    measured = jax.jit(lambda params, batch: network.loss(params, batch, None))

    def loss_of(values: dict[str, Any]) -> Callable[..., Any]:
        own = network_of(values)

        def loss(params: Params, carry: Any, batch: Batch, key: Array | None) -> tuple[Any, Sums]:
            return carry, own.loss(params, batch, key)

        return loss

    def first(examples: Examples, wanted: int) -> int:
        return wanted if examples.size is None else min(wanted or examples.size, examples.size)

    def means(params: Params, examples: Examples, count: int) -> dict[str, float]:
        totals: dict[str, np.ndarray] = {}
        for _, batch in chunks(examples, count, options.chunk):
            for name, pair in measured(params, batch).items():
                totals[name] = totals.get(name, np.zeros(2)) + np.array([float(v) for v in pair])
        return {name: float(total / n) for name, (total, n) in totals.items()}

    def answered(params: Params, examples: Examples, count: int, width: int) -> dict[str, float]:
        if not count:
            return {}
        answers, truths = [], []
        for numbers, batch in chunks(examples, count, options.chunk):
            answers += answer(params, batch, width)[: len(numbers)]
            truths += [examples.truth(int(number)) for number in numbers]
        return score(answers, truths)

    def evaluate(params: Params) -> dict[str, float]:
        found = means(params, valid, first(valid, options.examples))
        decoded = first(valid, options.decoded) if options.decoded else 0
        return {**found, **answered(params, valid, decoded, 1), "baseline_loss": baseline[1]}

    def finish(params: Params) -> dict[str, float]:
        found = {}
        for name, examples in tests.items():
            count = first(examples, options.tested or (0 if examples.size else options.examples))
            values = means(params, examples, count)
            values |= answered(params, examples, count, options.beam)
            found |= {f"{name}_{key}": value for key, value in values.items()}
        return found

    def show(params: Params, step: int) -> str:
        count = first(valid, options.examples)
        number = int(Random(config.seed, SHOW, step).integers(0, count, (1,))[0])
        batch = {**valid.batch(np.array([number])), "there": np.ones(1, bool)}
        return tell(valid, number, answer(params, batch, 1)[0])

    layers = stack.parameter_rows(network.init)
    return Task(
        init=network.init,
        carry=lambda: (),
        batch=lambda step: {**batches(step), **schedule(step)},
        loss=loss_of({}),
        loss_of=loss_of,
        initial=tuple(f"model.{key}" for key in configured.INITIAL),
        rates=tuple(f"model.{key}" for key in configured.RATES),
        evaluate=evaluate,
        finish=finish,
        show=show,
        keep=keep,
        facts=lambda: {
            "task": config.task,
            "baseline": f"{baseline[1]:.6g} ({baseline[0]})",
            **facts,
            "steps_per_epoch": steps,
        },
        layers=layers,
        fingerprint={
            "task": config.task,
            "cell": config.model.cell,
            **fingerprint,
            **dict(layers),
        },
        unit=unit,
        measure=measure,
        baseline=baseline,
        draw=draw,
        writes=writes,
        shapes=shapes,
    )
