"""A folder of clips for each class, as UCF101 has it: videos, or joints and sensors as numbers.

Lists of clips are in UCF101's format (Soomro et al. 2012). Every fault of a file is a UsageError that
names it.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.data import archives, folders, media, scaling, tables, textfile
from rnnlab.data.reading import reading
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


def _classes(folder: Path, encoding: str | None) -> dict[str, list[Path]]:
    """The files of each class, all of one kind; raises UsageError."""
    kinds = (*VIDEOS, ".npy", ".csv")
    inside = [path for path in folders.children(folder) if path.is_dir()]
    folders.one_name_each(inside)
    found: dict[str, list[Path]] = {}
    for one in inside:
        with reading(one):
            files = [one / name for name in folders.files(one)]
        found[one.name] = [file for file in files if file.suffix.lower() in kinds]
    why = ""
    if not found:
        try:
            found = _labelled(folder, encoding)
        except UsageError as error:
            why = f", and no labels: {error}"
    if len(found) < 2:
        raise UsageError(
            f"data.path {folder} needs a folder for each class, at least 2, and has {len(found)}{why}"
        )
    for name, files in found.items():
        if not files:
            raise UsageError(f"the class {folder / name} has no example ({', '.join(kinds)})")
    first = next(iter(found.values()))[0]
    for file in (file for files in found.values() for file in files):
        if _kind(file) != _kind(first):
            raise UsageError(
                f"{file} and {first} are of different kinds: have videos, .npy or .csv alone"
            )
    return found


def _labelled(folder: Path, encoding: str | None) -> dict[str, list[Path]]:
    """The .csv files of a folder without classes by the label that each has on all of its lines."""
    found: dict[str, list[Path]] = {}
    for file in folders.children(folder):
        if file.suffix.lower() == ".csv":
            label = _label(file, tables.read(file, encoding, labels=None, named=True))
            if not label:
                raise UsageError(
                    f"the last column of {file} has no words, nor is its heading 'label'"
                )
            found.setdefault(label, []).append(file)
    return dict(sorted(found.items()))


def _label(file: Path, table: tables.Table) -> str:
    """The label that all lines of a file have, "" if they have none; raises UsageError for two."""
    for label, line in zip(table.labels, table.lines, strict=bool(table.labels)):
        if label != table.labels[0]:
            raise UsageError(
                f"{file}:{line} has the label {label!r}, and the first line {table.labels[0]!r}: a file is "
                "one clip, of one class"
            )
    return table.labels[0] if table.labels else ""


def _kind(file: Path) -> str:
    return "video" if file.suffix.lower() in VIDEOS else file.suffix.lower()


def listed(path: str, known: dict[str, int], encoding: str | None = None) -> dict[int, int]:
    """Of a list in UCF101's format, "CLASS/NAME" and perhaps a label on each line: number of the clip
    -> number of the line. known: name -> number. encoding: see `textfile.checked`. Raises
    UsageError, with the line."""
    file = Path(path).expanduser()
    lines = textfile.lines(file, encoding)
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


def _bytes(name: str) -> bytes:
    """Of a file's name, which may be no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _held(numbers: Iterable[int], names: list[str], share: float, purpose: str) -> list[int]:
    """Of these clips the ones that are held out: of each class a share of the groups, at least one and
    never all, the first ones in the order of a hash of their names."""
    found: dict[str, dict[str, list[int]]] = {}
    for number in numbers:
        group = re.sub(r"(_g\d+)_c\d+$", r"\1", names[number].rpartition(".")[0])
        found.setdefault(group.partition("/")[0], {}).setdefault(group, []).append(number)
    held = []
    for groups in found.values():
        order = sorted(groups, key=lambda g: hashlib.sha256(_bytes(f"{purpose} {g}")).digest())
        count = min(max(1, round(share * len(order))), len(order) - 1)
        held += [number for group in order[:count] for number in groups[group]]
    return sorted(held)


def _split(
    names: list[str],
    lists: tuple[str, str],
    valid: float,
    test: float,
    encoding: str | None,
) -> dict[str, np.ndarray]:
    known = {name: number for number, name in enumerate(names)}
    if any(lists) and not all(lists):
        raise UsageError("data.trainlist and data.testlist are given together, or neither")
    for key, share in {"valid": valid, "test": test}.items():
        if not 0 < share < 1:
            raise UsageError(f"data.{key} is a share between 0 and 1, got {share}")
    if lists[0]:
        rest, last = (listed(path, known, encoding) for path in lists)
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


def _numbers(file: Path, name: str, encoding: str | None) -> np.ndarray:
    """[T, D] of a .npy or .csv file of the class `name`; raises UsageError."""
    with reading(file):
        if file.suffix.lower() == ".npy":
            found = archives.array(file)
        else:
            table = tables.read(file, encoding, labels=None, named=True)
            found, label = table.numbers, _label(file, table)
            if re.search(r"[^\W\d]", label) and _plain(label) != _plain(name):
                raise UsageError(
                    f"{file} has the label {label!r} in its last column, and lies in the folder of {name!r}"
                )
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
    return found


def _plain(label: str) -> str:
    return re.sub(r"[\W_]", "", label).casefold()


@functools.lru_cache(maxsize=2)
def read(
    path: str,
    lists: tuple[str, str],
    side: int,
    window: int,
    valid: float,
    test: float,
    encoding: str | None = None,
) -> Clips:
    """The clips of a folder; all that are used are in memory. lists: of training and testing, or "".
    encoding: of .csv files and lists.

    Raises UsageError, with the file, for what cannot be read or does not fit, and for a class that
    has no training example.
    """
    folder = Path(path).expanduser()
    found = _classes(folder, encoding)
    classes = tuple(found)
    files = [file for one in found.values() for file in one]
    names = [_name(file, folder, name) for name, one in found.items() for file in one]
    splits = _split(names, lists, valid, test, encoding)
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
        digest.update(_bytes(f"{names[number]}\n"))
        with reading(file), file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
        if _kind(file) == "video":
            clip = media.video(file, side)
        else:
            clip = _numbers(file, classes[labels[number]], encoding)
        if clip.shape[1:] != (steps[0].shape[1:] if steps else clip.shape[1:]):
            raise UsageError(
                f"{file} has {clip.shape[1]} numbers a step, and {files[used[0]]} has {steps[0].shape[1]}"
            )
        steps.append(clip[media.evenly(len(clip), window)])
    splits = {name: np.searchsorted(used, numbers) for name, numbers in splits.items()}
    for name, numbers in splits.items():
        digest.update(f"{name} {numbers.tolist()}\n".encode())
    if _kind(files[used[0]]) != "video":
        steps = _scaled(steps, splits["train"])
    left_out = len(files) - len(used)
    return Clips(tuple(steps), labels[used], splits, classes, left_out, digest.hexdigest())


def _name(file: Path, folder: Path, name: str) -> str:
    """CLASS/NAME of a file of the class `name`, as lists have it."""
    inner = file.relative_to(folder).as_posix()
    return inner if "/" in inner else f"{name.replace('/', '_')}/{inner}"


def _scaled(steps: list[np.ndarray], training: np.ndarray) -> list[np.ndarray]:
    """float32, each column of mean 0 and variance 1 over the training steps; a constant one is 0."""
    kinds = {steps[number].dtype for number in training}
    stored = max((k for k in kinds if k.kind == "f"), key=lambda k: np.finfo(k).eps, default=None)
    known = np.concatenate([steps[number].astype(np.float64) for number in training])
    scale = scaling.standard(known, stored or np.float64)
    return [scale(clip.astype(np.float64)) for clip in steps]
