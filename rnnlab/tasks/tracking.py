"""Tracking: where is it now? A box for every frame of a video, or for the next frame of a track.

Built in: two digits or shapes that cross each other and pass behind a bar
(`rnnlab.moving.crossings`). One of them, marked in the first frame, is to be followed; the answer at
each frame is its box (cx, cy, w, h) in shares of the side, also where it is hidden. The loss is the mean
squared error of the four numbers, the field's measure the overlap of the boxes (IoU), at the end also
over those frames alone in which less than a tenth of the target shows. For these, run.json has what
two rules reach that are told the true box wherever it shows: the last one stays, or moves on as it did.

Real data: data.path is a folder with a folder for each sequence, which has gt.txt or gt/gt.txt in the
format of the MOT challenge. Of each track, a step is how the box has moved since the frame before, and
the answer how it will move: of the centre in widths and heights, of these the logarithm (Girshick et
al. 2014, appendix C), times SCALE. Tracks are cut into pieces of train.window steps. The last sequence
by name is the test, and of the others every fourth track is held out for validation. Constant velocity,
the rule to beat, says that the box moves as it did. Sequences are developed on, and no tracker is made
of this: `rnnlab.mot.judged` has MOTA and IDF1 of one that is.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnlab import draws, encoders, mot, moving, runfolder, sequences, task_figures
from rnnlab.types import About, Array, Config, Task, UsageError

ABOUT = About(
    mapping="many-to-many in step",
    data="drawn: objects that cross and hide; ground truth in the format of the MOT challenge",
    metric="IoU, against constant velocity",
    experiment="tracking",
)
HIDDEN = 0.1  # the share of a target below which it counts as hidden
SCALE = 20.0  # of moves, so that they are about 1


def iou(outputs: Array, targets: Array) -> Array:
    """Of boxes (cx, cy, w, h), [T, B, 4] each: intersection over union; of a box of negative size 0."""
    size = jnp.maximum(outputs[..., 2:], 0.0)
    low = jnp.maximum(outputs[..., :2] - size / 2, targets[..., :2] - targets[..., 2:] / 2)
    high = jnp.minimum(outputs[..., :2] + size / 2, targets[..., :2] + targets[..., 2:] / 2)
    shared = jnp.maximum(high - low, 0.0).prod(-1)
    union = size.prod(-1) + targets[..., 2:].prod(-1) - shared
    return shared / jnp.where(union > 0, union, 1.0)


def moved_iou(outputs: Array, targets: Array) -> Array:
    """The same of boxes that have moved so from one box, as `moves` has it."""
    return iou(_after(outputs), _after(targets))


def _after(moves: Array) -> Array:
    """The box that the box (0, 0, 1, 1) becomes."""
    moves = moves / SCALE
    return jnp.concatenate([moves[..., :2], jnp.exp(jnp.clip(moves[..., 2:], -5, 5))], axis=-1)


def moves(boxes: np.ndarray) -> np.ndarray:
    """Of boxes (x, y, w, h) [T, 4] how each became the next one, float64 [T - 1, 4]."""
    centre, size = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
    step = (centre[1:] - centre[:-1]) / size[:-1]
    return SCALE * np.concatenate([step, np.log(size[1:] / size[:-1])], axis=-1)


def make(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the boxes must be those of that run.

    Raises UsageError for options that do not fit, or boxes that are missing or damaged.
    """
    chosen = sequences.options(config, path="", side=20, stack=2)
    if config.data.shortest:
        raise UsageError("all videos are train.window frames long: leave data.shortest at 0")
    if chosen["path"]:
        return _of_boxes(config, chosen["path"], kept)
    side, stack = chosen["side"], chosen["stack"]
    if side < 12 or stack < 1:
        raise UsageError(f"data.side must be 12 or more and data.stack 1 or more: {side}, {stack}")

    def drawn(hidden: bool) -> Callable[..., sequences.Drawn]:
        def draw(random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
            found = moving.crossings(random, len(lengths), time, side)
            asked = found.seen < HIDDEN if hidden else np.ones(found.seen.shape, bool)
            return sequences.Drawn(moving.stacked(found.frames, stack), found.boxes, asked)

        return draw

    problem = sequences.Problem(
        inputs=1,
        outputs=4,
        vectors=True,
        real=True,
        draw=drawn(hidden=False),
        baseline=("always the mean box", spread(side, config.train.window)),
        unit="frame",
        facts={"side": side, "stack": stack},
        least=2,
        tell=lambda frames: f"video of {len(frames)} frames; boxes cx, cy, w, h",
        more=(("iou", iou),),
    )
    source = sequences.drawn(config, problem)
    unseen = sequences.drawn(config, problem._replace(draw=drawn(hidden=True)))
    assert source.test is not None
    assert unseen.test is not None
    last = {"test_iou": ("iou", source.test), "hidden_iou": ("iou", unseen.test)}
    source = source._replace(
        last={**source.last, **last},
        facts=lambda: rules(config.seed, side, config.train.window, config.eval.sequences),
    )
    encoder = encoders.conv(
        shape=(side, side, 2 * stack),
        channels=tuple(config.encoder.channels),
        features=config.encoder.features,
        precision=config.model.precision,
    )

    def draw(answers: Callable[[sequences.Batch], np.ndarray], folder: Path) -> list[Path]:
        assert source.test is not None
        batch = next(iter(source.test()))
        pictures = batch["inputs"][:, :3, ..., 0]  # the newest frame's picture
        return task_figures.tracks(pictures, batch["targets"][:, :3], answers(batch)[:, :3], folder)

    return sequences.make(config, problem, source, encoder, draw)


@functools.lru_cache(maxsize=4)
def spread(side: int, time: int) -> float:
    """The squared error of whoever always says the mean box, over 2,000 videos."""
    boxes = moving.crossings(draws.Random(0, draws.PIXELS), 2000, time, side).boxes
    return float(boxes.reshape(-1, 4).var(0).mean())


def rules(seed: int, side: int, time: int, count: int) -> dict[str, Any]:
    """The IoU on hidden frames of two rules that are told each box that shows: see above."""
    found = moving.crossings(draws.Random(seed, draws.LONGER), count, time, side)
    hidden = found.seen < HIDDEN
    result: dict[str, Any] = {"hidden_frames": round(float(hidden.mean()), 4)}
    for name, velocity in (("last_seen", False), ("constant_velocity", True)):
        said = moving.carried(found.boxes, ~hidden, velocity=velocity)
        values = np.asarray(iou(jnp.asarray(said), jnp.asarray(found.boxes)))
        result[f"hidden_iou_{name}"] = round(float(values[hidden].mean()), 4)
    return result


# ---- boxes of the MOT challenge


@functools.lru_cache(maxsize=2)
def load(folder: str) -> tuple[dict[str, mot.Tracks], str]:
    """(sequence -> its boxes, sha256 of all files). Raises UsageError for a folder without sequences
    or a damaged file, with the line."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UsageError(f"data.path {root} is no folder: it takes one with MOT sequences")
    found, digest = {}, hashlib.sha256()
    for one in sorted(p for p in root.iterdir() if p.is_dir()):
        path = next((p for p in (one / "gt.txt", one / "gt" / "gt.txt") if p.exists()), None)
        if path is not None:
            found[one.name] = mot.read(path, mot.size_of(one))
            digest.update(one.name.encode() + path.read_bytes())
    if len(found) < 2:
        raise UsageError(
            f"data.path {root} has {len(found)} folders with gt.txt or gt/gt.txt: it takes two or more, "
            "the last of which is the test"
        )
    return found, digest.hexdigest()


def _of_boxes(config: Config, folder: str, kept: Path | None) -> Task:
    tracks, sha256 = load(folder)
    if kept is not None:
        before = runfolder.read_json(kept / "run.json")["data"]["sha256"]
        if before != sha256:
            raise UsageError(
                f"the boxes of this run have changed since it began: {folder} has sha256 {sha256}, the "
                f"run has {before}"
            )
    window, rows = config.train.window, config.train.batch_size
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    *known, last = tracks
    for name in known:
        for number, run in enumerate(mot.runs(tracks[name], 3)):
            parts["valid" if number % 4 == 3 else "train"].append(moves(run))
    parts["test"] = [moves(run) for run in mot.runs(tracks[last], 3)]
    for part, there in parts.items():
        if not there:
            raise UsageError(f"the tracks of {folder} leave none of 3 frames or more for '{part}'")

    def cut(there: list[np.ndarray]) -> list[np.ndarray]:
        pieces = [run[i : i + window + 1] for run in there for i in range(0, len(run) - 1, window)]
        return [piece for piece in pieces if len(piece) > 1]

    pieces = {part: cut(there) for part, there in parts.items()}

    def batch(chosen: list[np.ndarray]) -> sequences.Batch:
        lengths = np.array([len(piece) - 1 for piece in chosen], np.int32)
        inputs, targets = (np.zeros((window, len(chosen), 4), np.float32) for _ in range(2))
        for column, piece in enumerate(chosen):
            inputs[: len(piece) - 1, column] = piece[:-1]
            targets[: len(piece) - 1, column] = piece[1:]
        there = np.arange(window)[:, None] < lengths
        return {"inputs": inputs, "targets": targets, "weights": there, "lengths": lengths}

    def train(step: int) -> sequences.Batch:
        random = draws.Random(config.seed, draws.TRAIN, step)
        runs = [parts["train"][i] for i in random.integers(0, len(parts["train"]), (rows,))]
        room = np.array([max(len(run) - window - 1, 0) + 1 for run in runs])
        starts = random.integers(np.zeros(rows, int), room, (rows,))
        return batch([run[s : s + window + 1] for run, s in zip(runs, starts, strict=True)])

    def in_order(part: str) -> Callable[[], Iterable[sequences.Batch]]:
        there = pieces[part]

        def some(number: int, size: int) -> sequences.Batch:
            places = np.minimum(number * size + np.arange(size), len(there) - 1)
            return batch([there[place] for place in places])

        return sequences.chunks(len(there), config.eval.chunk, some)

    def example(step: int) -> sequences.Batch:
        number = draws.Random(config.seed, draws.SHOW, step).integers(0, len(pieces["valid"]), (1,))
        return batch([pieces["valid"][int(number[0])]])

    def facts() -> dict[str, Any]:
        counts = {f"{part}_tracks": len(there) for part, there in parts.items()}
        before = np.concatenate([run[:-1] for run in parts["test"]])[:, None]
        after = np.concatenate([run[1:] for run in parts["test"]])[:, None]
        same = np.asarray(moved_iou(jnp.asarray(before), jnp.asarray(after)))
        still = np.asarray(moved_iou(jnp.zeros_like(after), jnp.asarray(after)))
        return {
            "source": folder,
            "sha256": sha256,
            "test": last,
            **counts,
            "test_iou_constant_velocity": round(float(same.mean()), 4),
            "test_iou_standing_still": round(float(still.mean()), 4),
        }

    source = sequences.Source(
        train=train,
        valid=in_order("valid"),
        last={"test_iou": ("iou", in_order("test")), "test_loss": ("loss", in_order("test"))},
        example=example,
        facts=facts,
    )
    held = pieces["valid"]
    errors = np.concatenate([piece[1:] - piece[:-1] for piece in held])
    problem = sequences.Problem(
        inputs=4,
        outputs=4,
        vectors=True,
        real=True,
        draw=None,
        baseline=("constant velocity", float((errors**2).mean())),
        unit="frame",
        facts={"scale": SCALE},
        tell=lambda steps: f"track of {len(steps)} steps",
        more=(("iou", moved_iou),),
    )
    return sequences.make(config, problem, source)
