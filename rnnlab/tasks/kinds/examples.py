"""A task made of examples whose answers are texts: captions, translations, transcripts.

A file of rnnlab/tasks states its examples, its network, and how an answer is found and judged; the
batches as functions of the step, validation, the last test and what is shown follow from these.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.data.draws import SHOW, Random
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.tasks.kinds.assemble import assemble
from rnnlab.tasks.kinds.epochs import shuffled
from rnnlab.tasks.metrics import tokens
from rnnlab.types import Array, Config, Params, Task

Batch = dict[str, Any]  # of arrays


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
    loss: Callable[[Params, Batch, Array | None], tokens.Sums]


def training(
    examples: Examples, *, batch_size: int, seed: int
) -> tuple[Callable[[int], Batch], int]:
    """(step -> a batch, a pure function of it; steps an epoch, 0 if there is no end of examples).

    An epoch is all examples in a random order (`epochs.shuffled`). Raises UsageError if they fill no
    batch.
    """
    if examples.size is None:
        rows = np.arange(batch_size)
        return lambda step: _all_there(examples.batch(step * batch_size + rows)), 0
    if examples.size < batch_size:
        raise UsageError(
            f"there are {examples.size} examples to train on, and a batch has {batch_size}: lower "
            "train.batch_size"
        )

    numbers, steps = shuffled(
        examples.size, batch_size=batch_size, seed=seed, lengths=examples.lengths
    )
    return lambda step: _all_there(examples.batch(numbers(step))), steps


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


class Answering(NamedTuple):
    """How answers are found, judged and shown."""

    # (params, batch, width of the beam) -> an answer for every row
    answer: Callable[[Params, Batch, int], list[Any]]
    score: Callable[[list[Any], list[Any]], dict[str, float]]  # (answers, truths) -> metrics
    tell: Callable[[Examples, int, Any], str]  # (examples, number, answer) -> both for a person


class Evaluation(NamedTuple):
    """What is measured of a network and when; `options` is config.eval."""

    options: Config
    seed: int
    valid: Examples
    tests: dict[str, Examples]
    measure: Callable[[Params, Batch], tokens.Sums]  # jitted
    answering: Answering
    baseline: float  # the loss of who knows nothing of the input

    def means(self, params: Params, examples: Examples, count: int) -> dict[str, float]:
        """The metrics of the first `count` examples, given the true answers (teacher forcing)."""
        batches = chunks(examples, count, self.options.chunk)
        return tokens.means(self.measure(params, batch) for _, batch in batches)

    def scores(
        self, params: Params, examples: Examples, count: int, width: int
    ) -> dict[str, float]:
        """The scores of the answers to the first `count` examples, by a beam of that width."""
        if not count:
            return {}
        answers, truths = [], []
        for numbers, batch in chunks(examples, count, self.options.chunk):
            answers += self.answering.answer(params, batch, width)[: len(numbers)]
            truths += [examples.truth(int(number)) for number in numbers]
        return self.answering.score(answers, truths)

    def validate(self, params: Params) -> dict[str, float]:
        """See `Task.evaluate`: answers are greedy."""
        found = self.means(params, self.valid, _first(self.valid, self.options.examples))
        decoded = _first(self.valid, self.options.decoded) if self.options.decoded else 0
        scores = self.scores(params, self.valid, decoded, 1)
        return {**found, **scores, "baseline_loss": self.baseline}

    def test(self, params: Params) -> dict[str, float]:
        """See `Task.finish`: answers are found by a beam."""
        found = {}
        for name, examples in self.tests.items():
            wanted = self.options.tested or (0 if examples.size else self.options.examples)
            count = _first(examples, wanted)
            values = self.means(params, examples, count)
            values |= self.scores(params, examples, count, self.options.beam)
            found |= {f"{name}_{key}": value for key, value in values.items()}
        return found

    def show(self, params: Params, step: int) -> str:
        """See `Task.show`: one example of validation."""
        count = _first(self.valid, self.options.examples)
        number = int(Random(self.seed, SHOW, step).integers(0, count, (1,))[0])
        batch = _all_there(self.valid.batch(np.array([number])))
        return self.answering.tell(self.valid, number, self.answering.answer(params, batch, 1)[0])


def _first(examples: Examples, wanted: int) -> int:
    """How many: `wanted`, as far as there are so many; all of a finite set for 0."""
    return wanted if examples.size is None else min(wanted or examples.size, examples.size)


def _check(options: Config) -> None:
    counts = ("examples", 1), ("decoded", 0), ("tested", 0), ("beam", 1), ("chunk", 1)
    for key, least in counts:
        if options[key] < least:
            raise UsageError(f"eval.{key} must be at least {least}, got {options[key]}")


def make_task(
    config: Config,
    *,
    network_of: Callable[[dict[str, Any]], Network],
    train: Examples,
    valid: Examples,
    tests: dict[str, Examples],
    answering: Answering,
    unit: str,
    measure: str,
    baseline: tuple[str, float],
    facts: dict[str, Any],
    fingerprint: dict[str, Any],
    keep: Callable[[Path], None] = lambda folder: None,
    schedule: Callable[[int], Batch] = lambda step: {},
    **more: Any,
) -> Task:
    """The task of these examples.

    network_of: (values) -> the network, with `values` in place of the config's own, by dotted key.
    train, valid: what is trained on, and the first config.eval.examples of `valid` are the loss of a
        validation, of which the first config.eval.decoded are answered too, greedily. tests: by name,
        what is answered once, at the end, with a beam of config.eval.beam, up to
        config.eval.tested of each (0: all).
    unit: what the loss is counted by; measure: in what; baseline: (who knows nothing of the input,
        its loss). facts: for run.json.
    schedule: step -> scalars that a batch of training has too. more: further fields of `Task`.

    config.eval has examples, decoded, tested, beam and chunk, the number of rows at once. Raises
    UsageError for counts out of range.
    """
    _check(config.eval)
    batches, steps = training(train, batch_size=config.train.batch_size, seed=config.seed)
    network = network_of({})
    measured = jax.jit(lambda params, batch: network.loss(params, batch, None))
    evaluation = Evaluation(
        config.eval, config.seed, valid, tests, measured, answering, baseline[1]
    )

    def loss_of(values: dict[str, Any]) -> Callable[..., Any]:
        return functools.partial(_loss, network_of(values))

    return assemble(
        config,
        init=network.init,
        carry=lambda: (),
        batch=lambda step: {**batches(step), **schedule(step)},
        loss_of=loss_of,
        evaluate=evaluation.validate,
        finish=evaluation.test,
        show=evaluation.show,
        keep=keep,
        facts=lambda: {
            "task": config.task,
            "baseline": f"{baseline[1]:.6g} ({baseline[0]})",
            **facts,
            "steps_per_epoch": steps,
        },
        layers=stack.parameter_rows(network.init),
        fingerprint=fingerprint,
        unit=unit,
        measure=measure,
        baseline=baseline,
        **more,
    )


def _loss(
    network: Network, params: Params, carry: Any, batch: Batch, key: Array | None
) -> tuple[Any, tokens.Sums]:
    """See `Task.loss`."""
    return carry, network.loss(params, batch, key)
