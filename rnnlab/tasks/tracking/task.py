"""The task tracking; see the package's docstring for what it is."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnnlab.data import draws, moving
from rnnlab.errors import UsageError
from rnnlab.models import encoders
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.metrics import tokens
from rnnlab.tasks.tracking import figure, mot
from rnnlab.types import About, Array, Config, Task

ABOUT = About(
    mapping="many-to-many in step",
    data="drawn: two objects that cross and hide; a folder of MOT ground truth",
    metric="mean IoU of the boxes, over all frames and the hidden ones",
    experiment="tracking",
)
HIDDEN, COVERED = 0.5, 0.1  # at most so much of the target can be seen
FEATURES = 9  # of a box in a track: its change, where it will be, and 1 where nothing came before
RECENT = 5  # frames whose mean change is the velocity

Answers = Callable[[sequences.Batch], np.ndarray]


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the boxes read must be those of that run.

    Raises UsageError for options or files that do not fit.
    """
    if config.data.name == "crossings":
        for key in ("path", "held"):
            if config.data[key]:
                raise UsageError(f"data.{key} is for data.name=mot; the crossings are drawn")
        return _crossings(config)
    if config.data.name == "mot":
        return _mot(config, kept)
    raise UsageError(f"data.name must be crossings or mot, got '{config.data.name}'")


# ---- videos


@functools.cache
def mean_box(time: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) [4] of the boxes of 2,000 videos."""
    boxes = moving.crossings(draws.Random(0, draws.OWN), 2000, time, 8).boxes  # for any side
    return boxes.mean((0, 1)), boxes.std((0, 1))


@functools.lru_cache(maxsize=16)
def iou_of(mean: tuple[float, ...], spread: tuple[float, ...]) -> Callable[[Array, Array], Array]:
    """(outputs, targets) -> IoU [T, B] of boxes [T, B, 4] whose coordinates are counted from `mean` in
    units of `spread`."""

    def measure(outputs: Array, targets: Array) -> Array:
        boxes = (
            x * jnp.asarray(spread, x.dtype) + jnp.asarray(mean, x.dtype)
            for x in (outputs, targets)
        )
        return mot.iou(*boxes)

    return measure


def guesses(found: moving.Crossing, less: float) -> dict[str, float]:
    """Mean IoU, over the steps in which less than `less` of the target can be seen, of who knows the
    true box whenever more can: the mean box, the last seen, and constant velocity."""
    seen = found.seen >= less
    said = {
        "mean_box": np.broadcast_to(mean_box(len(seen))[0], found.boxes.shape),
        "last_seen": moving.carried(found.boxes, seen, velocity=False),
        "constant_velocity": moving.carried(found.boxes, seen, velocity=True),
    }
    return {name: float(mot.iou(boxes, found.boxes)[~seen].mean()) for name, boxes in said.items()}


def _crossings(config: Config) -> Task:
    side, window, seed = config.data.size, config.train.window, config.seed
    if not 16 <= side <= moving.LARGEST:
        raise UsageError(
            f"data.size must be at least 16 pixels and at most {moving.LARGEST}, got {side}"
        )
    mean, spread = mean_box(window)
    encoder = encoders.conv(
        shape=(side, side, 2),
        channels=tuple(config.encoder.channels),
        features=config.encoder.features,
        precision=config.model.precision,
    )

    def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        found = moving.crossings(random, len(lengths), time, side)
        there = np.ones((time, len(lengths)), bool)
        return sequences.Drawn(found.frames, (found.boxes - mean) / spread, there)

    problem = sequences.Problem(
        inputs=side * side * 2,
        outputs=4,
        draw=draw,
        baseline=("always the mean box", 1.0),
        unit="frame",
        facts={"source": "videos, drawn", "size": side},
        vectors=True,
        real=True,
        least=8,  # by then nearly every target has been hidden
        tell=lambda frames: (
            f"video of {len(frames)} frames; first and last box, in units of the loss"
        ),
        more=(("iou", iou_of(tuple(mean.tolist()), tuple(spread.tolist()))),),
    )
    source = sequences.drawn(config, problem)

    def tested(number: int, rows: int) -> moving.Crossing:
        return moving.crossings(draws.Random(seed, draws.TEST, number), rows, window, side)

    def where(less: float) -> Callable[[], Iterable[sequences.Batch]]:
        def part(number: int, rows: int) -> sequences.Batch:
            found = tested(number, rows)
            boxes = ((found.boxes - mean) / spread).astype(np.float32)
            return {"inputs": found.frames, "targets": boxes, "weights": found.seen < less}

        return sequences.chunks(config.eval.sequences, config.eval.chunk, part)

    def example(step: int) -> sequences.Batch:
        batch = source.example(step)
        ends = np.flatnonzero(batch["weights"][:, 0])[[0, -1]]
        return {**batch, "weights": np.isin(np.arange(len(batch["weights"])), ends)[:, None]}

    def facts() -> dict[str, Any]:
        found = tested(0, min(config.eval.sequences, 250))
        return {
            f"{name}_{kind}": round(value, 4)
            for kind, less in (("hidden_iou", HIDDEN), ("covered_iou", COVERED))
            for name, value in guesses(found, less).items()
        }

    last = {
        "test_iou": ("iou", where(math.inf)),
        "hidden_iou": ("iou", where(HIDDEN)),
        "covered_iou": ("iou", where(COVERED)),
    }
    longer = {f"iou_at_{n}": source.last[f"error_at_{n}"][1] for n in config.eval.lengths}
    last |= {name: ("iou", batches) for name, batches in longer.items()}

    def pictures(answers: Answers, folder: Path) -> list[Path]:
        rows = 6  # of which the GIF shows all, and the strip the one that hides longest
        found = tested(0, rows)
        ones = np.ones((window, rows), bool)
        said = answers({"inputs": found.frames, "targets": found.boxes, "weights": ones})
        paths = figure.Tracking(
            frames=found.frames[..., 0],
            true=found.boxes,
            said=said * spread + mean,
            hidden=found.seen < HIDDEN,
        )
        return figure.tracking(paths, folder, milliseconds=200, shown=8)

    return sequences.make_task(
        config,
        problem,
        source._replace(last=last, example=example, facts=facts),
        encoder,
        pictures,
    )


# ---- boxes of the MOT challenges


def change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[..., 4] of boxes [..., 4]: (dx / w, dy / h, log of w' / w, log of h' / h)."""
    moved = (after[..., :2] - before[..., :2]) / before[..., 2:]
    return np.concatenate([moved, np.log(after[..., 2:] / before[..., 2:])], -1)


def changed(before: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The boxes that `change` made changes of."""
    size = before[..., 2:]
    return np.concatenate([before[..., :2] + by[..., :2] * size, size * np.exp(by[..., 2:])], -1)


@functools.lru_cache(maxsize=16)
def judge_ahead(
    spread: tuple[float, ...],
) -> tuple[tuple[str, Callable[[Array, Array], Array]], ...]:
    """Metrics by name, as in `rnnlab.tasks.metrics`, of outputs [T, B, 4] and targets [T, B, 8]: what is to
    be learned in units of `spread`, and the change to which it is added. The IoU of the boxes that two
    changes make of one box does not depend on this box."""

    def box(values: Array, targets: Array) -> Array:
        by = values * jnp.asarray(spread, values.dtype) + targets[..., 4:]
        return jnp.concatenate([by[..., :2], jnp.exp(by[..., 2:])], -1)

    def overlap(outputs: Array, targets: Array) -> Array:
        return mot.iou(box(outputs, targets), box(targets[..., :4], targets))

    return (
        ("loss", lambda outputs, targets: tokens.squared_error(outputs, targets[..., :4])),
        ("accuracy", lambda outputs, targets: tokens.closeness(outputs, targets[..., :4])),
        ("iou", overlap),
    )


def velocity(boxes: np.ndarray, frames: int, ahead: int) -> np.ndarray:
    """The boxes [T, 4] `ahead` frames on, at the mean velocity of the last `frames` of them; where
    there are fewer, of those; the first box stays. Sizes stay too where a step would end them."""
    t = np.arange(len(boxes))
    back = np.minimum(t, frames)
    step = (boxes - boxes[t - back]) / np.maximum(back, 1)[:, None]
    on = boxes + ahead * step
    return np.where(on[:, 2:].min(1, keepdims=True) > 0, on, boxes)


class Piece(NamedTuple):
    """A part of a track of at most `train.window` boxes that have one `ahead` frames on."""

    track: mot.Track
    at: int  # of the track's boxes, the first
    steps: int


class Split(NamedTuple):
    """The tracks of a folder."""

    train: list[mot.Track]
    valid: list[mot.Track]
    sha256: str  # of all boxes


def split(folder: str, held: str, valid: float, ahead: int) -> Split:
    """The tracks that have more than `ahead` boxes, in two parts. held: names of sequences with commas
    between them; "" for a share `valid` of the tracks, at least one, the same for all seeds.

    Raises UsageError where one of the parts is empty or a sequence is not there.
    """
    found = mot.sequences(Path(folder).expanduser())
    digest = hashlib.sha256()
    for one in found:
        digest.update(one.name.encode())
        for array in (one.frames, one.ids, one.boxes):
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    every = [track for one in found for track in mot.tracks(one) if len(track.boxes) > ahead]
    if held:
        names = {name.strip() for name in held.split(",")}
        if unknown := names - {one.name for one in found}:
            there = ", ".join(one.name for one in found)
            raise UsageError(f"data.held: {folder} has no {sorted(unknown)[0]}, but {there}")
        parts = [[t for t in every if (t.sequence in names) == out] for out in (False, True)]
        why = "leave a sequence that data.held does not name, and name one with tracks"
    else:
        count = math.ceil(valid * len(every))
        order = draws.Random(0, draws.ORDER).order(len(every))
        parts = [[every[i] for i in sorted(order[a:b])] for a, b in ((count, None), (0, count))]
        why = f"change data.valid, which is {valid}"
    if not all(parts):
        raise UsageError(
            f"of {len(every)} tracks of {folder} with more than {ahead} boxes {len(parts[0])} are to be "
            f"trained on and {len(parts[1])} held out: {why}"
        )
    return Split(parts[0], parts[1], digest.hexdigest())


def _mot(config: Config, kept: Path | None) -> Task:
    options, window = config.data, config.train.window
    if not options.path:
        raise UsageError("data.name=mot needs a folder of sequences: set data.path")
    if options.ahead < 1:
        raise UsageError(f"data.ahead must be at least 1, got {options.ahead}")
    found = split(options.path, options.held, options.valid, options.ahead)
    unchanged(kept, "boxes", options.path, found.sha256)
    ahead = options.ahead

    def expected(boxes: np.ndarray) -> np.ndarray:
        return change(boxes, velocity(boxes, RECENT, ahead))

    def spread_of(values: list[np.ndarray]) -> np.ndarray:
        found = np.sqrt((np.concatenate(values) ** 2).mean(0))
        return np.where(found > 1e-9, found, 1.0)

    nows = [(track.boxes[:-ahead], track.boxes[ahead:]) for track in found.train]
    spread = spread_of([change(now, later) - expected(now) for now, later in nows])
    unit = spread_of([change(track.boxes[:-1], track.boxes[1:]) for track in found.train])
    far = spread_of([expected(now) for now, _ in nows])

    def batch(pieces: list[Piece]) -> sequences.Batch:
        rows = len(pieces)
        inputs = np.zeros((window, rows, FEATURES), np.float32)
        targets = np.zeros((window, rows, 8), np.float32)
        lengths = np.array([piece.steps for piece in pieces], np.int32)
        for row, (track, at, count) in enumerate(pieces):
            now, later = (track.boxes[i : i + count] for i in (at, at + ahead))
            guess = expected(now)
            inputs[1:count, row, :4] = change(now[:-1], now[1:]) / unit
            inputs[:count, row, 4:8] = guess / far
            inputs[0, row, 8] = 1.0
            targets[:count, row, :4] = (change(now, later) - guess) / spread
            targets[:count, row, 4:] = guess
        there = np.arange(window)[:, None] < lengths
        return {"inputs": inputs, "targets": targets, "weights": there, "lengths": lengths}

    lengths = np.array([len(track.boxes) - ahead for track in found.train])
    ends = np.cumsum(lengths)

    def train(step: int) -> sequences.Batch:
        random = draws.Random(config.seed, draws.TRAIN, step)
        rows = config.train.batch_size
        tracks = np.searchsorted(ends, random.integers(0, ends[-1], (rows,)), side="right")
        spare = np.maximum(lengths[tracks] - window, 0)
        starts = random.integers(0, spare + 1, (rows,))
        sign = 2 * random.integers(0, 2, (rows, 1)).astype(np.float32) - 1
        made = batch(
            [
                Piece(found.train[track], int(start), int(min(window, lengths[track])))
                for track, start in zip(tracks, starts, strict=True)
            ]
        )
        for key in ("inputs", "targets"):  # x is the first of four in each
            made[key][..., [0, 4]] *= sign
        return made

    held = [
        Piece(track, at, min(window, len(track.boxes) - ahead - at))
        for track in found.valid
        for at in range(0, len(track.boxes) - ahead, window)
    ]

    def part(number: int, rows: int) -> sequences.Batch:
        places = np.minimum(number * rows + np.arange(rows), len(held) - 1)
        return batch([held[place] for place in places])

    def example(step: int) -> sequences.Batch:
        place = int(draws.Random(config.seed, draws.SHOW, step).integers(0, len(held), (1,))[0])
        shown = batch([held[place]])
        return {**shown, "weights": np.arange(window)[:, None] == shown["lengths"] - 1}

    # What others say, of the same boxes.
    def judged(say: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """(loss, IoU) over the validation's steps. say: boxes [T, 4] -> those ahead."""
        errors, overlaps = [], []
        for track, at, count in held:
            now, later = (track.boxes[i : i + count] for i in (at, at + ahead))
            guess = say(now)
            errors.append((((change(now, guess) - change(now, later)) / spread) ** 2).mean(1))
            overlaps.append(mot.iou(guess, later))
        return float(np.concatenate(errors).mean()), float(np.concatenate(overlaps).mean())

    steady = judged(lambda boxes: velocity(boxes, RECENT, ahead))

    def pictures(answers: Answers, folder: Path) -> list[Path]:
        longest = max(held, key=lambda piece: piece.steps)
        now = longest.track.boxes[longest.at : longest.at + longest.steps]
        answer = answers(batch([longest]))[: longest.steps, 0]
        said = changed(now, answer * spread + expected(now))
        true = longest.track.boxes[longest.at + ahead : longest.at + ahead + longest.steps]
        seen = np.concatenate([now, true])
        low = (seen[:, :2] - seen[:, 2:]).min(0)
        scale = (seen[:, :2] + seen[:, 2:] - low).max()
        shown = [
            (np.concatenate([b[:, :2] - low, b[:, 2:]], -1) / scale)[:, None] for b in (true, said)
        ]
        canvas = np.full((len(true), 1, 48, 48), 40, np.uint8)
        hidden = np.zeros((len(true), 1), bool)
        paths = figure.Tracking(frames=canvas, true=shown[0], said=shown[1], hidden=hidden)
        return figure.tracking(paths, folder, milliseconds=120, shown=8)

    problem = sequences.Problem(
        inputs=FEATURES,
        outputs=4,
        draw=None,
        baseline=(f"constant velocity of {RECENT} frames", steady[0]),
        unit="box",
        facts={"source": options.path, "ahead": ahead},
        vectors=True,
        real=True,
        tell=lambda inputs: (
            f"track of {len(inputs)} boxes; at the last, what constant velocity misses"
        ),
        more=judge_ahead(tuple(spread.tolist())),
    )
    source = sequences.Source(
        train=train,
        valid=sequences.chunks(len(held), config.eval.chunk, part),
        last={},
        example=example,
        facts=lambda: {
            "sha256": found.sha256,
            "split": f"by sequence: {options.held}" if options.held else "by track",
            "train_tracks": len(found.train),
            "valid_tracks": len(found.valid),
            "train_boxes": int(ends[-1]),
            "valid_boxes": sum(piece.steps for piece in held),
            "staying_iou": round(judged(lambda boxes: boxes)[1], 4),
            "last_velocity_iou": round(judged(lambda boxes: velocity(boxes, 1, ahead))[1], 4),
            "constant_velocity_iou": round(steady[1], 4),
        },
    )
    return sequences.make_task(config, problem, source, draw=pictures)
