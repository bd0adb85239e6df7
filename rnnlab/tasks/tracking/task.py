"""The task tracking; see the package's docstring for what it is. Here are the drawn videos, "crossings"."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rnnlab.data import draws, sprites
from rnnlab.errors import UsageError
from rnnlab.models import encoders
from rnnlab.tasks.kinds import sequences
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.tasks.metrics.boxes import iou
from rnnlab.tasks.tracking import crossings, figure, tracks
from rnnlab.types import About, Array, Config, Task

ABOUT = About(
    mapping="many-to-many in step",
    data="drawn: two objects that cross and hide; a folder of MOT ground truth",
    metric="mean IoU of the boxes, over all frames and the hidden ones",
    experiment="tracking",
)
READS = Reads(lambda config: {"data.path": ("gt.txt", "seqinfo.ini")})
HIDDEN, COVERED = 0.5, 0.1  # at most so much of the target can be seen


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
        return tracks.make_task(config, kept)
    raise UsageError(f"data.name must be crossings or mot, got '{config.data.name}'")


@functools.cache
def mean_box(time: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, spread) [4] of the boxes of 2,000 videos of `time` frames."""
    boxes = crossings.draw(draws.Random(0, draws.OWN), 2000, time, 8).boxes  # for any side
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
        return iou(*boxes)

    return measure


def baselines(found: crossings.Crossings, less: float) -> dict[str, float]:
    """Mean IoU, over the steps in which less than `less` of the target can be seen, of who knows the
    true box whenever more can: the mean box, the last seen, and constant velocity."""
    seen = found.seen >= less
    said = {
        "mean_box": np.broadcast_to(mean_box(len(seen))[0], found.boxes.shape),
        "last_seen": crossings.extrapolate(found.boxes, seen, velocity=False),
        "constant_velocity": crossings.extrapolate(found.boxes, seen, velocity=True),
    }
    return {name: float(iou(boxes, found.boxes)[~seen].mean()) for name, boxes in said.items()}


@dataclass(frozen=True, eq=False)
class Videos:
    """The drawn videos of a config, and the units in which their boxes are asked for."""

    seed: int
    side: int  # pixels
    time: int  # frames
    mean: np.ndarray  # [4], of a box,
    spread: np.ndarray  # [4], and the unit of its coordinates

    def draw(self, random: draws.Random, lengths: np.ndarray, time: int) -> sequences.Drawn:
        """See `sequences.Problem`: frames [T, B, side, side, 2], and the box at every step."""
        found = crossings.draw(random, len(lengths), time, self.side)
        there = np.ones((time, len(lengths)), bool)
        return sequences.Drawn(found.frames, (found.boxes - self.mean) / self.spread, there)

    def of_test(self, number: int, rows: int) -> crossings.Crossings:
        """The videos of batch `number` of the test."""
        random = draws.Random(self.seed, draws.TEST, number)
        return crossings.draw(random, rows, self.time, self.side)

    def test(self, less: float, number: int, rows: int) -> sequences.Batch:
        """The same as a batch, whose answers count where less than `less` of the target can be seen."""
        found = self.of_test(number, rows)
        boxes = ((found.boxes - self.mean) / self.spread).astype(np.float32)
        return {"inputs": found.frames, "targets": boxes, "weights": found.seen < less}

    def facts(self, rows: int) -> dict[str, Any]:
        """What the baselines reach on `rows` videos of the test."""
        found = self.of_test(0, rows)
        return {
            f"{name}_{kind}": round(value, 4)
            for kind, less in (("hidden_iou", HIDDEN), ("covered_iou", COVERED))
            for name, value in baselines(found, less).items()
        }

    def pictures(
        self, answers: Callable[[sequences.Batch], np.ndarray], folder: Path
    ) -> list[Path]:
        """See `sequences.make_task`."""
        rows = 6  # of which the GIF shows all, and the strip the one that hides longest
        found = self.of_test(0, rows)
        ones = np.ones((self.time, rows), bool)
        said = answers({"inputs": found.frames, "targets": found.boxes, "weights": ones})
        videos = figure.Tracking(
            frames=found.frames[..., 0],
            true=found.boxes,
            said=said * self.spread + self.mean,
            hidden=found.seen < HIDDEN,
        )
        return figure.tracking(videos, folder, milliseconds=200, shown=8)


def _both_ends(batch: sequences.Batch) -> sequences.Batch:
    """A batch of one video, of which the first and the last box are shown."""
    ends = np.flatnonzero(batch["weights"][:, 0])[[0, -1]]
    return {**batch, "weights": np.isin(np.arange(len(batch["weights"])), ends)[:, None]}


def _crossings(config: Config) -> Task:
    side, window, options = config.data.size, config.train.window, config.eval
    if not 16 <= side <= sprites.LARGEST:
        raise UsageError(
            f"data.size must be at least 16 pixels and at most {sprites.LARGEST}, got {side}"
        )
    videos = Videos(config.seed, side, window, *mean_box(window))
    encoder = encoders.conv(
        shape=(side, side, 2),
        channels=tuple(config.encoder.channels),
        features=config.encoder.features,
        precision=config.model.precision,
    )
    units = tuple(videos.mean.tolist()), tuple(videos.spread.tolist())
    problem = sequences.Problem(
        inputs=side * side * 2,
        outputs=4,
        draw=videos.draw,
        baseline=("always the mean box", 1.0),
        unit="frame",
        facts={"source": "videos, drawn", "size": side},
        vectors=True,
        real=True,
        least=8,  # by then nearly every target has been hidden
        tell=lambda frames: (
            f"video of {len(frames)} frames; first and last box, in units of the loss"
        ),
        more=(("iou", iou_of(*units)),),
    )
    drawn = sequences.drawn(config, problem)
    last: dict[str, Any] = {
        name: (
            "iou",
            sequences.chunks(
                options.sequences, options.chunk, functools.partial(videos.test, less)
            ),
        )
        for name, less in (
            ("test_iou", math.inf),
            ("hidden_iou", HIDDEN),
            ("covered_iou", COVERED),
        )
    }
    longer = {f"iou_at_{n}": drawn.last[f"error_at_{n}"][1] for n in options.lengths}
    last |= {name: ("iou", batches) for name, batches in longer.items()}
    source = drawn._replace(
        last=last,
        example=lambda step: _both_ends(drawn.example(step)),
        facts=lambda: videos.facts(min(options.sequences, 250)),
    )
    return sequences.make_task(config, problem, source, encoder, videos.pictures)
