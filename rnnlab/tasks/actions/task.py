"""The task actions; see the package's docstring for what it is."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import draws, media, sprites
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.models import encoders
from rnnlab.run.folder import unchanged
from rnnlab.tasks.actions import figure, motions, one_frame
from rnnlab.tasks.actions.clips import Clips, read
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.kinds.epochs import shuffled
from rnnlab.tasks.kinds.shades import shaded
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: an object in motion; a folder of videos, joints or sensors for each class",
    metric="accuracy, confusion matrix",
    experiment="actions",
)
READS = Reads(lambda config: {"data.path": ("*/*", "*.[cC][sS][vV]")})


# ---- the clips of a folder


def batch_of(clips: Clips, window: int, numbers: np.ndarray) -> sequences.Batch:
    """The clips of these numbers [B], with the class at the last step of each."""
    lengths = np.array([len(clips.steps[number]) for number in numbers], np.int32)
    inputs = np.zeros((window, len(numbers), *clips.shape), clips.steps[0].dtype)
    for row, number in enumerate(numbers):
        inputs[: lengths[row], row] = clips.steps[number]
    last = np.arange(window)[:, None] == lengths - 1
    targets = np.where(last, clips.labels[numbers], 0).astype(np.int32)
    return {"inputs": inputs, "targets": targets, "weights": last, "lengths": lengths}


def middles(clips: Clips, split: str, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(the middle frames [N, ...], the classes int [N]) of at most `most` clips of a split."""
    numbers = clips.splits[split]
    numbers = numbers[media.evenly(len(numbers), most)]
    frames = [clips.steps[number][len(clips.steps[number]) // 2] for number in numbers]
    return np.stack(frames), clips.labels[numbers]


def source_of(config: Config, clips: Clips) -> sequences.Source:
    """The source of batches: training in a new random order each epoch, but for those that fill no
    batch; the others in order."""
    train, valid, rows = clips.splits["train"], clips.splits["valid"], config.train.batch_size
    if len(train) < rows:
        raise UsageError(f"{len(train)} clips are for training, and a batch has {rows}")
    places, per_epoch = shuffled(len(train), batch_size=rows, seed=config.seed)
    batch = functools.partial(batch_of, clips, config.train.window)

    def example(step: int) -> sequences.Batch:
        place = draws.Random(config.seed, draws.SHOW, step).integers(0, len(valid), (1,))
        return batch(valid[place])

    @functools.cache
    def facts() -> dict[str, Any]:
        known, asked = (
            middles(clips, split, most)
            for split, most in zip(("train", "test"), one_frame.FRAMES, strict=True)
        )
        lengths = sorted(map(len, clips.steps))
        return {
            "length": f"{lengths[0]} to {lengths[-1]}",
            "sha256": clips.sha256,
            **{f"{name}_clips": len(numbers) for name, numbers in clips.splits.items()},
            "clips_in_no_list": clips.left_out,
            "steps_per_epoch": per_epoch,
            "one_frame_accuracy": one_frame.accuracy(known, asked, len(clips.classes)),
        }

    in_order = functools.partial(sequences.in_order, size=config.eval.chunk, batch=batch)
    return sequences.Source(
        train=lambda step: batch(train[places(step)]),
        valid=in_order(valid),
        last={"test_accuracy": ("accuracy", in_order(clips.splits["test"]))},
        example=example,
        facts=facts,
    )


# ---- the task


def drawn(random: draws.Random, lengths: np.ndarray, time: int, side: int) -> sequences.Drawn:
    """See `sequences.Problem`: frames [T, B, side, side, 1] and the motion, at the last step."""
    frames, classes = motions.draw(random, lengths, time, side)
    last = np.arange(time)[:, None] == lengths - 1
    return sequences.Drawn(frames, np.where(last, classes, 0), last)


def described(inputs: np.ndarray) -> str:
    """The first, the middle and the last frame of [T, h, w, channels], side by side in characters."""
    if inputs.ndim == 2:
        return f"{len(inputs)} steps of {inputs.shape[1]} numbers"
    frames = inputs[[0, len(inputs) // 2, -1]].mean(-1) / 256
    lines = (" | ".join(rows) for rows in zip(*map(shaded, frames), strict=True))
    return f"the first, the middle and the last of {len(inputs)} frames\n" + "\n".join(lines)


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the clips must be those of that run.

    Raises UsageError for options that do not fit, or other clips than the run's.
    """
    if not config.data.path:
        return _of_motions(config)
    if config.data.shortest or config.eval.lengths:
        raise UsageError(
            "the clips of a folder have their own lengths: set data.shortest to 0 and eval.lengths to ()"
        )
    shares = {"trainlist": "", "testlist": "", "valid": 0.1, "test": 0.2, "encoding": None}
    chosen = sequences.options(config, path="", side=32, **shares)
    lists = chosen["trainlist"], chosen["testlist"]
    _check_side(chosen["side"])
    parts = config.train.window, chosen["valid"], chosen["test"]
    with reading(chosen["path"]):
        clips = read(chosen["path"], lists, chosen["side"], *parts, chosen["encoding"])
    unchanged(kept, "clips", chosen["path"], clips.sha256)
    shape = clips.shape
    if len(shape) == 1 and config.data.side is not None:
        raise UsageError(f"{chosen['path']} has no pictures: leave data.side unset")
    share = np.bincount(clips.labels[clips.splits["train"]]) / len(clips.splits["train"])
    problem = sequences.Problem(
        inputs=math.prod(shape),
        outputs=len(clips.classes),
        vectors=True,
        draw=None,
        baseline=("frequency of the classes", float(-(share * np.log(share)).sum())),
        unit="clip",
        facts={"source": chosen["path"], "lists": [*filter(None, lists)]},
        classes=clips.classes,
        tell=described,
    )
    return _classifier(config, problem, source_of(config, clips), shape, "test_accuracy")


def _check_side(side: int) -> None:
    if not 4 <= side <= sprites.LARGEST:
        raise UsageError(f"data.side must be at least 4 and at most {sprites.LARGEST}, got {side}")


def _of_motions(config: Config) -> Task:
    side = sequences.options(config, path="", side=16)["side"]
    _check_side(side)
    problem = sequences.Problem(
        inputs=side * side,
        outputs=len(motions.MOTIONS),
        vectors=True,
        draw=functools.partial(drawn, side=side),
        baseline=("guessing", math.log(len(motions.MOTIONS))),
        unit="clip",
        facts={"classes": [*motions.MOTIONS]},
        least=2,
        classes=motions.MOTIONS,
        tell=described,
    )

    def facts() -> dict[str, Any]:
        return {"one_frame_accuracy": one_frame.accuracy_on_motions(config.train.window, side)}

    source = sequences.drawn(config, problem)._replace(facts=facts)
    return _classifier(config, problem, source, (side, side, 1), None)


def _classifier(
    config: Config,
    problem: sequences.Problem,
    source: sequences.Source,
    shape: tuple[int, ...],
    test: str | None,
) -> Task:
    """The task with what the verb show draws: the confusion matrix of the batches that `source.last`
    has for `test`, or those of validation; and, for frames, with the encoder."""

    def draw(answers: Callable[[sequences.Batch], np.ndarray], folder: Path) -> list[Path]:
        counts = np.zeros((problem.outputs, problem.outputs), int)
        for batch in (source.valid if test is None else source.last[test][1])():
            there = batch["weights"]
            np.add.at(counts, (batch["targets"][there], answers(batch).argmax(-1)[there]), 1)
        written = folder / "confusion.png"
        figure.confusion(counts, names=problem.classes, path=written)
        return [written]

    encoder = None
    if len(shape) == 3:
        encoder = encoders.conv(
            shape=(shape[0], shape[1], shape[2]),
            channels=tuple(config.encoder.channels),
            features=config.encoder.features,
            precision=config.model.precision,
        )
    return sequences.make_task(config, problem, source, encoder, draw)
