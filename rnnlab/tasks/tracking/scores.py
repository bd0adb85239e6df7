"""How well a tracker does: MOTA and IDF1 of its boxes against the true ones, both files of the MOT format."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from rnnlab.tasks.metrics.boxes import iou
from rnnlab.tasks.tracking import mot

LEAST = 0.5  # the IoU from which on a box counts as found, in both MOTA and IDF1


class Clear(NamedTuple):
    """What CLEAR MOT counts (Bernardin and Stiefelhagen 2008); of several sequences, add it up."""

    boxes: int  # of the ground truth
    misses: int
    false_positives: int
    switches: int  # of identity
    overlap: float  # the IoU of what was found, summed

    @property
    def mota(self) -> float:
        """Multiple object tracking accuracy, 1 at best and without lower bound (equation 2)."""
        return 1 - (self.misses + self.false_positives + self.switches) / self.boxes

    @property
    def motp(self) -> float:
        """The mean IoU of what was found; nan where nothing was."""
        matches = self.boxes - self.misses
        return self.overlap / matches if matches else math.nan


class Identity(NamedTuple):
    """What IDF1 counts (Ristani et al. 2016); of several sequences, add it up."""

    true: int  # boxes found under their identity, IDTP
    boxes: int  # of the ground truth
    found: int  # of the tracker

    @property
    def idf1(self) -> float:
        """2 IDTP / (2 IDTP + IDFP + IDFN) (equation 11)."""
        return 2 * self.true / (self.boxes + self.found)


def _frames(truth: mot.Boxes, found: mot.Boxes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each frame (ids, the tracker's ids, IoU [ids, tracker's])."""
    made = []
    for frame in np.union1d(truth.frames, found.frames):
        a, b = truth.frames == frame, found.frames == frame
        made.append(
            (truth.ids[a], found.ids[b], iou(truth.boxes[a][:, None], found.boxes[b][None]))
        )
    return made


def count_clear(truth: mot.Boxes, found: mot.Boxes, *, least: float) -> Clear:
    """CLEAR MOT of a tracker's boxes. What matched before goes on to match while its IoU is at least
    `least`; the others are assigned by the highest sum of IoU, of as many as can be. A switch: an
    object is found under another id than the last time, however long ago that was."""
    misses = false_positives = switches = 0
    overlap = 0.0
    last: dict[int, int] = {}  # id -> the tracker's
    for ids, theirs, values in _frames(truth, found):
        matched: list[tuple[int, int]] = []
        place = {int(which): column for column, which in enumerate(theirs)}
        for row, which in enumerate(ids):
            before = last.get(int(which))
            column = None if before is None else place.get(before)
            if column is None or values[row, column] < least:
                continue
            # Two objects may have had this id, at different times: the first keeps it.
            if all(column != other for _, other in matched):
                matched.append((row, column))
        rows = [row for row in range(len(ids)) if all(row != r for r, _ in matched)]
        columns = [c for c in range(len(theirs)) if all(c != other for _, other in matched)]
        rest = values[np.ix_(rows, columns)]
        good = rest >= least
        for r, c in zip(*linear_sum_assignment(-np.where(good, 1e3 + rest, 0.0)), strict=True):
            if good[r, c]:
                matched.append((rows[r], columns[c]))
        for row, column in matched:
            which, their = int(ids[row]), int(theirs[column])
            switches += last.get(which, their) != their
            last[which] = their
            overlap += float(values[row, column])
        misses += len(ids) - len(matched)
        false_positives += len(theirs) - len(matched)
    return Clear(len(truth.ids), misses, false_positives, switches, overlap)


def count_identity(truth: mot.Boxes, found: mot.Boxes, *, least: float) -> Identity:
    """IDF1 of a tracker's boxes: each object has at most one of the tracker's ids over all frames, and
    these are assigned so that as many boxes as can be have an IoU of at least `least`."""
    ours, theirs = np.unique(truth.ids), np.unique(found.ids)
    common = np.zeros((len(ours), len(theirs)))
    for ids, other, values in _frames(truth, found):
        common[np.ix_(np.searchsorted(ours, ids), np.searchsorted(theirs, other))] += (
            values >= least
        )
    best = linear_sum_assignment(-common)
    return Identity(int(common[best].sum()), len(truth.ids), len(found.ids))


def score(truth: Path, answers: Path) -> dict[str, float]:
    """MOTA, IDF1, MOTP and what they count of one sequence. truth: its gt.txt; answers: a tracker's boxes
    in the same format.

    Raises UsageError for a file that `mot.read` refuses.
    """
    for folder in (truth.parent, truth.parent.parent):
        if size := mot.size_of(folder / "seqinfo.ini"):
            break
    else:
        size = None
    true = mot.read(truth, name=truth.stem, size=size, truth=True)
    found = mot.read(answers, name=answers.stem, size=None, truth=False)
    clear = count_clear(true, found, least=LEAST)
    return {
        "mota": clear.mota,
        "idf1": count_identity(true, found, least=LEAST).idf1,
        "motp": clear.motp,
        "boxes": clear.boxes,
        "misses": clear.misses,
        "false_positives": clear.false_positives,
        "identity_switches": clear.switches,
    }
