"""The source "mot": how the box of a track will have changed some frames on, from how it has changed.

There are no pictures. What is learned is the difference from constant velocity, in units of its spread
in training; see the package's docstring.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rnnlab.data import draws, scaling
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.metrics import tokens
from rnnlab.tasks.metrics.boxes import iou
from rnnlab.tasks.tracking import figure, mot
from rnnlab.types import Array, Config, Task

FEATURES = 9  # of a box in a track: its change, where it will be, and 1 where nothing came before
RECENT = 5  # frames whose mean change is the velocity


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
        return iou(box(outputs, targets), box(targets[..., :4], targets))

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

    def boxes(self, ahead: int) -> tuple[np.ndarray, np.ndarray]:
        """(the boxes [steps, 4], those `ahead` frames on [steps, 4])."""
        now, later = (self.track.boxes[i : i + self.steps] for i in (self.at, self.at + ahead))
        return now, later


class Split(NamedTuple):
    """The tracks of a folder."""

    train: list[mot.Track]
    valid: list[mot.Track]
    sha256: str  # of all boxes


def split(folder: str, held: str, valid: float, ahead: int, encoding: str | None = None) -> Split:
    """The tracks that have more than `ahead` boxes, in two parts. held: names of sequences with commas
    between them; "" for a share `valid` of the tracks, at least one, the same for all seeds. encoding: of
    the files.

    Raises UsageError where one of the parts is empty or a sequence is not there.
    """
    found = mot.sequences(Path(folder).expanduser(), encoding)
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


@dataclass(frozen=True, eq=False)
class Ahead:
    """What is asked of the tracks of a folder: the change of each box `ahead` frames on."""

    found: Split
    window: int  # T, steps of a batch
    ahead: int
    spread: np.ndarray  # [4], of what constant velocity misses in training: the unit of the answers
    unit: np.ndarray  # [4], of the changes from frame to frame: of the inputs 0 to 3
    far: np.ndarray  # [4], of the changes that constant velocity expects: of the inputs 4 to 7
    held: list[Piece]  # the tracks of validation

    def batch(self, pieces: list[Piece]) -> sequences.Batch:
        """inputs float32 [T, B, FEATURES]; targets float32 [T, B, 8]: what is to be learned, and the
        change that constant velocity expects, to which it is added."""
        rows = len(pieces)
        inputs = np.zeros((self.window, rows, FEATURES), np.float32)
        targets = np.zeros((self.window, rows, 8), np.float32)
        lengths = np.array([piece.steps for piece in pieces], np.int32)
        for row, piece in enumerate(pieces):
            count = piece.steps
            now, later = piece.boxes(self.ahead)
            guess = expected(now, self.ahead)
            inputs[1:count, row, :4] = change(now[:-1], now[1:]) / self.unit
            inputs[:count, row, 4:8] = guess / self.far
            inputs[0, row, 8] = 1.0
            targets[:count, row, :4] = (change(now, later) - guess) / self.spread
            targets[:count, row, 4:] = guess
        there = np.arange(self.window)[:, None] < lengths
        return {"inputs": inputs, "targets": targets, "weights": there, "lengths": lengths}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int [tracks]: the boxes of each track of training that have one `ahead` frames on."""
        return np.array([len(track.boxes) - self.ahead for track in self.found.train])

    def train(self, seed: int, rows: int, step: int) -> sequences.Batch:
        """Pieces of tracks of training, each box of a track as probable as any other's; half of them
        mirrored. A pure function."""
        random, ends = draws.Random(seed, draws.TRAIN, step), np.cumsum(self.lengths)
        tracks = np.searchsorted(ends, random.integers(0, ends[-1], (rows,)), side="right")
        spare = np.maximum(self.lengths[tracks] - self.window, 0)
        starts = random.integers(0, spare + 1, (rows,))
        sign = 2 * random.integers(0, 2, (rows, 1)).astype(np.float32) - 1
        pieces = [
            Piece(self.found.train[track], int(start), int(min(self.window, self.lengths[track])))
            for track, start in zip(tracks, starts, strict=True)
        ]
        made = self.batch(pieces)
        for key in ("inputs", "targets"):  # x is the first of four in each
            made[key][..., [0, 4]] *= sign
        return made

    def valid(self, numbers: np.ndarray) -> sequences.Batch:
        """The batch of these pieces of validation."""
        return self.batch([self.held[number] for number in numbers])

    def example(self, seed: int, step: int) -> sequences.Batch:
        """A piece of validation, of which the last step has an answer."""
        place = int(draws.Random(seed, draws.SHOW, step).integers(0, len(self.held), (1,))[0])
        shown = self.batch([self.held[place]])
        return {**shown, "weights": np.arange(self.window)[:, None] == shown["lengths"] - 1}

    def judged(self, say: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """(loss, IoU) over the steps of validation of who says `say`: boxes [T, 4] -> those ahead."""
        errors, overlaps = [], []
        for piece in self.held:
            now, later = piece.boxes(self.ahead)
            guess = say(now)
            errors.append((((change(now, guess) - change(now, later)) / self.spread) ** 2).mean(1))
            overlaps.append(iou(guess, later))
        return float(np.concatenate(errors).mean()), float(np.concatenate(overlaps).mean())

    def draw(self, answers: Callable[[sequences.Batch], np.ndarray], folder: Path) -> list[Path]:
        """The pictures of the longest piece of validation; see `sequences.make_task`."""
        longest = max(self.held, key=lambda piece: piece.steps)
        now, true = longest.boxes(self.ahead)
        answer = answers(self.batch([longest]))[: longest.steps, 0]
        said = changed(now, answer * self.spread + expected(now, self.ahead))
        seen = np.concatenate([now, true])
        low = (seen[:, :2] - seen[:, 2:]).min(0)
        scale = (seen[:, :2] + seen[:, 2:] - low).max()
        shown = [
            (np.concatenate([b[:, :2] - low, b[:, 2:]], -1) / scale)[:, None] for b in (true, said)
        ]
        canvas = np.full((len(true), 1, 48, 48), 40, np.uint8)
        hidden = np.zeros((len(true), 1), bool)
        videos = figure.Tracking(frames=canvas, true=shown[0], said=shown[1], hidden=hidden)
        return figure.tracking(videos, folder, milliseconds=120, shown=8)


def expected(boxes: np.ndarray, ahead: int) -> np.ndarray:
    """The change [T, 4] that constant velocity expects of boxes [T, 4] until `ahead` frames on."""
    return change(boxes, velocity(boxes, RECENT, ahead))


def _spread(values: list[np.ndarray]) -> np.ndarray:
    """[4]: the root mean square of each column of all; 1 for a column of zeros."""
    return scaling.root_mean_square(np.concatenate(values))


def asked(found: Split, window: int, ahead: int) -> Ahead:
    """What is asked of these tracks, in units of training."""
    pairs = [(track.boxes[:-ahead], track.boxes[ahead:]) for track in found.train]
    return Ahead(
        found,
        window,
        ahead,
        spread=_spread([change(now, later) - expected(now, ahead) for now, later in pairs]),
        unit=_spread([change(track.boxes[:-1], track.boxes[1:]) for track in found.train]),
        far=_spread([expected(now, ahead) for now, _ in pairs]),
        held=[
            Piece(track, at, min(window, len(track.boxes) - ahead - at))
            for track in found.valid
            for at in range(0, len(track.boxes) - ahead, window)
        ],
    )


def make_task(config: Config, kept: Path | None) -> Task:
    """The task of the tracks in data.path. Raises UsageError for options or files that do not fit."""
    options, rows = config.data, config.train.batch_size
    if not options.path:
        raise UsageError("data.name=mot needs a folder of sequences: set data.path")
    if options.ahead < 1:
        raise UsageError(f"data.ahead must be at least 1, got {options.ahead}")
    with reading(options.path):
        found = split(
            options.path, options.held, options.valid, options.ahead, options.get("encoding")
        )
    unchanged(kept, "boxes", options.path, found.sha256)
    question = asked(found, config.train.window, options.ahead)
    steady = question.judged(lambda boxes: velocity(boxes, RECENT, options.ahead))
    problem = sequences.Problem(
        inputs=FEATURES,
        outputs=4,
        draw=None,
        baseline=(f"constant velocity of {RECENT} frames", steady[0]),
        unit="box",
        facts={"source": options.path, "ahead": options.ahead},
        vectors=True,
        real=True,
        tell=lambda inputs: (
            f"track of {len(inputs)} boxes; at the last, what constant velocity misses"
        ),
        more=judge_ahead(tuple(question.spread.tolist())),
    )
    pieces = np.arange(len(question.held))
    source = sequences.Source(
        train=functools.partial(question.train, config.seed, rows),
        valid=sequences.in_order(pieces, config.eval.chunk, question.valid),
        last={},
        example=functools.partial(question.example, config.seed),
        facts=lambda: {**_facts(config, question), "constant_velocity_iou": round(steady[1], 4)},
    )
    return sequences.make_task(config, problem, source, draw=question.draw)


def _facts(config: Config, question: Ahead) -> dict[str, Any]:
    """For run.json: the split, and the IoU of the box that stays and of the last change alone."""
    held, ahead = config.data.held, question.ahead
    return {
        "sha256": question.found.sha256,
        "split": f"by sequence: {held}" if held else "by track",
        "train_tracks": len(question.found.train),
        "valid_tracks": len(question.found.valid),
        "train_boxes": int(question.lengths.sum()),
        "valid_boxes": sum(piece.steps for piece in question.held),
        "staying_iou": round(question.judged(lambda boxes: boxes)[1], 4),
        "last_velocity_iou": round(question.judged(lambda b: velocity(b, 1, ahead))[1], 4),
    }
