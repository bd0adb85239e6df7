"""Action recognition: a video in, the name of what happens in it out, at its last frame.

Built in: digits and shapes that move in one of ten ways (`rnnlab.moving.motions`). The class is the
motion and not the look: on a torus, and with sizes on a circle, a frame has the same distribution in
every class, so that whoever sees one frame guesses: `one_frame_accuracy` in run.json is what a classifier
of the middle frames reaches. Videos of data.shortest to train.window frames.

Real data: data.path is a folder with a folder for each class (UCF101's layout, Soomro et al. 2012), of
videos, whose frames are scaled to data.side and of which at most train.window are taken, evenly
spaced; or of joints or sensors over time, .npy [T, D] or .csv with a line a step. data.train_list and
data.test_list are lists of CLASS/FILE, a line each, in UCF101's format; without them the sha256 of
CLASS/FILE decides, 8 of 10 for training. Of the training list 1 of 10 is held out the same way.

A convolutional encoder makes a vector of each frame and the data.stack - 1 before it, which lie behind
one another as channels (Simonyan and Zisserman 2014, section 3); joints go to the cells as they are,
scaled to mean 0 and variance 1. Who sees nothing guesses: ln of the number of classes.
"""

import csv
import functools
import hashlib
import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab import cache, draws, encoders, media, moving, runfolder, sequences, task_figures
from rnnlab.types import About, Config, Task, UsageError

ABOUT = About(
    mapping="many-to-one",
    data="drawn: objects in motion; a folder of videos, or of joints, for each class",
    metric="accuracy, confusion matrix",
    experiment="actions",
)
VECTORS = (".npy", ".csv")


class Recordings(NamedTuple):
    """What a folder holds."""

    classes: tuple[str, ...]
    names: tuple[str, ...]  # CLASS/FILE
    labels: np.ndarray  # int [N]
    series: tuple[np.ndarray, ...]  # of each, uint8 [T, side, side, 3] or float64 [T, D]
    sha256: str  # of all names and files


def vectors(path: Path) -> np.ndarray:
    """float64 [T, D] of a .npy or .csv file. Raises UsageError, with the line, for what is none."""
    if path.suffix.lower() == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{path} is no array of numbers: {error}") from None
        if found.ndim != 2 or not found.size or found.dtype.kind not in "fiu":
            raise UsageError(f"{path} is {found.shape} of {found.dtype}: it takes numbers [T, D]")
        if not np.isfinite(found).all():
            raise UsageError(f"{path} has a number that is not finite")
        return found.astype(np.float64)
    rows: list[list[float]] = []
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {cache.reason_of(error)}") from None
    for number, cells in enumerate(lines, start=1):
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if number == 1:  # the heading
                continue
            row = []
        if not row or len(row) != len(rows[0] if rows else row) or not all(map(math.isfinite, row)):
            raise UsageError(
                f"{path}:{number} is not the numbers of a step: {','.join(cells)[:60]}"
            )
        rows.append(row)
    if not rows:
        raise UsageError(f"{path} has no steps")
    return np.array(rows)


@functools.lru_cache(maxsize=2)
def load(folder: str, side: int, most: int) -> Recordings:
    """The recordings of a folder, at most `most` steps of each.

    Raises UsageError for a folder without classes, a class without files, or a file that cannot be
    read or differs in kind from the others.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"data.path {root} is no folder: it takes one with a folder for each class"
        )
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    if len(classes) < 2:
        raise UsageError(
            f"data.path {root} has {len(classes)} folders: it takes one for each class"
        )
    names, labels, series = [], [], []
    digest = hashlib.sha256()
    for label, name in enumerate(classes):
        files = sorted(p for p in (root / name).iterdir() if p.is_file() and p.name[0] != ".")
        if not files:
            raise UsageError(f"{root / name} holds nothing: take the class away, or fill it")
        for file in files:
            one = file.suffix.lower() in VECTORS
            found = vectors(file) if one else media.video(file, side)
            if series and (found.ndim != series[0].ndim or found.shape[1:] != series[0].shape[1:]):
                raise UsageError(
                    f"{file} has steps of {found.shape[1:]}, and {root / names[0]} of "
                    f"{series[0].shape[1:]}: all must be alike"
                )
            names.append(f"{name}/{file.name}")
            labels.append(label)
            series.append(found[media.evenly(len(found), most)])
            digest.update(names[-1].encode() + file.read_bytes())
    return Recordings(
        tuple(classes), tuple(names), np.array(labels), tuple(series), digest.hexdigest()
    )


def _tenth(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10


def _listed(path: str, known: dict[str, int]) -> list[int]:
    """The numbers of the recordings that a list names."""
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {cache.reason_of(error)}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        name = line.split()[0] if line.strip() else ""
        if name and name not in known:
            raise UsageError(f"{file}:{number} names {name}, which data.path does not hold")
        found += [known[name]] if name else []
    return found


def split(names: tuple[str, ...], train_list: str, test_list: str) -> dict[str, np.ndarray]:
    """part ("train", "valid", "test") -> numbers of recordings. Raises UsageError for one list
    without the other, a recording in both, or an empty part."""
    if bool(train_list) != bool(test_list):
        raise UsageError("data.train_list and data.test_list go together")
    known = {name: number for number, name in enumerate(names)}
    if train_list:
        there, test = _listed(train_list, known), _listed(test_list, known)
        both = sorted({*there} & {*test})
        if both:
            raise UsageError(f"{names[both[0]]} is in data.train_list and in data.test_list")
        held = [number for number in there if _tenth(names[number]) == 1]
        rest = [number for number in there if _tenth(names[number]) != 1]
    else:
        parts = [_tenth(name) for name in names]
        test = [number for number, part in enumerate(parts) if part == 0]
        held = [number for number, part in enumerate(parts) if part == 1]
        rest = [number for number, part in enumerate(parts) if part > 1]
    found = {"train": np.array(rest), "valid": np.array(held), "test": np.array(test)}
    for part, numbers in found.items():
        if not len(numbers):
            raise UsageError(f"of {len(names)} recordings none is for '{part}': give more of them")
    return found


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


FRAMES = 1500, 1000  # for training and for testing it


@functools.lru_cache(maxsize=4)
def one_frame_accuracy(time: int, side: int) -> float:
    """What `one_frame` reaches on the middle frames of drawn videos."""
    known, count = FRAMES[0], sum(FRAMES)
    frames, classes = moving.motions(
        draws.Random(0, draws.PIXELS), np.full(count, time), time, side
    )
    frame = frames[time // 2]
    split = (frame[:known], classes[:known]), (frame[known:], classes[known:])
    return one_frame(*split, len(moving.MOTIONS))


def make(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the recordings must be those of that run.

    Raises UsageError for options that do not fit, or recordings that are missing or damaged.
    """
    chosen = sequences.options(config, path="", side=16, stack=2, train_list="", test_list="")
    if chosen["stack"] < 1:
        raise UsageError(f"data.stack must be at least 1, got {chosen['stack']}")
    if chosen["side"] < 8:
        raise UsageError(f"data.side must be at least 8, got {chosen['side']}")
    if chosen["path"]:
        return _of_folder(config, chosen, kept)
    side = chosen["side"]

    def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        frames, classes = moving.motions(random, lengths, time, side)
        last = np.arange(time)[:, None] == lengths - 1
        frames = moving.stacked(frames, chosen["stack"])
        return sequences.Drawn(frames, np.where(last, classes, 0), last)

    problem = sequences.Problem(
        inputs=1,
        outputs=len(moving.MOTIONS),
        vectors=True,
        draw=draw,
        baseline=("guessing", math.log(len(moving.MOTIONS))),
        unit="video",
        facts={"side": side, "stack": chosen["stack"]},
        least=4,
        classes=moving.MOTIONS,
        tell=lambda frames: f"video of {len(frames)} frames",
    )
    source = sequences.drawn(config, problem)
    assert source.test is not None
    encoder, drawing = (
        _encoder(config, (side, side, chosen["stack"])),
        _drawing(source.test, moving.MOTIONS),
    )
    source = source._replace(
        last={**source.last, "test_accuracy": ("accuracy", source.test)},
        facts=lambda: {"one_frame_accuracy": one_frame_accuracy(config.train.window, side)},
    )
    return sequences.make(config, problem, source, encoder, drawing)


def _encoder(config: Config, shape: tuple[int, ...]) -> encoders.Encoder:
    return encoders.conv(
        shape=(shape[0], shape[1], shape[2]),
        channels=tuple(config.encoder.channels),
        features=config.encoder.features,
        precision=config.model.precision,
    )


def _drawing(
    batches: Callable[[], Iterable[sequences.Batch]], classes: tuple[str, ...]
) -> Callable[..., list[Path]]:
    def draw(answers: Callable[[sequences.Batch], np.ndarray], folder: Path) -> list[Path]:
        counts = np.zeros((len(classes), len(classes)), int)
        for batch in batches():
            asked = batch["weights"]
            np.add.at(counts, (batch["targets"][asked], answers(batch).argmax(-1)[asked]), 1)
        path = folder / "confusion.png"
        task_figures.confusion(counts, classes, path)
        return [path]

    return draw


def _of_folder(config: Config, chosen: dict[str, Any], kept: Path | None) -> Task:
    if config.data.shortest:
        raise UsageError("recordings have lengths of their own: leave data.shortest at 0")
    window, rows = config.train.window, config.train.batch_size
    found = load(chosen["path"], chosen["side"], window)
    if kept is not None:
        before = runfolder.read_json(kept / "run.json")["data"]["sha256"]
        if before != found.sha256:
            raise UsageError(
                f"the recordings of this run have changed since it began: {chosen['path']} has sha256 "
                f"{found.sha256}, the run has {before}"
            )
    parts = split(found.names, chosen["train_list"], chosen["test_list"])
    count = len(parts["train"])
    if count < rows:
        raise UsageError(f"there are {count} recordings to train on, and a batch has {rows}")
    shape = found.series[0].shape[1:]
    series = found.series
    if len(shape) == 1:
        steps = np.concatenate([series[number] for number in parts["train"]])
        mean, spread = steps.mean(0), steps.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        series = tuple(((one - mean) / spread).astype(np.float32) for one in series)

    def batch(numbers: np.ndarray) -> sequences.Batch:
        lengths = np.array([len(series[number]) for number in numbers], np.int32)
        inputs = np.zeros((window, len(numbers), *shape), series[0].dtype)
        for column, number in enumerate(numbers):
            inputs[: lengths[column], column] = series[number]
        last = np.arange(window)[:, None] == lengths - 1
        targets = np.where(last, found.labels[numbers], 0).astype(np.int32)
        if len(shape) == 3:
            inputs = moving.stacked(inputs, chosen["stack"])
        return {"inputs": inputs, "targets": targets, "weights": last, "lengths": lengths}

    steps_per_epoch = count // rows

    @functools.lru_cache(maxsize=2)
    def shuffled(epoch: int) -> np.ndarray:
        return parts["train"][draws.Random(config.seed, draws.ORDER, epoch).order(count)]

    def train(step: int) -> sequences.Batch:
        epoch, place = divmod(step, steps_per_epoch)
        return batch(shuffled(epoch)[place * rows :][:rows])

    def in_order(part: str) -> Callable[[], Iterable[sequences.Batch]]:
        numbers = parts[part]

        def some(number: int, size: int) -> sequences.Batch:
            return batch(numbers[np.minimum(number * size + np.arange(size), len(numbers) - 1)])

        return sequences.chunks(len(numbers), config.eval.chunk, some)

    def example(step: int) -> sequences.Batch:
        random = draws.Random(config.seed, draws.SHOW, step)
        return batch(parts["valid"][random.integers(0, len(parts["valid"]), (1,))])

    source = sequences.Source(
        train=train,
        valid=in_order("valid"),
        last={"test_accuracy": ("accuracy", in_order("test"))},
        example=example,
        facts=lambda: {
            "source": chosen["path"],
            "sha256": found.sha256,
            "classes": ", ".join(found.classes),
            **{f"{part}_recordings": len(numbers) for part, numbers in parts.items()},
            "steps_per_epoch": steps_per_epoch,
        },
    )
    problem = sequences.Problem(
        inputs=shape[0] if len(shape) == 1 else 3,
        outputs=len(found.classes),
        vectors=True,
        draw=None,
        baseline=("guessing", math.log(len(found.classes))),
        unit="video",
        facts={"side": chosen["side"], "stack": chosen["stack"]},
        classes=found.classes,
        tell=lambda steps: f"recording of {len(steps)} steps",
    )
    deep = (*shape[:2], chosen["stack"] * shape[-1])
    encoder = _encoder(config, deep) if len(shape) == 3 else None
    drawing = _drawing(in_order("test"), found.classes)
    return sequences.make(config, problem, source, encoder, drawing)
