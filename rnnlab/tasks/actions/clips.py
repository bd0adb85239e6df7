"""A folder of clips for each class, as UCF101 has it: videos, or joints and sensors as numbers.

Lists of clips are in UCF101's format (Soomro et al. 2012). Every fault of a file is a UsageError that
names it.
"""

import csv
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.data import archives, cache, media
from rnnlab.errors import UsageError

VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg")


class Clips(NamedTuple):
    """The clips of a folder."""

    # of each: uint8 [T, side, side, 3], or float32 [T, D]; T <= the window
    steps: tuple[np.ndarray, ...]
    labels: np.ndarray  # int [N], places in `classes`
    splits: dict[str, np.ndarray]  # train, valid and test: which clips
    classes: tuple[str, ...]
    left_out: int  # clips that the lists do not name
    sha256: str  # of the names, the contents and the splits

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step: (side, side, 3) or (D,)."""
        return self.steps[0].shape[1:]


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
            found = archives.array(file)
        else:
            lines = [*csv.reader(file.read_text("utf-8-sig").split("\n"))]
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
        if not cells:
            continue
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
