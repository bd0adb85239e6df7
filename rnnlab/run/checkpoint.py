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

One process writes to a root at a time (folder.lock); any number may read.
"""

import contextlib
import errno
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax

from rnnlab.errors import CheckpointError, UsageError
from rnnlab.run import arrays
from rnnlab.run.files import json_text, plain_json, reason, replace_file, storage_errors, sync
from rnnlab.run.integrity import (
    MANIFEST,
    META,
    differences,
    environment,
    fault_of,
    meta_of,
    settings,
    sync_and_hash,
)

_STATE, _COPIES = "state", "files"
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
    leaves = arrays.host_leaves(state)
    meta = {
        "step": step,
        "metric": None if metric is None or not math.isfinite(metric) else float(metric),
        "extra": extra,
        "fingerprint": fingerprint,
        "environment": environment() | {"split": split},
        "leaves": arrays.leaf_types(state),
        "keys": arrays.key_types(state),
    }
    meta = plain_json(meta)
    primary = jax.process_index() == 0
    with storage_errors(f"checkpoint {folder}"):
        if primary:
            root.mkdir(exist_ok=True)  # and no parent: a run's folder that was removed stays so
            clean(root)
        try:
            if primary:
                writing.mkdir()
            with _staying(root, writing) if primary else contextlib.nullcontext():
                arrays.write_arrays(writing / _STATE, leaves)
            if not primary:
                return folder
            serials = [_serial(meta_of(found)) for found in _folders(root).values()]
            meta["serial"] = 1 + max(serials, default=0)
            replace_file(writing / META, json_text(meta))
            (writing / _COPIES).mkdir()
            for path in copied:
                shutil.copyfile(path, writing / _COPIES / path.name)
            files = sync_and_hash(writing)
            wanted = any(leaf.size for leaf in leaves.values())
            if wanted and not any(name.startswith(_STATE) for name in files):
                raise OSError(errno.EIO, "the arrays were not written there")
            replace_file(writing / MANIFEST, json_text({"files": files}))
            sync(writing)
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
    wanted = {"fingerprint": plain_json(fingerprint), "leaves": arrays.leaf_types(template)}
    in_turn, listed = _in_turn(root, step), 1
    if not in_turn:
        return None
    while in_turn:
        folder = in_turn.pop(0)
        before, broken = _identity(folder), fault_of(folder)
        meta = None if broken else meta_of(folder)
        if meta is not None:
            lacking = (set(later) & wanted["leaves"].keys()) - meta["leaves"].keys()
            meta["leaves"] |= {name: wanted["leaves"][name] for name in lacking}
            for part in wanted:
                if difference := differences(meta[part], wanted[part]):
                    told = filter(None, [difference, _differing(meta["environment"], settings())])
                    raise UsageError(f"checkpoint {folder} is not of this run: {'; '.join(told)}")
            try:
                leaves = arrays.read_leaves(folder / _STATE, template, lacking)
            except Exception as error:  # whatever Orbax raises, the next checkpoint may do
                broken = f"it cannot be read: {reason(error)}"
            else:
                here = environment() | ({} if split is None else {"split": split})
                if difference := _differing(meta["environment"], here):
                    warn(f"equal bits are not promised after resuming from {folder}: {difference}")
                return arrays.tree_of_leaves(template, leaves, meta["keys"]), meta
        if (before is None or _identity(folder) != before) and listed < LISTINGS:
            in_turn, listed = _in_turn(root, step), listed + 1
        elif folder not in told:
            told.add(folder)
            warn(f"checkpoint {folder} is not valid: {broken or 'it went away'}")
    raise CheckpointError(f"no valid checkpoint among the {len(told)} tried in {root}")


def _differing(there: dict[str, Any], here: dict[str, Any]) -> str:
    """`differences` of what both say. Older versions recorded less, of which nothing is known."""
    names = [name for name in there if name in here]
    return differences({n: there[n] for n in names}, {n: here[n] for n in names})


def _in_turn(root: Path, step: int | Literal["best"] | None) -> list[Path]:
    """The folders to try, for what `restore` is asked; none if there is no checkpoint at all. Raises
    UsageError as `restore` does."""
    found = [(folder, number, meta_of(folder)) for number, folder in _folders(root).items()]
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
    return sorted(n for n, folder in _folders(root).items() if (folder / MANIFEST).is_file())


def fault(root: Path, step: int) -> str:
    """Why the checkpoint of a step in `root` is not what was written; "" if it is."""
    folder = _folders(root).get(step)
    return "it is missing" if folder is None else fault_of(folder)


def copies(root: Path, step: int | None = None) -> dict[str, Path]:
    """The copies of the run's own files (`save`), by their names, in the checkpoint of a step, or in the
    newest that is whole; none of older versions."""
    found = [
        (_serial(meta_of(folder)), folder)
        for n, folder in _folders(root).items()
        if step in (None, n)
    ]
    for _, folder in sorted(found, reverse=True):
        if step is not None or not fault_of(folder):
            return {path.name: path for path in (folder / _COPIES).glob("*")}
    return {}


def metrics(root: Path) -> list[float]:
    """The metrics of the committed checkpoints under `root` that have one, unverified."""
    metas = [meta_of(folder) or {} for _, folder in sorted(_folders(root).items())]
    return [meta["metric"] for meta in metas if meta.get("metric") is not None]


def drop(root: Path, *, after: int) -> None:
    """Remove every checkpoint of a step above `after`; for the holder of the run folder alone.

    Raises StorageError if the disk refuses.
    """
    with storage_errors(f"checkpoint {root}"):
        for number, folder in _folders(root).items():
            if number > after:
                _to_trash(folder)
    clean(root)


def clean(root: Path) -> None:
    """Finishes or removes what a killed process left; for the holder of the run folder alone.

    `save` begins with it. Raises StorageError if the disk refuses.
    """
    with storage_errors(f"checkpoint {root}"):
        for writing in Path(root).glob(".writing-*"):
            folder = writing.with_name(f"{int(writing.name.removeprefix('.writing-')):08d}")
            # Killed between the two renames of a replacement: the old one is trash by now.
            if not folder.exists() and fault_of(writing) == "":
                os.rename(writing, folder)
                sync(folder.parent)
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
        if path.name.startswith(".writing-") and (path / MANIFEST).is_file():
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
    sync(folder.parent)


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
    found = sorted(((f, meta_of(f)) for f in _folders(root).values()), key=lambda f: _serial(f[1]))
    scored = [(m["metric"], f) for f, m in found if m and m["metric"] is not None]
    kept = {folder for folder, _ in found[-keep:]} | ({min(scored)[1]} if scored else set())
    for folder, _ in found:
        if folder not in kept:
            _to_trash(folder)
    clean(root)


def _serial(meta: dict[str, Any] | None) -> int:
    return meta["serial"] if meta else 0
