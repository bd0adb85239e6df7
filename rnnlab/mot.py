"""Boxes over time: the files of the MOT challenge, overlap, and how a tracker is judged.

A line of gt.txt or of a tracker's output is frame,id,x,y,w,h,... (MOTChallenge 2015: Leal-Taixe et al.):
frames from 1, (x, y) the top left corner, lengths in pixels.
"""

import configparser
import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from rnnlab.types import UsageError

MATCHED = 0.5  # the overlap from which two boxes are the same object


class Tracks(NamedTuple):
    """The boxes of a sequence, by frame and then by identity."""

    frames: np.ndarray  # int [N], from 1
    identities: np.ndarray  # int [N]
    boxes: np.ndarray  # float64 [N, 4], (x, y, w, h)


def size_of(folder: Path) -> tuple[int, int] | None:
    """(width, height) of the frames, as seqinfo.ini says; None without one. Raises UsageError for a
    damaged one."""
    path = folder / "seqinfo.ini"
    if not path.exists():
        return None
    try:
        parser = configparser.ConfigParser()
        parser.read_string(path.read_text(encoding="utf-8"))
        width, height = (int(parser["Sequence"][key]) for key in ("imWidth", "imHeight"))
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError, ValueError) as error:
        raise UsageError(f"{path} gives no imWidth and imHeight of a sequence: {error}") from None
    if min(width, height) < 1:
        raise UsageError(f"{path} gives frames of {width} x {height}")
    return width, height


def read(path: Path, frame: tuple[int, int] | None = None) -> Tracks:
    """The boxes of a file. frame: (width, height) of the pictures, where they are known.

    Raises UsageError, with the line, for what is no box, a box without area, one that lies wholly
    outside the frame, or an identity twice in a frame.
    """
    rows, seen = [], set()
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    for number, cells in enumerate(lines, start=1):
        if not cells:
            continue
        try:
            values = [float(cell) for cell in cells[:6]]
            if len(values) < 6 or not all(map(math.isfinite, values)):
                raise ValueError
            if values[0] != int(values[0]) or values[1] != int(values[1]) or values[0] < 1:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{path}:{number} is not frame,id,x,y,w,h: {','.join(cells)[:60]}"
            ) from None
        time, identity, (x, y, w, h) = int(values[0]), int(values[1]), values[2:]
        if min(w, h) <= 0:
            raise UsageError(f"{path}:{number} is a box of {w:g} x {h:g}: both must be above 0")
        if frame and (x >= frame[0] or y >= frame[1] or x + w <= 0 or y + h <= 0):
            raise UsageError(
                f"{path}:{number} is a box outside the frame of {frame[0]} x {frame[1]}: "
                f"{x:g},{y:g},{w:g},{h:g}"
            )
        if (time, identity) in seen:
            raise UsageError(f"{path}:{number} has identity {identity} again in frame {time}")
        seen.add((time, identity))
        rows.append((time, identity, x, y, w, h))
    if not rows:
        raise UsageError(f"{path} has no boxes")
    found = np.array(sorted(rows))
    return Tracks(found[:, 0].astype(int), found[:, 1].astype(int), found[:, 2:])


def runs(tracks: Tracks, least: int) -> list[np.ndarray]:
    """The boxes [T, 4] of each identity over successive frames, those of at least `least` frames."""
    found = []
    for identity in np.unique(tracks.identities):
        mine = tracks.identities == identity
        frames, boxes = tracks.frames[mine], tracks.boxes[mine]
        cuts = np.flatnonzero(np.diff(frames) != 1) + 1
        found += [run for run in np.split(boxes, cuts) if len(run) >= least]
    return found


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (x, y, w, h), [..., 4] each; they broadcast."""
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / (first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared)


class Verdict(NamedTuple):
    """How a tracker did; counts over all frames."""

    objects: int  # true boxes
    misses: int
    false_positives: int
    switches: int  # a true track whose match is another identity than its last one
    mota: float  # 1 - (misses + false positives + switches) / objects
    idf1: float  # 2 IDTP / (2 IDTP + IDFP + IDFN)


def judged(truth: Tracks, found: Tracks) -> Verdict:
    """CLEAR MOT (Bernardin and Stiefelhagen 2008) and IDF1 (Ristani et al. 2016).

    Frame by frame, a match of the frame before stays while it overlaps by MATCHED or more; the others
    are paired so that the most boxes match, and of these pairings with the largest overlap. IDF1 pairs
    whole tracks one to one, so that as many boxes as possible agree.
    """
    last: dict[int, int] = {}  # true identity -> the identity it was matched with last
    misses = false_positives = switches = 0
    for time in np.union1d(truth.frames, found.frames):
        true, said = (np.flatnonzero(tracks.frames == time) for tracks in (truth, found))
        shared = overlap(truth.boxes[true][:, None], found.boxes[said][None])
        fits = shared >= MATCHED
        pairs: list[tuple[int, int]] = []
        for row, number in enumerate(true):
            before = last.get(int(truth.identities[number]))
            for column in np.flatnonzero(found.identities[said] == before):
                # Two true tracks may have had the same identity, one after the other.
                if fits[row, column] and column not in {pair[1] for pair in pairs}:
                    pairs.append((row, int(column)))
        rows = [r for r in range(len(true)) if r not in {pair[0] for pair in pairs}]
        columns = [c for c in range(len(said)) if c not in {pair[1] for pair in pairs}]
        rest, gain = fits[np.ix_(rows, columns)], shared[np.ix_(rows, columns)]
        worth = np.where(rest, len(true) + gain, 0.0)
        for r, c in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if rest[r, c]:
                pairs.append((rows[r], columns[c]))
        for row, column in pairs:
            mine, its = int(truth.identities[true[row]]), int(found.identities[said[column]])
            switches += last.get(mine, its) != its
            last[mine] = its
        misses += len(true) - len(pairs)
        false_positives += len(said) - len(pairs)
    objects = len(truth.frames)
    return Verdict(
        objects,
        misses,
        false_positives,
        switches,
        1 - (misses + false_positives + switches) / objects,
        _idf1(truth, found),
    )


def _idf1(truth: Tracks, found: Tracks) -> float:
    mine, its = np.unique(truth.identities), np.unique(found.identities)
    agree = np.zeros((len(mine), len(its)))
    for time in np.intersect1d(truth.frames, found.frames):
        true, said = (np.flatnonzero(tracks.frames == time) for tracks in (truth, found))
        fits = overlap(truth.boxes[true][:, None], found.boxes[said][None]) >= MATCHED
        for row, column in zip(*np.nonzero(fits), strict=True):
            at = np.searchsorted(mine, truth.identities[true[row]])
            agree[at, np.searchsorted(its, found.identities[said[column]])] += 1
    right = agree[linear_sum_assignment(agree, maximize=True)].sum()
    return float(2 * right / (len(truth.frames) + len(found.frames)))
