"""A task made of its definition: sequences of known answers, trained by full BPTT from a zero state.

A file of rnnlab/tasks states a `Problem`: what is drawn, what the answers are, and how well one does
without memory. Training draws new sequences at every step, each batch a pure function of (seed,
step); evaluation draws others, the same ones every time. Of a finite data set (MNIST) the task gives
the `Source` itself.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data.draws import EVALUATE, LONGER, SHOW, TRAIN, Random
from rnnlab.errors import UsageError
from rnnlab.models import configured, stack
from rnnlab.models.encoders import Encoder
from rnnlab.run.config import flat
from rnnlab.run.limits import TOGETHER
from rnnlab.tasks.kinds import measuring
from rnnlab.tasks.kinds.assemble import assemble
from rnnlab.tasks.kinds.measuring import Batch
from rnnlab.tasks.metrics import tokens
from rnnlab.types import Config, Model, Params, Probe, Task


class Drawn(NamedTuple):
    """B sequences; what stands at t >= the length of a sequence does not matter."""

    # int [T, B], symbols; or float [T, B, D]; or for an encoder what it reads, [T, B, ...]
    inputs: np.ndarray
    targets: np.ndarray  # int [T, B], classes; or float [T, B, D]
    weights: np.ndarray  # bool [T, B], where there is an answer


class Problem(NamedTuple):
    """What a memory task is."""

    inputs: int  # symbols, or D of real vectors
    outputs: int  # classes, or D of real values
    # (random, lengths int [B], T) -> B sequences of these lengths, the longest at most T
    draw: Callable[[Random, np.ndarray, int], Drawn] | None
    baseline: tuple[str, float]  # (who needs no memory, its loss)
    unit: str  # what has an answer: "sequence", or "target" where a sequence has many
    facts: dict[str, Any]  # for run.json, beside what `make_task` adds
    vectors: bool = False  # the inputs are real vectors and not symbols
    real: bool = False  # the answers are real values: the loss is their squared error
    least: int = 1  # the shortest length
    multiple: int = 1  # all lengths are multiples of this
    names: tuple[str, ...] = ()  # of the input's symbols, and
    classes: tuple[str, ...] = ()  # of the classes
    tell: Callable[[np.ndarray], str] | None = None  # the inputs [T, ...] for a person
    more: tuple[tuple[str, Any], ...] = ()  # further metrics by name, as in `metrics.tokens`

    @property
    def metrics(self) -> tokens.Metrics:
        """What is measured, by name."""
        return measuring.known_metrics(self.real, self.more)


class Source(NamedTuple):
    """Where the batches come from. A batch is the fields of `Drawn` by name, and `lengths` int [B]
    where they differ."""

    train: Callable[[int], Batch]  # step -> a batch; pure
    valid: Callable[[], Iterable[Batch]]
    # name -> (metric, batches): what is measured once, at the end
    last: dict[str, tuple[str, Callable[[], Iterable[Batch]]]]
    example: Callable[[int], Batch]  # step -> a batch of one, to be shown
    facts: Callable[[], dict[str, Any]]


# ---- what a config says


def options(config: Config, **own: Any) -> dict[str, Any]:
    """The values of `config.data` for the keys that a task has, with the task's own ones where they
    are unset. Raises UsageError for a key that is set and that the task has no use for."""
    for key, value in flat(config.data).items():
        if key not in own and key != "shortest" and value is not None:
            raise UsageError(
                f"the task '{config.task}' has no use for data.{key}, which is {value!r}: leave it "
                "unset"
            )
    values = {key: config.data.get(key) for key in own}
    return {key: own[key] if value is None else value for key, value in values.items()}


def mean_length(config: Config) -> float:
    """Of the training sequences, whose lengths are uniform."""
    return ((config.data.shortest or config.train.window) + config.train.window) / 2


def _check(config: Config, problem: Problem) -> None:
    window, shortest, wanted = config.train.window, config.data.shortest, config.eval.lengths
    lengths = {"train.window": window, "data.shortest": shortest or window}
    lengths |= {f"eval.lengths[{index}]": length for index, length in enumerate(wanted)}
    for key, length in lengths.items():
        if not isinstance(length, int) or isinstance(length, bool):
            raise UsageError(f"{key} takes an int, got {length!r}")
        if length < problem.least:
            raise UsageError(
                f"{key} is {length}: a sequence of '{config.task}' has at least {problem.least} steps"
            )
        if length % problem.multiple:
            raise UsageError(
                f"{key} is {length}: the length of a sequence of '{config.task}' is a multiple of "
                f"{problem.multiple}"
            )
    if shortest > window:
        raise UsageError(f"data.shortest is {shortest}, more than train.window, {window}")
    if problem.draw is None and (shortest or wanted):
        raise UsageError(
            f"the sequences of '{config.task}' have a fixed length: leave data.shortest at 0 and "
            "eval.lengths at ()"
        )
    counts = ("eval.sequences", 1), ("eval.longer", 1), ("eval.chunk", 1), ("sample.steps", 2)
    for key, least in counts:
        if flat(config)[key] < least:
            raise UsageError(f"{key} must be at least {least}, got {flat(config)[key]}")
    if max(lengths.values()) * config.eval.chunk > TOGETHER:
        raise UsageError(
            f"eval.chunk sequences of the longest of eval.lengths are {config.eval.chunk} x "
            f"{max(lengths.values())} steps: no memory holds as much at once, lower eval.chunk"
        )


# ---- batches


def chunks(
    count: int, size: int, batch: Callable[[int, int], Batch]
) -> Callable[[], Iterable[Batch]]:
    """() -> `count` sequences in batches of the same `size`. batch: (number of the batch, rows) -> a
    batch; of the last one's rows, those beyond `count` have no weight."""

    def all_of_them() -> Iterable[Batch]:
        for number, begin in enumerate(range(0, count, size)):
            found = batch(number, size)
            there = np.arange(begin, begin + size) < count
            yield {**found, "weights": found["weights"] & there}

    return all_of_them


def in_order(
    numbers: np.ndarray, size: int, batch: Callable[[np.ndarray], Batch]
) -> Callable[[], Iterable[Batch]]:
    """() -> the examples `numbers` (int [N]) of a finite data set in batches of the same `size`. batch:
    (numbers int [size]) -> a batch."""

    def part(number: int, rows: int) -> Batch:
        return batch(numbers[np.minimum(number * rows + np.arange(rows), len(numbers) - 1)])

    return chunks(len(numbers), size, part)


def drawn(config: Config, problem: Problem) -> Source:
    """The source that draws every sequence anew."""
    seed, window, multiple = config.seed, config.train.window, problem.multiple
    draw = problem.draw
    assert draw is not None

    def kind(dtype: np.dtype) -> Any:
        if not problem.vectors:
            return np.int32
        return np.uint8 if dtype == np.uint8 else np.float32  # pictures travel as bytes

    def batch(random: Random, rows: int, low: int, high: int) -> Batch:
        lengths = multiple * random.integers(low // multiple, high // multiple + 1, (rows,))
        there = np.arange(high)[:, None] < lengths  # [T, B]
        found = draw(random, lengths, high)
        exists = there.reshape(there.shape + (1,) * (found.inputs.ndim - 2))
        inputs = np.where(exists, found.inputs, 0)
        targets = np.where(there[..., None] if problem.real else there, found.targets, 0)
        made = {
            "inputs": inputs.astype(kind(found.inputs.dtype)),
            "targets": targets.astype(np.float32 if problem.real else np.int32),
            "weights": found.weights & there,
        }
        return made if low == high else {**made, "lengths": lengths.astype(np.int32)}

    shortest = config.data.shortest or window

    def fresh(count: int, low: int, high: int, *purpose: int) -> Callable[[], Iterable[Batch]]:
        def part(number: int, rows: int) -> Batch:
            return batch(Random(seed, *purpose, number), rows, low, high)

        return chunks(count, config.eval.chunk, part)

    return Source(
        train=lambda step: batch(
            Random(seed, TRAIN, step), config.train.batch_size, shortest, window
        ),
        valid=fresh(config.eval.sequences, shortest, window, EVALUATE),
        last={
            f"error_at_{length}": (
                "error",
                fresh(config.eval.longer, length, length, LONGER, length),
            )
            for length in config.eval.lengths
        },
        example=lambda step: batch(Random(seed, SHOW, step), 1, shortest, window),
        facts=dict,
    )


# ---- the task


def network(
    config: Config,
    problem: Problem,
    encoder: Encoder | None = None,
    *,
    build: Callable[..., Model] = configured.model_of,
    **options: Any,
) -> Model:
    """The model of a config for a problem, behind the encoder if there is one. build: what makes it of
    the config, which takes `options` too."""
    net = build(
        config,
        input_size=problem.inputs if encoder is None else encoder.size,
        output_size=problem.outputs,
        real=problem.vectors,
        **options,
    )
    return net if encoder is None else stack.encoded(net, encoder)


def make_task(
    config: Config,
    problem: Problem,
    source: Source | None = None,
    encoder: Encoder | None = None,
    draw: Callable[[Callable[[Batch], np.ndarray], Path], list[Path]] | None = None,
) -> Task:
    """The task of a problem; its sequences are drawn, or come from `source`.

    encoder: what makes the vectors of the inputs, each [...] of its [T, B, ...]. draw: (answers,
        folder) -> the files it has written for the verb show, where answers: (batch) -> the model's
        outputs [T, B, V].

    Raises UsageError for lengths that the problem has not, or a model that does not fit.
    """
    _check(config, problem)
    given = drawn(config, problem) if source is None else source
    if encoder is not None and encoder.places:  # a map, and no vector
        raise UsageError(f"encoder.features must be at least 1, got {config.encoder.features}")
    metrics = problem.metrics
    net = network(config, problem, encoder)
    read = measuring.reader(
        network(config, problem, encoder, build=configured.model_to_read),
        problem.real,
        problem.more,
    )

    def loss_of(values: dict[str, Any]) -> Callable[..., Any]:
        own = network(config, problem, encoder, values=values)
        return functools.partial(measuring.loss, own, metrics)

    def measured(params: Params, batches: Iterable[Batch]) -> dict[str, float]:
        found = (read.measure(params, batch) for batch in batches)
        return tokens.means(found, names=(*metrics, "error"))

    def evaluate(params: Params) -> dict[str, float]:
        return {**measured(params, given.valid()), "baseline_loss": problem.baseline[1]}

    def finish(params: Params) -> dict[str, float]:
        return {
            name: measured(params, batches())[metric]
            for name, (metric, batches) in given.last.items()
        }

    def show(params: Params, step: int) -> str:
        batch = given.example(step)
        outputs = np.asarray(read.outputs(params, batch))
        return described(problem, batch, outputs, most=config.sample.steps)

    def pictures(params: Params, folder: Path) -> list[Path]:
        assert draw is not None
        return draw(lambda batch: np.asarray(read.outputs(params, batch)), folder)

    return assemble(
        config,
        init=net.init,
        carry=lambda: (),
        batch=given.train,
        loss_of=loss_of,
        evaluate=evaluate,
        finish=finish,
        show=show,
        layers=net.layers,
        keep=lambda folder: None,
        facts=lambda: {**_facts(config, problem), **problem.facts, **given.facts()},
        unit=problem.unit,
        probe=Probe(net, measuring.inputs_of, functools.partial(measuring.losses, metrics)),
        measure="squared error" if problem.real else "nats",
        baseline=problem.baseline,
        draw=None if draw is None else pictures,
    )


def _facts(config: Config, problem: Problem) -> dict[str, Any]:
    """What run.json records of every problem."""
    name, value = problem.baseline
    shortest, window = config.data.shortest, config.train.window
    return {
        "task": config.task,
        "length": f"{shortest} to {window}" if shortest else window,
        "inputs": f"{problem.inputs} {'numbers a step' if problem.vectors else 'symbols'}",
        "outputs": f"{problem.outputs} {'numbers' if problem.real else 'classes'}",
        "baseline": f"{value:.6g} ({name})",
    }


# ---- for a person


def described(problem: Problem, batch: Batch, outputs: np.ndarray, *, most: int) -> str:
    """The one sequence of a batch, what its answer is and what the model's: [T, 1, V] outputs. Of
    more than `most` steps both ends are shown."""
    length = int(batch["lengths"][0]) if "lengths" in batch else len(batch["inputs"])
    inputs, targets = batch["inputs"][:length, 0], batch["targets"][:length, 0]
    there, found = batch["weights"][:length, 0], outputs[:length, 0]
    if problem.tell is not None:
        lines = [problem.tell(inputs)]
    else:
        names = problem.names or tuple(map(str, range(problem.inputs)))
        lines = [f"input   {_row([names[symbol] for symbol in inputs], most)}"]
    if problem.real:
        words = (targets[there], found[there])
        target, guess = (" ".join(f"{x:.4f}" for x in value.ravel()) for value in words)
        return "\n".join([*lines, f"target {target}, answer {guess}"])
    classes = problem.classes or tuple(map(str, range(problem.outputs)))
    guesses = found.argmax(-1)
    if there.sum() == 1:
        at = int(np.flatnonzero(there)[0])
        said = f"target {classes[targets[at]]}, answer {classes[guesses[at]]}"
        return "\n".join([*lines, said])
    for name, values in (("target", targets), ("answer", guesses)):
        row = [
            classes[value] if is_one else " " for value, is_one in zip(values, there, strict=True)
        ]
        lines.append(f"{name}  {_row(row, most)}")
    return "\n".join(lines)


def _row(words: list[str], most: int) -> str:
    gap = " " if max(map(len, words)) > 1 else ""
    half = most // 2
    if len(words) <= most:
        return gap.join(words)
    return f"{gap.join(words[:half])} ... {gap.join(words[len(words) - half :])}"
