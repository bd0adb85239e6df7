"""The task actions; see the package's docstring for what it is."""

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import draws, media, moving
from rnnlab.errors import UsageError
from rnnlab.models import encoders
from rnnlab.run.folder import unchanged
from rnnlab.tasks.actions import clips as ucf
from rnnlab.tasks.actions import figure
from rnnlab.tasks.kinds import sequences
from rnnlab.types import About, Config, Task

ABOUT = About(
    mapping="many-to-one",
    data="drawn: an object in motion; a folder of videos, joints or sensors for each class",
    metric="accuracy, confusion matrix",
    experiment="actions",
)
SHADES = " .:+#"


# ---- one frame


def one_frame(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: int
) -> float:
    """The share of right answers of who sees one frame and no motion.

    train, test: (frames [N, ...], classes int [N]). Kernel ridge regression of one-hot targets with a
    Gaussian kernel, as wide as the median distance of two training frames, and a ridge of 0.01.
    """

    def flattened(frames: np.ndarray) -> np.ndarray:
        return frames.reshape(len(frames), -1).astype(np.float64)

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sums = (a**2).sum(1)[:, None] + (b**2).sum(1)
        return np.maximum(sums - 2 * a @ b.T, 0.0)

    known, asked = flattened(train[0]), flattened(test[0])
    distances = squared(known, known)
    width = float(np.median(distances)) or 1.0
    kernel = np.exp(-distances / width) + 0.01 * np.eye(len(known))
    targets = np.eye(classes)[train[1]] - 1 / classes
    answers = np.exp(-squared(asked, known) / width) @ np.linalg.solve(kernel, targets)
    return float((answers.argmax(1) == test[1]).mean())


FRAMES = 1500, 1000  # of training and of testing, at most, for this


@functools.lru_cache(maxsize=4)
def one_frame_of_motions(time: int, side: int) -> float:
    """Of the built-in clips of `time` frames, by their middle frames; by construction 1 in 10."""
    count = sum(FRAMES)
    random = draws.Random(0, draws.OWN)
    frames, classes = moving.motions(random, np.full(count, time), time, side)
    frame, known = frames[time // 2], FRAMES[0]
    names = len(moving.MOTIONS)
    return one_frame((frame[:known], classes[:known]), (frame[known:], classes[known:]), names)


# ---- the folder of a user


def _of_clips(config: Config, clips: ucf.Clips) -> sequences.Source:
    """The source of batches: training in a new random order each epoch, but for those that fill no
    batch; the others in order."""
    window, rows = config.train.window, config.train.batch_size
    train, shape = clips.splits["train"], clips.steps[0].shape[1:]
    if len(train) < rows:
        raise UsageError(f"{len(train)} clips are for training, and a batch has {rows}")
    per_epoch = len(train) // rows

    def batch(numbers: np.ndarray) -> sequences.Batch:
        lengths = np.array([len(clips.steps[number]) for number in numbers], np.int32)
        inputs = np.zeros((window, len(numbers), *shape), clips.steps[0].dtype)
        for row, number in enumerate(numbers):
            inputs[: lengths[row], row] = clips.steps[number]
        last = np.arange(window)[:, None] == lengths - 1
        targets = np.where(last, clips.labels[numbers], 0).astype(np.int32)
        return {"inputs": inputs, "targets": targets, "weights": last, "lengths": lengths}

    @functools.lru_cache(maxsize=2)
    def shuffled(epoch: int) -> np.ndarray:
        return train[draws.Random(config.seed, draws.ORDER, epoch).order(len(train))]

    def training(step: int) -> sequences.Batch:
        epoch, place = divmod(step, per_epoch)
        return batch(shuffled(epoch)[place * rows : (place + 1) * rows])

    def in_order(numbers: np.ndarray) -> Callable[[], Iterable[sequences.Batch]]:
        def part(number: int, size: int) -> sequences.Batch:
            return batch(numbers[np.minimum(number * size + np.arange(size), len(numbers) - 1)])

        return sequences.chunks(len(numbers), config.eval.chunk, part)

    def example(step: int) -> sequences.Batch:
        valid = clips.splits["valid"]
        return batch(
            valid[draws.Random(config.seed, draws.SHOW, step).integers(0, len(valid), (1,))]
        )

    def middles(split: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = clips.splits[split]
        numbers = numbers[media.evenly(len(numbers), most)]
        frames = [clips.steps[number][len(clips.steps[number]) // 2] for number in numbers]
        return np.stack(frames), clips.labels[numbers]

    @functools.cache
    def facts() -> dict[str, Any]:
        known, asked = middles("train", FRAMES[0]), middles("test", FRAMES[1])
        lengths = sorted(map(len, clips.steps))
        return {
            "length": f"{lengths[0]} to {lengths[-1]}",
            "sha256": clips.sha256,
            **{f"{name}_clips": len(numbers) for name, numbers in clips.splits.items()},
            "clips_in_no_list": clips.left_out,
            "steps_per_epoch": per_epoch,
            "one_frame_accuracy": one_frame(known, asked, len(clips.classes)),
        }

    return sequences.Source(
        train=training,
        valid=in_order(clips.splits["valid"]),
        last={"test_accuracy": ("accuracy", in_order(clips.splits["test"]))},
        example=example,
        facts=facts,
    )


# ---- the task


def drawn(random: draws.Random, lengths: np.ndarray, time: int, side: int) -> sequences.Drawn:
    """See `sequences.Problem`: frames [T, B, side, side, 1] and the motion, at the last step."""
    frames, classes = moving.motions(random, lengths, time, side)
    last = np.arange(time)[:, None] == lengths - 1
    return sequences.Drawn(frames, np.where(last, classes, 0), last)


def told(inputs: np.ndarray) -> str:
    """The first, the middle and the last frame of [T, h, w, channels], side by side in characters."""
    if inputs.ndim == 2:
        return f"{len(inputs)} steps of {inputs.shape[1]} numbers"
    frames = inputs[[0, len(inputs) // 2, -1]].mean(-1) / 256
    shades = (frames * len(SHADES)).astype(int)
    lines = (
        " | ".join("".join(SHADES[s] for s in row) for row in three)
        for three in shades.swapaxes(0, 1)
    )
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
    shares = {"trainlist": "", "testlist": "", "valid": 0.1, "test": 0.2}
    chosen = sequences.options(config, path="", side=32, **shares)
    lists = chosen["trainlist"], chosen["testlist"]
    _check_side(chosen["side"])
    clips = ucf.read(
        chosen["path"], lists, chosen["side"], config.train.window, chosen["valid"], chosen["test"]
    )
    unchanged(kept, "clips", chosen["path"], clips.sha256)
    shape = clips.steps[0].shape[1:]
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
        tell=told,
    )
    return _with(config, problem, _of_clips(config, clips), shape, "test_accuracy")


def _check_side(side: int) -> None:
    if not 4 <= side <= moving.LARGEST:
        raise UsageError(f"data.side must be at least 4 and at most {moving.LARGEST}, got {side}")


def _of_motions(config: Config) -> Task:
    side = sequences.options(config, path="", side=16)["side"]
    _check_side(side)
    problem = sequences.Problem(
        inputs=side * side,
        outputs=len(moving.MOTIONS),
        vectors=True,
        draw=functools.partial(drawn, side=side),
        baseline=("guessing", math.log(len(moving.MOTIONS))),
        unit="clip",
        facts={"classes": [*moving.MOTIONS]},
        least=2,
        classes=moving.MOTIONS,
        tell=told,
    )

    def facts() -> dict[str, Any]:
        return {"one_frame_accuracy": one_frame_of_motions(config.train.window, side)}

    source = sequences.drawn(config, problem)._replace(facts=facts)
    return _with(config, problem, source, (side, side, 1), None)


def _with(
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
