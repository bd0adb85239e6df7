"""The files that a run's data come from: where they are, and the copies that the run keeps.

A config names them by keys (`config.PATHS`), with absolute paths. Up to KEPT_AT_MOST bytes of what a
task reads of them are copied into the run, `data/`, so that evaluating needs nothing but the run's
folder; of more, and of all, `sources.json` in the run says where they were. A run's copies are in use
only where they are whole, by the sha256 there; what a task makes of its files has a sha256 of its own
in run.json (`folder.unchanged`).

    sources.json  {"data.path": {"path": where it was, "kept": "data/path/text.txt" or None,
                                 "files": how many, "bytes": n, "sha256": of names and contents}}
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rnnlab.data import folders
from rnnlab.errors import StorageError, UsageError
from rnnlab.run.config import paths_of, plain_config, replace
from rnnlab.run.files import read_json, reason, write_json

KEPT_AT_MOST = 64 << 20  # bytes
FOLDER, INDEX = "data", "sources.json"
ANCESTORS = 4  # of a run's folder, where an older run's relative path is looked for
EVERY = ("*",)


class Reads(NamedTuple):
    """What a task reads of the paths in its config; the constant READS of its module."""

    # config -> key -> patterns. Of a folder: of the files below it that are read, by the end of their
    # relative paths; of a file: suffixes of the files of its name that belong to it. Keys of `data`
    # that are not named: EVERY file of a folder.
    files: Callable[[Any], Mapping[str, Sequence[str]]] = lambda config: {}
    # whether a task of a run needs them at once; False: it keeps what evaluating needs, and calls
    # `found` for the rest
    at_once: bool = True


# ---- finding


def located(config: Any, run: Path, *, own: bool, strict: bool = True) -> Any:
    """The config of the run in a folder with each of its paths where it is found: in the run itself, or
    where it was. A copy; the config itself is what is kept.

    own: whether the run's copies come before the files they were made of. strict: whether UsageError is
        raised for what is not found, which says all places; else its path stays as it is.
    """
    paths = {key: value for key, value in paths_of(config).items() if key.startswith("data.")}
    if not paths:
        return config
    result, index = plain_config(config, apart=True), _index(run)
    for key, value in paths.items():
        entry = index.get(key, {})
        looked = []
        copy, why = _copy(run, key, entry)
        for place in _places(key, value, run, entry):
            looked.append((place, "" if _is_there(place) else "it is not there"))
        looked.insert(0 if own else len(looked), (copy, why))
        place = next((place for place, fault in looked if not fault), None)
        if place is not None:
            replace(result, key, os.path.abspath(place))
        elif strict:
            raise UsageError(_not_found(key, value, run, looked))
    return result.lock()


def found(config: Any, run: Path | None) -> Any:
    """`located` for what a task of a finished run needs beside what it keeps; the config itself where
    there is no run."""
    return config if run is None else located(config, run, own=True)


def anchored(config: Any, run: Path) -> Any:
    """The config of a run with the paths that older versions left relative made absolute, where they
    are found; a copy."""
    paths = {k: v for k, v in paths_of(config).items() if not os.path.isabs(v)}
    if not paths:
        return config
    result, index = plain_config(config, apart=True), _index(run)
    for key, value in paths.items():
        for place in _places(key, value, run, index.get(key, {})):
            if _is_there(place):
                replace(result, key, os.path.abspath(place))
                break
    return result.lock()


def _places(key: str, value: str, run: Path, entry: dict[str, Any]) -> list[Path]:
    """Where a path of a run may be, without the run's copy. An older run's path may be relative: to the
    working folder, or to where the run was begun, which as a rule was above its folder."""
    places = [Path(os.path.expanduser(value))]
    if not places[0].is_absolute():
        above = [*Path(os.path.abspath(run)).parents][:ANCESTORS]
        places = [Path(os.path.abspath(places[0])), *(folder / value for folder in above)]
        recorded = entry.get("path") or (_source(run) if key == "data.path" else "")
        places += [Path(recorded)] if recorded and os.path.isabs(recorded) else []
    return list(dict.fromkeys(places))


def _source(run: Path) -> str:
    """What run.json says the data came from."""
    with contextlib.suppress(UsageError, KeyError, TypeError):
        return str(read_json(run / "run.json")["data"]["source"])
    return ""


def _is_there(place: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return place.exists()
    return False


def _not_found(key: str, value: str, run: Path, looked: list[tuple[Path, str]]) -> str:
    told = "; ".join(f"{place}, but {why}" for place, why in looked)
    data: dict[str, Any] = {}
    with contextlib.suppress(UsageError, KeyError):
        data = read_json(run / "run.json")["data"]
    digest = f", whose data have the sha256 {data['sha256']}" if data.get("sha256") else ""
    return f"{key} of the run in {run}{digest}, is not found: looked for it at {told}"


# ---- keeping


def keep(config: Any, run: Path, reads: Reads) -> None:
    """Copy what the task reads of its paths into the run, if that is not done and not too much, and
    write sources.json. Raises StorageError if the disk refuses."""
    paths = {key: value for key, value in paths_of(config).items() if key.startswith("data.")}
    if not paths:
        return
    before = _index(run)
    if {k: e.get("path") for k, e in before.items()} == paths and not any(
        e["kept"] and _copy(run, k, e)[1] for k, e in before.items()
    ):
        return
    patterns, files = reads.files(config), dict[str, list[tuple[str, Path]]]()
    size = 0
    for key, value in paths.items():
        there = listed(Path(value), patterns.get(key, EVERY))
        if run.absolute().is_relative_to(value):  # the run lies in the folder that is read
            there = [
                (name, file) for name, file in there if not file.is_relative_to(run.absolute())
            ]
        files[key] = there
        size += sum(file.stat().st_size for _, file in files[key])
    kept, index = size <= KEPT_AT_MOST, dict[str, Any]()
    try:
        for key, found in files.items():
            source = Path(paths[key])
            index[key] = {"path": paths[key], "kept": None, "files": len(found)}
            index[key]["bytes"] = sum(file.stat().st_size for _, file in found)
            if kept:
                place = _place_of(key)
                index[key]["sha256"] = _digest(found)
                index[key]["kept"] = str(place if source.is_dir() else place / source.name)
                _fill(run, key, found, index[key])
        write_json(run / INDEX, index)
    except OSError as error:
        raise StorageError(f"cannot write {run / FOLDER}: {reason(error)}") from error


def listed(path: Path, patterns: Sequence[str]) -> list[tuple[str, Path]]:
    """(relative name, file) of what is read of a path; see `Reads` for the patterns."""
    if not path.is_dir():
        beside = (path.with_suffix(suffix) for suffix in patterns if suffix.startswith("."))
        return [(file.name, file) for file in (path, *beside) if file.is_file()]
    ends = [pattern.removeprefix("**/") for pattern in patterns]
    return [
        (name, path / name)
        for name in folders.files(path)
        if any(PurePosixPath(name).match(end) for end in ends) and (path / name).is_file()
    ]


def _place_of(key: str) -> PurePosixPath:
    return PurePosixPath(FOLDER, key.rpartition(".")[2])


def _fill(run: Path, key: str, files: list[tuple[str, Path]], entry: dict[str, Any]) -> None:
    """Copy the files into the run. A member of a sweep shares them with another one, by links that
    have one content (nobody writes to it)."""
    target, writing = run / _place_of(key), run / f".{FOLDER}.writing"
    other = _beside(run, key, entry)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    for name, file in files:
        copy = writing / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            if other is None:
                raise OSError
            os.link(other / name, copy)
        except OSError:
            shutil.copyfile(file, copy)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    os.rename(writing, target)


def _beside(run: Path, key: str, entry: dict[str, Any]) -> Path | None:
    """The same files in another member of the sweep that the run is a member of."""
    if run.parent.name != "members":
        return None
    for other in sorted(path for path in run.parent.iterdir() if path != run)[:3]:
        if _index(other).get(key) == entry and not _copy(other, key, entry)[1]:
            return other / _place_of(key)
    return None


def _copy(run: Path, key: str, entry: dict[str, Any]) -> tuple[Path, str]:
    """(where the run's copy is, what is wrong with it)."""
    place = run / _place_of(key)
    if not entry:
        return place, "the run keeps no copy"
    if not entry["kept"]:
        most = KEPT_AT_MOST >> 20
        return place, f"of more than {most} MiB ({entry['bytes']} bytes) no copy is kept"
    try:
        there = [file for file in sorted(place.rglob("*")) if file.is_file()]
        found = [(file.relative_to(place).as_posix(), file) for file in there]
        same = _digest(found) == entry["sha256"]
    except OSError as error:
        return place, reason(error)
    return run / entry[
        "kept"
    ], "" if same else "what is there has changed" if found else "it has gone"


def _digest(files: list[tuple[str, Path]]) -> str:
    """Of the names and contents of these files. Raises OSError."""
    digest = hashlib.sha256()
    for name, file in sorted(files):
        with file.open("rb") as content:
            line = f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))  # of any name there is
    return digest.hexdigest()


def _index(run: Path) -> dict[str, Any]:
    """What sources.json says; nothing where there is none, or it is damaged."""
    with contextlib.suppress(UsageError):
        return read_json(run / INDEX) if (run / INDEX).exists() else {}
    return {}
