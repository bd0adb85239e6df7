"""Parallel texts: Multi30k (Elliott et al. 2016), or files NAME.LANGUAGE of a folder, a sentence a line."""

import functools
import hashlib
from pathlib import Path

from rnnlab.data import archives, cache, textfile
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError

ADDRESS = "https://quest.dcs.shef.ac.uk/wmt16_files_mmt/"
MULTI30K = {  # part -> (archive, sha256, the name of its files)
    "train": (
        "training.tar.gz",
        "20140d013d05dd9a72dfde46478663ba05737ce983f478f960c1123c6671be5e",
        "train",
    ),
    "valid": (
        "validation.tar.gz",
        "a7aa20e9ebd5ba5adce7909498b94410996040857154dab029851af3a866da8c",
        "val",
    ),
    "test": (
        "mmt16_task1_test.tar.gz",
        "0681be16a532912288a91ddd573594fbdd57c0fbb81486eff7c55247e35326c2",
        "test",
    ),
}
PARTS = ("train", "valid", "test")
Pairs = tuple[list[str], list[str]]  # sentences and their translations


def lines(content: bytes, name: str, encoding: str | None = None) -> list[str]:
    r"""The sentences of a file, split on "\n" alone. encoding: see `textfile.checked`. Raises UsageError,
    with the line, for one that is empty or not of the encoding."""
    found = [line.strip() for line in textfile.split(textfile.decoded(content, name, encoding))]
    for number, text in enumerate(found, start=1):
        if not text:
            raise UsageError(f"{name}:{number} is empty: each line must be a sentence")
    return found


def parallel(contents: dict[str, bytes], encoding: str | None = None) -> Pairs:
    """The pairs of two files {name: content}; encoding: of both. Raises UsageError if they differ in
    length."""
    (first, source), (second, target) = (
        (name, lines(content, name, encoding)) for name, content in contents.items()
    )
    if len(source) != len(target) or not source:
        raise UsageError(
            f"{first} has {len(source)} lines and {second} has {len(target)}: line N of one must be "
            "the translation of line N of the other"
        )
    return source, target


def _member(archive: str, digest: str, name: str) -> bytes:
    remote = cache.Remote(
        f"multi30k-{archive}", ADDRESS + archive, f"sha256:{digest}", folder="", member=""
    )
    path = cache.fetch(remote)
    with reading(path), open(path, "rb") as packed:
        found = archives.members(packed, archive, lambda entry: entry.name == name)
    if name not in found:
        raise UsageError(f"{archive} of Multi30k holds no {name}")
    return found[name]


@functools.lru_cache(maxsize=2)
def load(
    path: str,
    download: str,
    names: tuple[str, ...],
    languages: tuple[str, str],
    encoding: str | None = None,
) -> tuple[dict[str, Pairs], str]:
    """(part -> its pairs, sha256 of all files one after the other).

    names: of the files of PARTS, without the language. encoding: of a folder's files. Raises
    UsageError for files that are missing, damaged or not parallel.
    """
    if download not in ("", "multi30k") or bool(download) == bool(path):
        raise UsageError(
            f"data.download must be 'multi30k', or '' with data.path set, got '{download}'"
        )
    digest, found = hashlib.sha256(), {}
    for part, name in zip(PARTS, names, strict=True):
        contents = {}
        for language in languages:
            if download:
                archive, sha256, base = MULTI30K[part]
                file = f"{base}.{language}"
                contents[file] = _member(archive, sha256, file)
            else:
                file = f"{name}.{language}"
                contents[file] = cache.local(Path(path).expanduser(), file)
            digest.update(contents[file])
        found[part] = parallel(contents, None if download else encoding)
    return found, digest.hexdigest()
