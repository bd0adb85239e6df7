"""Checkpoints that are whole or not there.

Orbax serialises the arrays of one pytree into one folder; folders, commit, integrity and retention
are ours, because Orbax restores a flipped bit silently, lists half-deleted steps and casts dtypes
without a word. A root (`<workdir>/checkpoints`) holds

    00001000/state/         Orbax's files: the leaves, each under its path in the tree
    00001000/meta.json      step, serial, metric, extra, fingerprint, environment, leaves
    00001000/files/         copies of the run's own small files, as they were
    00001000/manifest.json  size and sha256 of every other file, written last
    .writing-1000/          a save in progress; its manifest is what makes it count
    .trash-1000-0/          a checkpoint on its way out

"Newest" means written last, not highest step: a run that fell back to step 200 and goes on from
there must find its own step 250 next time, not the damaged or abandoned step 300. The serial in
meta.json counts the saves of a root.

One process writes to a root at a time (runfolder.lock); any number may read.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import CheckpointError, StorageError, UsageError
from rnnlab.run import arrays as serialise
from rnnlab.run import machine
from rnnlab.run.runfolder import from_text, line, plain, to_text

_MANIFEST, _META, _STATE, _COPIES = "manifest.json", "meta.json", "state", "files"
# How often `restore` looks what there is, if what there was goes away under its hands.
LISTINGS = 20


def save(
    root: Path,
    step: int,
    state: Any,
    *,
    metric: float | None,
    extra: dict[str, Any],
    fingerprint: dict[str, Any],
    keep: int,
    split: str = "1 device",
    copied: Iterable[Path] = (),
) -> Path:
    """Writes `state` as the checkpoint of `step` and returns its folder, once it is on the disk.

    `root` is the run's folder of checkpoints, made if need be, but no folder above it. `state` is a
    pytree of JAX arrays (fully addressable or replicated), typed PRNG keys, NumPy arrays and scalars,
    and Python numbers; it is only read. A checkpoint of the same step is replaced. Then all go but the `keep`
    newest and the one with the lowest `metric`: None, or what is not finite, is never the best,
    and one that is damaged is never the newest. `extra` and `fingerprint` are JSON; what is not
    finite in them comes back as the strings "nan", "inf" and "-inf". `split` says over what the
    train step is split, for `restore` to compare. `copied` are files to hold copies of, see `copies`.

    In a distributed run every process calls this, since Orbax synchronises them, and process 0
    writes.

    Raises StorageError if the disk refuses; what was committed before is untouched. Raises
    UsageError if `keep` < 1, TypeError if a leaf is no number.
    """
    if keep < 1:
        raise UsageError(f"checkpoints to keep: {keep}, must be at least 1")
    root = Path(root).absolute()  # Orbax refuses a relative path
    folder, writing = root / f"{step:08d}", root / f".writing-{step}"
    arrays = {name: _host(name, leaf) for name, leaf in _named(state).items()}
    meta = {
        "step": step,
        "metric": None if metric is None or not math.isfinite(metric) else float(metric),
        "extra": extra,
        "fingerprint": fingerprint,
        "environment": _environment() | {"split": split},
        "leaves": _described(state),
        "keys": {n: str(jax.random.key_impl(k)) for n, k in _named(state).items() if _is_key(k)},
    }
    meta = plain(meta)
    primary = jax.process_index() == 0
    with _storage_errors(folder):
        if primary:
            root.mkdir(exist_ok=True)  # and no parent: a run's folder that was removed stays so
            clean(root)
        try:
            if primary:
                writing.mkdir()
            with _staying(root, writing) if primary else contextlib.nullcontext():
                serialise.write(writing / _STATE, arrays)
            if not primary:
                return folder
            serials = [_serial(_meta(found)) for found in _folders(root).values()]
            meta["serial"] = 1 + max(serials, default=0)
            _write_json(writing / _META, meta)
            (writing / _COPIES).mkdir()
            for path in copied:
                shutil.copyfile(path, writing / _COPIES / path.name)
            files = _sync_and_hash(writing)
            wanted = any(array.size for array in arrays.values())
            if wanted and not any(name.startswith(_STATE) for name in files):
                raise OSError(errno.EIO, "the arrays were not written there")
            _write_json(writing / _MANIFEST, {"files": files})
            _sync(writing)
        except OSError:
            with contextlib.suppress(OSError):
                shutil.rmtree(_to_trash(writing))  # a full disk needs the room
            raise
        _commit(writing, folder)
        _retain(root, keep)
    return folder


def restore(
    root: Path,
    template: Any,
    *,
    step: int | Literal["best"] | None = None,
    fingerprint: dict[str, Any],
    warn: Callable[[str], None],
    split: str | None = None,
    later: Collection[str] = (),
) -> tuple[Any, dict[str, Any]] | None:
    """Reads back (state, meta) of the newest valid checkpoint, bit for bit; None if there is none.

    Another process may be saving and removing in `root` meanwhile: what went away while it was read
    is no fault of it, and what has come is read then.

    `template` gives structure, shapes and dtypes: a pytree of arrays or jax.ShapeDtypeStruct. JAX
    leaves come back uncommitted on the default device, NumPy and Python leaves as what they are.
    `step` asks for one step, or for the one with the lowest metric ("best"). Every file is checked
    against the manifest first. A checkpoint that fails is named in a call of `warn`, and so is a
    difference of versions, devices or thread counts, which void the promise of equal bits; with
    `step` None or "best" the next in line is tried. `split` is that of the steps to come, None if
    there are none. `later` names the leaves that an older checkpoint may lack: they are 0 then.

    Raises CheckpointError if no checkpoint asked for is valid; UsageError if there is no such step,
    no metric to be best by, or if fingerprint, shapes or dtypes are not this run's.
    """
    root, told = Path(root).absolute(), set()
    wanted = {"fingerprint": plain(fingerprint), "leaves": _described(template)}
    in_turn, listed = _in_turn(root, step), 1
    if not in_turn:
        return None
    while in_turn:
        folder = in_turn.pop(0)
        before, broken = _identity(folder), _fault(folder)
        meta = None if broken else _meta(folder)
        if meta is not None:
            lacking = (set(later) & wanted["leaves"].keys()) - meta["leaves"].keys()
            meta["leaves"] |= {name: wanted["leaves"][name] for name in lacking}
            for part in wanted:
                if difference := _differences(meta[part], wanted[part]):
                    raise UsageError(f"checkpoint {folder} is not of this run: {difference}")
            try:
                arrays = _read(folder / _STATE, template, lacking)
            except Exception as error:  # whatever Orbax raises, the next checkpoint may do
                broken = f"it cannot be read: {line(error)}"
            else:
                there, here = meta["environment"], _environment() | {"split": split}
                if split is None:
                    here["split"] = there.get("split")
                if difference := _differences(there, here):
                    warn(f"equal bits are not promised after resuming from {folder}: {difference}")
                return _build(template, arrays, meta["keys"]), meta
        if (before is None or _identity(folder) != before) and listed < LISTINGS:
            in_turn, listed = _in_turn(root, step), listed + 1
        elif folder not in told:
            told.add(folder)
            warn(f"checkpoint {folder} is not valid: {broken or 'it went away'}")
    raise CheckpointError(f"no valid checkpoint among the {len(told)} tried in {root}")


def _in_turn(root: Path, step: int | Literal["best"] | None) -> list[Path]:
    """The folders to try, for what `restore` is asked; none if there is no checkpoint at all. Raises
    UsageError as `restore` does."""
    found = [(folder, number, _meta(folder)) for number, folder in _folders(root).items()]
    # One whose meta.json cannot be trusted has no rank: it comes first, to be reported.
    if step is None:
        found.sort(key=lambda item: -_serial(item[2]) if item[2] else -math.inf)
    elif step == "best":
        ranked = [item for item in found if item[2] is None or item[2]["metric"] is not None]
        ranked.sort(key=lambda item: item[2]["metric"] if item[2] else -math.inf)
        if found and not ranked:
            raise UsageError(f"no checkpoint in {root} has a metric, so none is the best")
        found = ranked
    elif found:
        there = ", ".join(str(number) for _, number, _ in found)
        found = [item for item in found if item[1] == step]
        if not found:
            raise UsageError(f"no checkpoint of step {step} in {root}, there are: {there}")
    return [folder for folder, _, _ in found]


def _identity(folder: Path) -> int | None:
    """What no other folder has at the same time; None if it is not there."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def steps(root: Path) -> list[int]:
    """The steps committed under `root`, ascending. It reads no content: `restore` does."""
    return sorted(n for n, folder in _folders(root).items() if (folder / _MANIFEST).is_file())


def fault(root: Path, step: int) -> str:
    """Why the checkpoint of a step in `root` is not what was written; "" if it is."""
    folder = _folders(root).get(step)
    return "it is missing" if folder is None else _fault(folder)


def copies(root: Path, step: int | None = None) -> dict[str, Path]:
    """The copies of the run's own files (`save`), by their names, in the checkpoint of a step, or in the
    newest that is whole; none of older versions."""
    found = [
        (_serial(_meta(folder)), folder)
        for n, folder in _folders(root).items()
        if step in (None, n)
    ]
    for _, folder in sorted(found, reverse=True):
        if step is not None or not _fault(folder):
            return {path.name: path for path in (folder / _COPIES).glob("*")}
    return {}


def metrics(root: Path) -> list[float]:
    """The metrics of the committed checkpoints under `root` that have one, unverified."""
    metas = [_meta(folder) or {} for _, folder in sorted(_folders(root).items())]
    return [meta["metric"] for meta in metas if meta.get("metric") is not None]


def drop(root: Path, *, after: int) -> None:
    """Remove every checkpoint of a step above `after`; for the holder of the run folder alone.

    Raises StorageError if the disk refuses.
    """
    with _storage_errors(root):
        for number, folder in _folders(root).items():
            if number > after:
                _to_trash(folder)
    clean(root)


def clean(root: Path) -> None:
    """Finishes or removes what a killed process left; for the holder of the run folder alone.

    `save` begins with it. Raises StorageError if the disk refuses.
    """
    with _storage_errors(root):
        for writing in Path(root).glob(".writing-*"):
            folder = writing.with_name(f"{int(writing.name.removeprefix('.writing-')):08d}")
            # Killed between the two renames of a replacement: the old one is trash by now.
            if not folder.exists() and _fault(writing) == "":
                os.rename(writing, folder)
                _sync(folder.parent)
            else:
                _to_trash(writing)
        for trash in Path(root).glob(".trash-*"):
            shutil.rmtree(trash)


# ---- folders


def _folders(root: Path) -> dict[int, Path]:
    """Every folder that is, or ought to be, a checkpoint."""
    root = Path(root)
    folders = {}
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        # One that is complete and not renamed yet gives way to one that is (see clean).
        if path.name.startswith(".writing-") and (path / _MANIFEST).is_file():
            folders[int(path.name.removeprefix(".writing-"))] = path
        elif re.fullmatch(r"[0-9]{8,}", path.name) and path.is_dir():
            folders[int(path.name)] = path
    return folders


def _commit(writing: Path, folder: Path) -> None:
    old = _to_trash(folder) if folder.exists() else None
    try:
        os.rename(writing, folder)
    except OSError:
        if old is not None:
            os.rename(old, folder)
        raise
    _sync(folder.parent)


@contextlib.contextmanager
def _staying(root: Path, writing: Path) -> Iterator[None]:
    """Raises FileNotFoundError if `root` is removed or moved meanwhile. Orbax makes every folder that
    is missing, the run's own too, and may still do so for a moment after it has failed: what it has
    made goes again, unless somebody else is in it."""
    held = os.open(root, os.O_RDONLY)  # no other folder gets its number while it is open
    try:
        yield
    finally:
        was = os.fstat(held)
        os.close(held)
        if not (root.exists() and os.path.samestat(root.stat(), was)):
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                shutil.rmtree(writing, ignore_errors=True)
                with contextlib.suppress(OSError):
                    root.rmdir()
                    root.parent.rmdir()
                time.sleep(0.02)
            raise FileNotFoundError(errno.ENOENT, "it was removed or moved meanwhile")


def _to_trash(folder: Path) -> Path:
    """Renames a folder away, which is atomic; to delete it is not."""
    step = int(folder.name.removeprefix(".writing-"))
    n = 0
    while (trash := folder.with_name(f".trash-{step}-{n}")).exists():
        n += 1
    os.rename(folder, trash)
    return trash


def _retain(root: Path, keep: int) -> None:
    # Without a meta.json to trust a checkpoint cannot be restored: it is the first to go.
    found = sorted(((f, _meta(f)) for f in _folders(root).values()), key=lambda f: _serial(f[1]))
    scored = [(m["metric"], f) for f, m in found if m and m["metric"] is not None]
    kept = {folder for folder, _ in found[-keep:]} | ({min(scored)[1]} if scored else set())
    for folder, _ in found:
        if folder not in kept:
            _to_trash(folder)
    clean(root)


# ---- integrity


def _files(folder: Path) -> list[str]:
    paths = (p for p in folder.rglob("*") if not p.is_dir())
    return sorted(p.relative_to(folder).as_posix() for p in paths)


def _hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _sync_and_hash(folder: Path) -> dict[str, dict[str, Any]]:
    for path in [folder, *folder.rglob("*")]:
        _sync(path)
    return {name: _hash(folder / name) for name in _files(folder)}


def _sync(path: Path) -> None:
    """fsync of a file, or of a folder: its list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(folder: Path) -> str:
    """Why the checkpoint is not what was written; "" if it is."""
    try:
        listed = from_text((folder / _MANIFEST).read_bytes())["files"]
        there = set(_files(folder)) - {_MANIFEST}
        for name in sorted(there | set(listed)):
            if name not in there:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in the manifest"
            if _hash(folder / name) != listed[name]:
                return f"{name} has changed"
        return "" if _META in listed else f"{_META} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read: {line(error)}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{_MANIFEST} is broken: {line(error)}"


def _meta(folder: Path) -> dict[str, Any] | None:
    """meta.json, if it is the one in the manifest."""
    try:
        listed = from_text((folder / _MANIFEST).read_bytes())["files"]
        content = (folder / _META).read_bytes()
        if hashlib.sha256(content).hexdigest() != listed[_META]["sha256"]:
            return None
        return from_text(content)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _serial(meta: dict[str, Any] | None) -> int:
    return meta["serial"] if meta else 0


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write checkpoint {path}: {line(error)}") from error


# ---- JSON


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    """Under another name first: a manifest is whole or not there."""
    writing = path.with_suffix(".writing")
    with writing.open("w", encoding="utf-8") as file:
        file.write(to_text(tree))
        file.flush()
        os.fsync(file.fileno())
    os.rename(writing, path)


def _differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """One line that says where two JSON trees differ; "" if they do not."""
    a, b = _flat(saved), _flat(wanted)
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    told = [
        f"{key}: checkpoint has {_short(a.get(key))}, this run has {_short(b.get(key))}"
        for key in keys[:8]
    ]
    return "; ".join(told) + (f"; and {len(keys) - 8} more" if len(keys) > 8 else "")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    rows = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[prefix + key] = json.dumps(value, sort_keys=True)
    return rows


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    if len(text) <= 60:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:32]}... ({len(text)} characters, sha256 {digest[:8]})"


# ---- environment


def _environment() -> dict[str, Any]:
    """What the bits of a computation depend on besides the program."""
    return {
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "numpy": np.__version__,
        "orbax-checkpoint": version("orbax-checkpoint"),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": machine.processor(),
        "cpus": machine.allowed(),  # XLA goes by it
        "NPROC": os.environ.get("NPROC"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS"),
    }


# ---- leaves
#
# Orbax gets a flat dict of host arrays, named by their paths: without a template it would make
# lists of NamedTuples, and it would hand back arrays committed to the devices they came from.


def _named(tree: Any) -> dict[str, Any]:
    rows = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in rows}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}{list(np.shape(leaf))}"


def _described(tree: Any) -> dict[str, str]:
    return {name: _describe(leaf) for name, leaf in _named(tree).items()}


def _host(name: str, leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind in "OSUMm":
        raise TypeError(f"the state's leaf {name} is no number: {type(leaf).__name__}")
    return array


def _empty(leaf: Any) -> np.ndarray:
    """A host array for the content of a template's leaf; its pages are never touched."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return np.empty(np.shape(leaf), dtype)


def _build(template: Any, arrays: dict[str, np.ndarray], keys: dict[str, str]) -> Any:
    """The template's tree of the host arrays, every leaf of the template's kind."""

    def leaf(name: str, like: Any) -> Any:
        array = arrays[name]
        if name in keys:
            return jax.random.wrap_key_data(jnp.array(array), impl=keys[name])
        if isinstance(like, np.ndarray):
            return array
        if isinstance(like, np.generic):
            return array[()]
        if isinstance(like, bool | int | float | complex):
            return array.item()
        return jnp.array(array)  # a copy, so that a step to which it is donated can reuse it

    leaves = [leaf(name, like) for name, like in _named(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _read(folder: Path, template: Any, lacking: Collection[str]) -> dict[str, np.ndarray]:
    """The template's leaves as host arrays, by name; those that are `lacking` are 0."""
    like = {name: _empty(leaf) for name, leaf in _named(template).items()}
    known = {name: array for name, array in like.items() if name not in lacking}
    return {name: np.zeros_like(like[name]) for name in lacking} | serialise.read(folder, known)
