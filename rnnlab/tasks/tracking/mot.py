"""Boxes of several objects over time: the files of the MOT challenges.

A file has a line for each box, `frame,id,left,top,width,height,conf,...`, in pixels (Leal-Taixe et al.
2015, "MOTChallenge 2015"); frames count from 1. A folder of sequences has NAME/gt.txt or
NAME/gt/gt.txt, and beside it NAME/seqinfo.ini where there is one.
"""

import configparser
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.data import folders, textfile
from rnnlab.errors import UsageError


class Boxes(NamedTuple):
    """The N boxes of a file, by frame and then by id."""

    name: str
    frames: np.ndarray  # int [N], from 1 on
    ids: np.ndarray  # int [N]
    boxes: np.ndarray  # float [N, 4]: (cx, cy, w, h), in pixels


def read(
    path: Path,
    *,
    name: str,
    size: tuple[int, int] | None,
    truth: bool,
    encoding: str | None = None,
) -> Boxes:
    """The boxes of a file. size: (width, height) of the pictures, if it is known. truth: lines with a
    conf of 0 are left out, which the ground truth has for what is not to be judged. encoding: see
    `textfile.checked`.

    Raises UsageError, with the line, for what is no box: too few fields or no numbers, a frame below 1
    or no whole number, a width or height that is not positive, a box wholly outside the picture, an id
    that comes twice in a frame or whose frames do not ascend.
    """
    lines = textfile.read(path, encoding).splitlines()
    found: list[tuple[float, ...]] = []
    last: dict[int, tuple[int, int]] = {}  # id -> (frame, line)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _numbers(line, where)
        frame, which = int(row[0]), int(row[1])
        left, top, width, height = row[2:6]
        if width <= 0 or height <= 0:
            raise UsageError(f"{where}: the box is {width:g} x {height:g}, and must have a size")
        if size is not None and not (
            left < size[0] and top < size[1] and left + width > 0 and top + height > 0
        ):
            raise UsageError(
                f"{where}: the box ({left:g}, {top:g}, {width:g}, {height:g}) lies outside the picture "
                f"of {size[0]} x {size[1]}"
            )
        if which in last and last[which][0] >= frame:
            before, at = last[which]
            how = "twice in" if before == frame else f"after frame {before} in"
            raise UsageError(f"{where}: id {which} comes {how} frame {frame}; see line {at}")
        last[which] = frame, number
        if not (truth and row[6] == 0):
            found.append((frame, which, left + width / 2, top + height / 2, width, height))
    if not found:
        raise UsageError(f"{path} has no boxes")
    array = np.array(found)
    array = array[np.lexsort((array[:, 1], array[:, 0]))]
    return Boxes(name, array[:, 0].astype(int), array[:, 1].astype(int), array[:, 2:])


def _numbers(line: str, where: str) -> list[float]:
    """At least seven, the first two whole."""
    fields = line.split(",")
    try:
        row = [float(field) for field in fields]
    except ValueError:
        raise UsageError(f"{where} is not all numbers: {line[:60]}") from None
    if len(row) < 7:
        raise UsageError(
            f"{where} has {len(row)} fields: frame,id,left,top,width,height,conf are seven at least"
        )
    if not all(map(math.isfinite, row)):
        raise UsageError(f"{where} has a number that is not finite")
    if any(n != int(n) or abs(n) >= 2**31 for n in row[:2]) or row[0] < 1:
        raise UsageError(
            f"{where}: frame {row[0]:g} and id {row[1]:g} must be whole numbers, and frames count from 1"
        )
    return row


def size_of(path: Path, encoding: str | None = None) -> tuple[int, int] | None:
    """(width, height) that a seqinfo.ini has, None without one. Raises UsageError for one that does
    not say it."""
    if not path.exists():
        return None
    parser = configparser.ConfigParser()
    try:
        parser.read_string(textfile.read(path, encoding), source=str(path))
        return parser.getint("Sequence", "imWidth"), parser.getint("Sequence", "imHeight")
    except (ValueError, configparser.Error) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{path} does not say imWidth and imHeight in [Sequence]: {reason}"
        ) from None


def sequences(folder: Path, encoding: str | None = None) -> tuple[Boxes, ...]:
    """The ground truth of all sequences of a folder, by name. Raises UsageError where there is none,
    for a sequence that is there by two names, and for files that `read` refuses."""
    if not folder.is_dir():
        raise UsageError(f"data.path {folder} is no folder: name one with NAME/gt.txt in it")
    found = []
    inside = [path for path in folders.children(folder) if path.is_dir()]
    folders.one_name_each(inside)
    for one in inside:
        for file in (one / "gt.txt", one / "gt" / "gt.txt"):
            if file.exists():
                size = size_of(one / "seqinfo.ini", encoding)
                found.append(read(file, name=one.name, size=size, truth=True, encoding=encoding))
                break
    if not found:
        raise UsageError(f"data.path {folder} has no NAME/gt.txt, nor NAME/gt/gt.txt")
    return tuple(found)


class Track(NamedTuple):
    """An object while it is there in T successive frames."""

    sequence: str
    id: int
    first: int  # frame
    boxes: np.ndarray  # float [T, 4]


def tracks(found: Boxes) -> list[Track]:
    """The tracks of a sequence, by id and frame. Where an object was away it is another track."""
    made = []
    for which in np.unique(found.ids):
        places = np.flatnonzero(found.ids == which)
        frames = found.frames[places]
        for part in np.split(np.arange(len(places)), np.flatnonzero(np.diff(frames) > 1) + 1):
            boxes = found.boxes[places[part]]
            made.append(Track(found.name, int(which), int(frames[part[0]]), boxes))
    return made
