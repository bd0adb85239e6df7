"""Weights to begin with: those of another run (`train.init_from`), its vocabularies mapped by symbol.

Of a leaf that has a row or column for each symbol of a vocabulary (an embedding, the input matrix of a
one-hot model, the readout and its bias) those of the symbols that both runs have are taken over; a
symbol that is new keeps what was drawn for it. Which axes these are follows from `Task.resized`: they
are the ones that grow with the vocabulary. Optimiser, schedule and step begin anew.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.run import checkpoint
from rnnlab.run.integrity import MANIFEST
from rnnlab.train.optim import Optimiser
from rnnlab.train.saved import Run, open_run
from rnnlab.train.state import TrainState
from rnnlab.types import Config, Params, Task

KEY = "train.init_from"
SHOWN = 12  # symbols and leaves that a line names


class Start(NamedTuple):
    """What a run begins with."""

    leaves: dict[str, np.ndarray]  # path of a leaf -> the weights there
    # path -> (axis, vocabulary) of each of its axes that is a vocabulary's
    axes: dict[str, list[tuple[int, str]]]
    places: dict[str, tuple[np.ndarray, np.ndarray]]  # vocabulary -> (places here, places there)
    facts: dict[str, Any]  # for run.json
    told: str  # a line for a person


def wanted(config: Config) -> str:
    """What the config says for train.init_from, "" for nothing."""
    return config.train.get("init_from") or ""


def plan(config: Config, task: Task) -> Start | None:
    """What a run of this config begins with, None if it begins afresh.

    Raises UsageError, in one line, for a run that is not there, or whose cells, layers or sizes are
    others; CheckpointError if it has no checkpoint that is whole.
    """
    value = wanted(config)
    if not value:
        return None
    folder, which = _split(value)
    root = folder / "checkpoints"
    try:
        run = _opened(folder, which, tuple(checkpoint.steps(root)))
    except UsageError as error:
        raise UsageError(f"{KEY}: {error}") from error
    leaves = _named(run.params)
    here = _named(jax.eval_shape(task.init, jax.random.key(0)))
    axes = _axes(task) if task.symbols and run.task.symbols else {}
    _check(folder, config, task, run, leaves, here, axes)
    places, new, lost = {}, {}, {}
    for name, symbols in (task.symbols or {}).items():
        there = {symbol: place for place, symbol in reversed([*enumerate(_of(run.task, name))])}
        shared = [(i, there[symbol]) for i, symbol in enumerate(symbols) if symbol in there]
        places[name] = tuple(np.array(shared, int).reshape(-1, 2).T)
        known = {*symbols}
        new[name] = [symbol for symbol in symbols if symbol not in there]
        lost[name] = [s for s in _of(run.task, name) if s not in known]
    step = int(run.meta["step"])
    manifest = root / f"{step:08d}" / MANIFEST
    facts = {
        "folder": str(folder),
        "step": step,
        "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "new_symbols": {name: [*map(str, symbols)] for name, symbols in new.items()},
        "left_symbols": {name: [*map(str, symbols)] for name, symbols in lost.items()},
    }
    told = f"the weights are those of {folder}, step {step}"
    for name, symbols in (task.symbols or {}).items():
        told += f"; of {len(symbols)} symbols ({name}) {len(places[name][0])} are known there"
        told += f", new and drawn afresh: {_listed(new[name])}" if new[name] else ""
        told += f", without a place here: {_listed(lost[name])}" if lost[name] else ""
    return Start(leaves, axes, places, facts, told)


def begun(start: Start, state: TrainState, optimiser: Optimiser) -> TrainState:
    """A state before the first step with the weights of `start`; all else begins anew."""

    def leaf(path: Any, fresh: Any) -> Any:
        name = _path(path)
        found = start.leaves[name]
        if name in start.axes:
            ours = [np.arange(size) for size in fresh.shape]
            theirs = [np.arange(size) for size in found.shape]
            for axis, vocabulary in start.axes[name]:
                ours[axis], theirs[axis] = start.places[vocabulary]
            made = np.array(fresh)
            made[np.ix_(*ours)] = found[np.ix_(*theirs)]
            found = made
        return jnp.asarray(found, fresh.dtype)

    params = jax.tree_util.tree_map_with_path(leaf, state.params)
    average = None if state.average is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, average=average, optimiser=optimiser.init(params))


def _split(value: str) -> tuple[Path, str]:
    """DIR, or DIR:best, DIR:latest, DIR:STEP."""
    folder, separator, which = value.rpartition(":")
    if separator and not Path(value).is_dir():
        return Path(folder), which
    return Path(value), "best"


@functools.lru_cache(maxsize=1)
def _opened(folder: Path, which: str, steps: tuple[int, ...]) -> Run:
    """The run, once for all members of a sweep. steps: of its checkpoints, which may change."""
    return open_run(folder, which)


def _of(task: Task, name: str) -> Sequence[Any]:
    return (task.symbols or {}).get(name, ())


def _named(tree: Params) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        _path(path): leaf if isinstance(leaf, jax.ShapeDtypeStruct) else np.array(leaf)
        for path, leaf in leaves
    }


def _axes(task: Task) -> dict[str, list[tuple[int, str]]]:
    """path -> (axis, vocabulary), of the axes that grow with a vocabulary."""
    sizes = {name: len(symbols) for name, symbols in task.symbols.items()}
    key = jax.random.key(0)
    plain = _named(jax.eval_shape(task.resized(sizes), key))
    found: dict[str, list[tuple[int, str]]] = {}
    for name in sizes:
        grown = _named(jax.eval_shape(task.resized({**sizes, name: sizes[name] + 1}), key))
        for path, leaf in plain.items():
            for axis, (before, after) in enumerate(zip(leaf.shape, grown[path].shape, strict=True)):
                if after == before + 1:
                    found.setdefault(path, []).append((axis, name))
    return found


def _check(
    folder: Path,
    config: Config,
    task: Task,
    run: Run,
    there: dict[str, Any],
    here: dict[str, Any],
    axes: dict[str, list[tuple[int, str]]],
) -> None:
    """Raises UsageError unless the weights of the run fit but for the vocabularies."""
    differ = []
    cells = run.config.model.cell, config.model.cell
    if cells[0] != cells[1]:
        differ.append(f"model.cell is {cells[0]} there and {cells[1]} here")
    for path in dict.fromkeys([*here, *there]):
        shapes = [None if path not in tree else tree[path].shape for tree in (there, here)]
        expected = None if shapes[1] is None else list(shapes[1])
        if expected is not None:
            for axis, name in axes.get(path, []):
                expected[axis] = len(_of(run.task, name))
        if shapes[0] is None or expected is None or list(shapes[0]) != expected:
            told = ["none" if shape is None else " x ".join(map(str, shape)) for shape in shapes]
            differ.append(f"{path} is {told[0]} there and {told[1]} here")
    if differ:
        more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise UsageError(
            f"{KEY}: the weights of {folder} do not fit: {'; '.join(differ[:SHOWN])}{more}"
        )


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _listed(symbols: Sequence[Any]) -> str:
    shown = " ".join(map(repr, symbols[:SHOWN]))
    return f"{len(symbols)} ({shown}{' ...' if len(symbols) > SHOWN else ''})"
