"""Captioned pictures in the layout of Flickr8k (Hodosh, Young and Hockenmaier 2013).

A folder has, in it or in folders of its own, the images and

    Flickr8k.token.txt            NAME.jpg#0<TAB>a caption, one a line, five of an image
    Flickr_8k.trainImages.txt     NAME.jpg, one a line
    Flickr_8k.devImages.txt
    Flickr_8k.testImages.txt

An image and all its captions are in the split whose list has its name; what no list has is left out.

A caption is lower-cased and in NFC. Its words are runs of letters and digits with their marks, which may
have single apostrophes or hyphens inside (`wordsplit`); all else is dropped.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from rnnlab.data import archives, cache, folders, media, textfile, wordsplit
from rnnlab.data.reading import reading, reason_of
from rnnlab.errors import UsageError

ADDRESSES = (
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip",
    "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip",
)
TOKENS = "Flickr8k.token.txt"
LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "valid": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_LINE = re.compile(r"(\S.*)#(\d{1,9})\t(.*)")


class Split(NamedTuple):
    """N pictures and their captions."""

    names: tuple[str, ...]  # of the images
    pictures: np.ndarray  # uint8 [N, size, size, 3]; or float32 [N, E], features
    captions: tuple[tuple[str, ...], ...]  # words with a blank between; one or more of each picture


def words(caption: str) -> list[str]:
    """The words of a caption, by the rule above."""
    return wordsplit.words(wordsplit.normal(caption.lower()))


def load(path: str, size: int, features: str = "", encoding: str | None = None) -> dict[str, Split]:
    """ "train", "valid" and "test" of the folder `path`.

    size: the images are scaled to size x size pixels, once: the array is kept in the cache folder.
    features: the path of a .npy, [N, E] numbers, whose rows take the place of images that need not be
      there; a text file of the same name with .txt has the name of each row's image, one a line.
    encoding: of the text files; see `textfile.checked`.

    Raises UsageError, naming file and line, for a file that is missing, a line of another form, an image
    that is in two lists or twice in one, has no caption, is missing or is no image; for features that
    are no such array, or have no row of an image.
    """
    if not path:
        raise UsageError(
            "data.path must name a folder in Flickr8k's layout; for non-commercial research it is at "
            + " and ".join(ADDRESSES)
        )
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UsageError(f"data.path {folder} is no folder")
    files: dict[str, Path] = {}
    with reading(folder):
        for file in sorted(folder / name for name in folders.files(folder)):
            files.setdefault(file.name, file)
    for name in (TOKENS, *LISTS.values()):
        if name not in files:
            raise UsageError(f"data.path {folder} has no {name}, nor has a folder in it")
    captions = _captions(files[TOKENS], encoding)
    listed = _listed({split: files[name] for split, name in LISTS.items()}, encoding)
    for name, (_, place) in listed.items():
        if name not in captions:
            raise UsageError(f"{place}: {name} has no caption in {files[TOKENS]}")
    if features:
        rows = _features(Path(features).expanduser(), listed, encoding)
    else:
        rows = _images(files, listed, size, folder)
    found = {}
    for split in LISTS:
        names = tuple(name for name, (of, _) in listed.items() if of == split)
        index = [number for number, (of, _) in enumerate(listed.values()) if of == split]
        # The lists follow one another, so that a split is a slice of what may be a memory-map.
        part = rows[index[0] : index[-1] + 1]
        found[split] = Split(names, part, tuple(tuple(captions[name]) for name in names))
    return found


def _captions(path: Path, encoding: str | None) -> dict[str, list[str]]:
    """image -> its captions, in the order of their numbers."""
    found: dict[str, dict[int, str]] = {}
    for number, line in enumerate(textfile.lines(path, encoding), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(
                f"{path}:{number}: a line is NAME.jpg#0, a tab and a caption; this is {line[:80]!r}"
            )
        name, which, caption = match.groups()
        text = " ".join(words(caption))
        if not text:
            raise UsageError(f"{path}:{number}: the caption has no word: {caption[:80]!r}")
        of = found.setdefault(name, {})
        if int(which) in of:
            raise UsageError(f"{path}:{number}: {name} has a caption #{which} already")
        of[int(which)] = text
    return {name: [of[which] for which in sorted(of)] for name, of in found.items()}


def _listed(paths: dict[str, Path], encoding: str | None) -> dict[str, tuple[str, str]]:
    """image -> (its split, "FILE:LINE" where it says so), split by split."""
    found: dict[str, tuple[str, str]] = {}
    for split, path in paths.items():
        before = len(found)
        for number, line in enumerate(textfile.lines(path, encoding), start=1):
            name, place = line.strip(), f"{path}:{number}"
            if not name:
                raise UsageError(f"{place}: a line is the name of an image; this one is empty")
            if name in found:
                raise UsageError(
                    f"{place}: {name} is at {found[name][1]} already; an image belongs to one split"
                )
            found[name] = split, place
        if len(found) == before:
            raise UsageError(f"{path} names no image")
    return found


def _images(
    files: dict[str, Path], listed: dict[str, tuple[str, str]], size: int, folder: Path
) -> np.ndarray:
    """uint8 [N, size, size, 3] in the order of the lists, a memory-map of a file in the cache folder,
    which depends on the names, sizes and times of the images."""
    digest = hashlib.sha256(f"2 {size} {folder.resolve()}".encode())
    for name, (_, place) in listed.items():
        if name not in files:
            raise UsageError(f"{place}: {name} is not in {folder}, nor in a folder in it")
        stat = files[name].stat()
        digest.update(f"\n{name} {stat.st_size} {stat.st_mtime_ns}".encode())
    target = cache.folder() / f"flickr8k-{size}-{digest.hexdigest()[:16]}.npy"
    shape = (len(listed), size, size, 3)

    def valid() -> bool:
        try:
            there = archives.array(target)
            return there.shape == shape and there.dtype == np.uint8
        except (OSError, ValueError):
            return False

    def write(file: BinaryIO) -> None:
        pictures = np.empty(shape, np.uint8)
        for number, (name, (_, place)) in enumerate(listed.items()):
            try:
                pictures[number] = media.image(files[name], size)
            except UsageError as error:
                raise UsageError(f"{place}: {error}") from None
        np.save(file, pictures)

    cache.place(target, valid, write)
    return archives.array(target)


def _features(path: Path, listed: dict[str, tuple[str, str]], encoding: str | None) -> np.ndarray:
    """float32 [N, E] in the order of the lists."""
    try:
        array = archives.array(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"data.features {path} is no array that NumPy can read: {reason_of(error)}"
        ) from None
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UsageError(f"data.features {path} must hold an array [N, E] of numbers")
    beside = path.with_suffix(".txt")
    names = [line.strip() for line in textfile.lines(beside, encoding)]
    if len(names) != len(array):
        raise UsageError(f"{beside} has {len(names)} lines, and {path} {len(array)} rows")
    rows = {name: number for number, name in enumerate(names)}
    for name, (_, place) in listed.items():
        if name not in rows:
            raise UsageError(f"{place}: {name} has no row in {path}: {beside} does not name it")
    chosen = array[[rows[name] for name in listed]].astype(np.float32)
    wrong = ~np.isfinite(chosen).all(-1)
    if wrong.any():
        name = [*listed][int(wrong.argmax())]
        raise UsageError(f"{path}: row {rows[name] + 1}, of {name}, has a value that is not finite")
    return chosen
