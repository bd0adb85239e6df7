"""Many-to-one: which action a clip shows, from its frames or from joints or sensors.

A small convolutional encoder makes a vector of each frame, the recurrent network reads the vectors, and
its output at a clip's last step is the answer (cf. Donahue et al. 2015). Clips are of different lengths;
what stands behind the end of one is masked.

Built in: `rnnlab.moving.motions`, an object in one of ten motions. Lengths are uniform from data.shortest
to train.window. By construction a frame by itself has the same distribution in each class, so that who
sees one frame can only guess.

Real data: data.path is a folder with a folder of files for each class, CLASS/NAME.avi as in UCF101 (Soomro
et al. 2012). The files are videos, of which frames of data.side x data.side are read, in colour; or .npy
files [T, D] or .csv files of T lines of D numbers, which no encoder reads (joints, sensors: each of the D
scaled to mean 0 and variance 1 over the training steps). Of more than train.window steps as many are kept,
evenly spread. data.trainlist and data.testlist are lists in UCF101's format, "CLASS/NAME.avi" and perhaps
a label on each line; without them a share of data.test of each class is for the end. data.valid is the
share of the other clips that is held out. Which clips follows from a hash of CLASS/NAME, and is the same
for all seeds; clips of one group (v_NAME_g01_c01 and v_NAME_g01_c02) stay together, since they show the
same people and place.

`one_frame_accuracy` in run.json is what a classifier of the middle frame alone reaches (see `one_frame`).
"""

import csv
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab import cache, draws, encoders, media, moving, runfolder, sequences, task_figures
from rnnlab.types import About, Config, Task, UsageError

ABOUT = About(
    mapping="many-to-one",
    data="drawn: an object in motion; a folder of videos, joints or sensors for each class",
    metric="accuracy, confusion matrix",
    experiment="actions",
)
VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg")
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


class Clips(NamedTuple):
    """The clips of a folder."""

    # of each: uint8 [T, side, side, 3], or float32 [T, D]; T <= the window
    steps: tuple[np.ndarray, ...]
    labels: np.ndarray  # int [N], places in `classes`
    splits: dict[str, np.ndarray]  # train, valid and test: which clips
    classes: tuple[str, ...]
    left_out: int  # clips that the lists do not name
    sha256: str  # of the names, the contents and the splits


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, all of one kind; raises UsageError."""
    try:
        folders = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise UsageError(f"cannot read data.path {folder}: {cache.reason_of(error)}") from None
    kinds = (*VIDEOS, ".npy", ".csv")
    found = {p.name: sorted(f for f in p.iterdir() if f.suffix.lower() in kinds) for p in folders}
    if len(found) < 2:
        raise UsageError(
            f"data.path {folder} needs a folder for each class, at least 2, and has {len(found)}"
        )
    for name, files in found.items():
        if not files:
            raise UsageError(f"the class {folder / name} has no example ({', '.join(kinds)})")
    first = found[folders[0].name][0]
    for file in (file for files in found.values() for file in files):
        if _kind(file) != _kind(first):
            raise UsageError(
                f"{file} and {first} are of different kinds: have videos, .npy or .csv alone"
            )
    return found


def _kind(file: Path) -> str:
    return "video" if file.suffix.lower() in VIDEOS else file.suffix.lower()


def listed(path: str, known: dict[str, int]) -> dict[int, int]:
    """Of a list in UCF101's format, "CLASS/NAME" and perhaps a label on each line: number of the clip
    -> number of the line. known: name -> number. Raises UsageError, with the line."""
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {cache.reason_of(error)}") from None
    found: dict[int, int] = {}
    for place, line in enumerate(lines, start=1):
        name = re.sub(r"\s+\d+\s*$", "", line).strip()
        if not name:
            continue
        if name not in known:
            raise UsageError(f"{file}:{place} names {name}, which is not in data.path")
        if known[name] in found:
            raise UsageError(f"{file}:{place} names {name}, as line {found[known[name]]} does")
        found[known[name]] = place
    if not found:
        raise UsageError(f"{file} names no clip")
    return found


def _held(numbers: Iterable[int], names: list[str], share: float, purpose: str) -> list[int]:
    """Of these clips the ones that are held out: of each class a share of the groups, at least one and
    never all, the first ones in the order of a hash of their names."""
    found: dict[str, dict[str, list[int]]] = {}
    for number in numbers:
        group = re.sub(r"(_g\d+)_c\d+$", r"\1", names[number].rpartition(".")[0])
        found.setdefault(group.partition("/")[0], {}).setdefault(group, []).append(number)
    held = []
    for groups in found.values():
        order = sorted(groups, key=lambda g: hashlib.sha256(f"{purpose} {g}".encode()).digest())
        count = min(max(1, round(share * len(order))), len(order) - 1)
        held += [number for group in order[:count] for number in groups[group]]
    return sorted(held)


def _split(
    names: list[str], lists: tuple[str, str], valid: float, test: float
) -> dict[str, np.ndarray]:
    known = {name: number for number, name in enumerate(names)}
    if any(lists) and not all(lists):
        raise UsageError("data.trainlist and data.testlist are given together, or neither")
    for key, share in {"valid": valid, "test": test}.items():
        if not 0 < share < 1:
            raise UsageError(f"data.{key} is a share between 0 and 1, got {share}")
    if lists[0]:
        rest, last = listed(lists[0], known), listed(lists[1], known)
        for number in sorted({*rest} & {*last}):
            raise UsageError(
                f"{lists[1]}:{last[number]} names {names[number]}, as {lists[0]}:{rest[number]} does"
            )
        training, testing = sorted(rest), sorted(last)
    else:
        testing = _held(range(len(names)), names, test, "test")
        training = sorted({*range(len(names))} - {*testing})
    held = _held(training, names, valid, "valid")
    splits = {"train": sorted({*training} - {*held}), "valid": held, "test": testing}
    return {name: np.array(numbers, int) for name, numbers in splits.items()}


def _numbers(file: Path) -> np.ndarray:
    """float64 [T, D] of a .npy or .csv file; raises UsageError."""
    try:
        if file.suffix.lower() == ".npy":
            found = np.load(file, allow_pickle=False)
        else:
            lines = [line for line in csv.reader(file.read_text("utf-8-sig").split("\n")) if line]
            found = np.array(_rows(file, lines))
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise UsageError(f"cannot read {file}: {cache.reason_of(error)}") from None
    if found.ndim != 2 or found.dtype.kind not in "biuf":
        raise UsageError(f"{file} should hold numbers [T, D], not {found.dtype} {[*found.shape]}")
    if not found.size:
        raise UsageError(f"{file} has no steps")
    if not np.isfinite(found).all():
        t, column = np.argwhere(~np.isfinite(found))[0]
        raise UsageError(
            f"{file} has a number that is not finite: {found[t, column]}, in column {column + 1} of "
            f"step {t + 1}"
        )
    return found.astype(np.float64)


def _rows(file: Path, lines: list[list[str]]) -> list[list[float]]:
    rows = []
    for place, cells in enumerate(lines, start=1):
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if place == 1:  # the heading
                continue
            raise UsageError(f"{file}:{place} is not all numbers: {','.join(cells)[:60]}") from None
        rows.append(row)
        if len(row) != len(rows[0]):
            raise UsageError(
                f"{file}:{place} has {len(row)} numbers, and the first line {len(rows[0])}"
            )
    return rows


@functools.lru_cache(maxsize=2)
def read(
    path: str, lists: tuple[str, str], side: int, window: int, valid: float, test: float
) -> Clips:
    """The clips of a folder; all that are used are in memory. lists: of training and testing, or "".

    Raises UsageError, with the file, for what cannot be read or does not fit, and for a class that
    has no training example.
    """
    folder = Path(path).expanduser()
    found = _classes(folder)
    classes = tuple(found)
    files = [file for one in found.values() for file in one]
    names = [f"{file.parent.name}/{file.name}" for file in files]
    splits = _split(names, lists, valid, test)
    labels = np.repeat(np.arange(len(classes)), [len(one) for one in found.values()])
    for label, name in enumerate(classes):
        if not (labels[splits["train"]] == label).any():
            raise UsageError(f"the class {folder / name} has no example for training")
    for name in ("valid", "test"):
        if not len(splits[name]):
            raise UsageError(f"of the {len(names)} clips of {folder} none is for {name}: have more")
    digest, steps = hashlib.sha256(), []
    used = np.sort(np.concatenate([*splits.values()]))
    for number in used:
        file = files[number]
        digest.update(f"{names[number]}\n".encode())
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise UsageError(f"cannot read {file}: {cache.reason_of(error)}") from None
        clip = media.video(file, side) if _kind(file) == "video" else _numbers(file)
        if clip.shape[1:] != (steps[0].shape[1:] if steps else clip.shape[1:]):
            raise UsageError(
                f"{file} has {clip.shape[1]} numbers a step, and {files[used[0]]} has {steps[0].shape[1]}"
            )
        steps.append(clip[media.evenly(len(clip), window)])
    splits = {name: np.searchsorted(used, numbers) for name, numbers in splits.items()}
    for name, numbers in splits.items():
        digest.update(f"{name} {numbers.tolist()}\n".encode())
    if steps[0].dtype == np.float64:
        steps = _scaled(steps, splits["train"])
    left_out = len(files) - len(used)
    return Clips(tuple(steps), labels[used], splits, classes, left_out, digest.hexdigest())


def _scaled(steps: list[np.ndarray], training: np.ndarray) -> list[np.ndarray]:
    """float32, each column of mean 0 and variance 1 over the training steps; a constant one is 0."""
    known = np.concatenate([steps[number] for number in training])
    mean, spread = known.mean(0), known.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    return [((clip - mean) / spread).astype(np.float32) for clip in steps]


def _of_clips(config: Config, clips: Clips) -> sequences.Source:
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


def make(config: Config, kept: Path | None = None) -> Task:
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
    clips = read(
        chosen["path"], lists, chosen["side"], config.train.window, chosen["valid"], chosen["test"]
    )
    if kept is not None:
        before = runfolder.read_json(kept / "run.json")["data"]["sha256"]
        if before != clips.sha256:
            raise UsageError(
                f"the clips of this run have changed since it began: {chosen['path']} has sha256 "
                f"{clips.sha256}, the run has {before}"
            )
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
    if side < 4:
        raise UsageError(f"data.side must be at least 4, got {side}")


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
        task_figures.confusion(counts, names=problem.classes, path=written)
        return [written]

    encoder = None
    if len(shape) == 3:
        if config.encoder.features < 1:
            raise UsageError(f"encoder.features must be at least 1, got {config.encoder.features}")
        encoder = encoders.conv(
            shape=(shape[0], shape[1], shape[2]),
            channels=tuple(config.encoder.channels),
            features=config.encoder.features,
            precision=config.model.precision,
        )
    return sequences.make(config, problem, source, encoder, draw)
