"""What is diagnosed: a model, its weights and a window of its data; and what a section makes of it.

A section is one file of this package with a constant SECTION. It measures, draws into the folder of
the report, and says in sentences what follows from the numbers by a stated rule.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.run.files import read_rows
from rnnlab.train import optim
from rnnlab.train.from_config import build, build_optimiser
from rnnlab.train.saved import open_run
from rnnlab.train.state import configured_state, eval_params
from rnnlab.types import Config, Params, Probe, Task

ROWS = 32  # of a batch that are looked at
WARM = 3  # windows that the state is carried through first
LONGER = 4  # windows of training in the one that shows what truncation does
SEQUENCES = 4  # rows along which the dynamics of a layer are followed


class Subject(NamedTuple):
    """What is diagnosed."""

    config: Config
    probe: Probe
    task: Task  # with the window of the diagnosis, which may be longer than that of training
    trained: Task  # with that of training
    params: Params
    carry: Any  # the state that the window starts from, of ROWS rows at most
    batch: Any  # of that window and those rows
    title: str
    is_run: bool  # and not a config at initialisation
    rows: list[dict[str, Any]]  # of metrics.jsonl
    looks: list[dict[str, Any]]  # of diagnosis.jsonl


class Findings(NamedTuple):
    """What a section has found."""

    sentences: list[str]
    figures: list[tuple[str, str]]  # (file, what it shows)
    table: tuple[str, ...] = ()  # lines of Markdown


class Section(NamedTuple):
    """A part of the report: the constant SECTION of its file."""

    order: int  # its place in the report, by ascending order
    title: str
    # (subject, the folder to draw into) -> Findings, or None where it does not apply. Raises UsageError
    # where something cannot be measured, which the report says in its place
    examine: Callable[[Subject, Path], Findings | None]


class Layer(NamedTuple):
    """A layer over steps that all exist, and that none of its rows begins afresh."""

    name: str
    params: Params
    seen: taps.Seen  # what it did, [steps, rows, ...] each

    @property
    def steps(self) -> int:
        """How many there are."""
        return np.shape(self.seen.x)[0]

    @property
    def rows(self) -> int:
        """How many there are."""
        return np.shape(self.seen.x)[1]

    @property
    def file(self) -> str:
        """Its name as a part of a file's: "layer_1"."""
        return self.name.replace(" ", "_")


# ---- of a run, or of a config


def of_run(workdir: Path, which: str, window: int, warn: Callable[[str], None]) -> Subject:
    """The run in `workdir` at its checkpoint `which`, over a window of `window` steps.

    window: 0 for LONGER windows of training where the task carries its state from one to the next and
        its data are long enough, and else for one.

    Raises what `open_run` raises; UsageError for a window that does not fit, or a task without a
    recurrent model that can be looked into.
    """
    run = open_run(workdir, which, warn)
    title = f"{workdir.resolve().name}, step {run.meta['step']}"
    rows = read_rows(workdir / "metrics.jsonl")
    path = workdir / "diagnosis.jsonl"
    looks = read_rows(path) if path.exists() else []
    task = _over_window(run.config, run.task, window, workdir)
    return _subject(run.config, task, run.task, run.params, title, True, rows, looks)


def of_config(config: Config, name: str, window: int) -> Subject:
    """The model of a config at initialisation. window, and what is raised: as for `of_run`."""
    trained, optimiser = build(config)
    params = eval_params(configured_state(config, trained, optimiser))
    task, title = _over_window(config, trained, window, None), f"{name} at initialisation"
    return _subject(config, task, trained, params, title, False, [], [])


def untrained(subject: Subject) -> Subject:
    """The same at its initial parameters."""
    optimiser = build_optimiser(subject.config, {})
    params = eval_params(configured_state(subject.config, subject.trained, optimiser))
    carry, batch = warm_up(subject.task, params)
    return subject._replace(params=params, carry=carry, batch=batch)


def _subject(config: Config, task: Task, trained: Task, params: Params, *rest: Any) -> Subject:
    if task.probe is None:
        raise UsageError(f"task '{config.task}' has no model that can be diagnosed")
    return Subject(config, task.probe, task, trained, params, *warm_up(task, params), *rest)


def _over_window(config: Config, task: Task, window: int, kept: Path | None) -> Task:
    """The task over `window` steps, as `of_run` says."""
    if window < 0:
        raise UsageError(f"--window must be at least 1, or 0 for what suits the task, got {window}")
    asked = window or (LONGER if _carries(task) else 1) * config.train.window
    if asked == config.train.window and config.model.path != "cudnn":
        return task
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.train.window = asked
        # The same parameters; cuDNN shows nothing of what is inside.
        if config.model.path == "cudnn":
            other.model.path = "auto"
    try:
        made, _ = build(other, kept)
        made.batch(0)
    except UsageError:
        if window:
            raise
        return task
    return made


def _carries(task: Task) -> bool:
    """Whether the second window of training goes on from the first one's state."""
    if not jax.tree.leaves(task.carry()):
        return False
    fresh = None if task.probe is None else task.probe.fresh
    return fresh is None or not np.all(fresh(task.batch(1)))


def warm_up(task: Task, params: Params) -> tuple[Any, Any]:
    """(the state after WARM windows, the batch after them), of ROWS rows at most."""
    loss = jax.jit(lambda carry, batch: task.loss(params, carry, batch, None)[0])
    carry = task.carry()
    if jax.tree.leaves(carry):
        for number in range(WARM):
            carry = loss(carry, task.batch(number))

    def first(leaf: Any) -> Any:
        if np.ndim(leaf) == 0:
            return leaf
        return leaf[:ROWS] if leaf.ndim == 1 else leaf[:, :ROWS]

    return jax.tree.map(lambda leaf: leaf[:ROWS], carry), jax.tree.map(first, task.batch(WARM))


# ---- what sections look at


def check_finite(subject: Subject) -> None:
    """Raise UsageError where the loss or its gradient overflows: no figure could be drawn of it."""
    carry, batch = subject.carry, subject.batch

    def loss(params: Params) -> Any:
        total, count = subject.task.loss(params, carry, batch, None)[1]["loss"]
        return total / count

    value, grads = jax.jit(jax.value_and_grad(loss))(subject.params)
    norm = float(optim.global_norm(grads))
    if not (math.isfinite(float(value)) and math.isfinite(norm)):
        raise UsageError(
            f"at these weights the loss is {float(value):.3g} and the norm of its gradient {norm:.3g} "
            f"over {subject.probe.inputs(batch)['x'].shape[0]} steps: take a shorter --window, an earlier "
            "--checkpoint or smaller initial values"
        )


def watch_layers(subject: Subject) -> tuple[taps.Seen, ...]:
    """What every layer, and direction of it, does over the window, in the order of `Model.names`."""
    probe, batch = subject.probe, subject.batch
    dtype = jax.tree.leaves(subject.params)[0].dtype
    start = probe.begin(subject.carry, batch, dtype)
    return probe.net.watch(subject.params, start, **probe.inputs(batch))[2]


def whole_layers(subject: Subject) -> list[Layer]:
    """Every layer along SEQUENCES rows at most, without padding or a reset: of rows of unequal length
    the longest ones, as far as they all go. Empty where there may be none, or the model has two
    directions."""
    probe = subject.probe
    if not probe.net.causal:
        return []
    inputs, found = probe.inputs(subject.batch), watch_layers(subject)
    time, rows = np.shape(found[0].x)[:2]
    if any(inputs.get(name) is not None for name in ("reset", "mask")):
        return []
    lengths = inputs.get("lengths")
    if lengths is not None:
        lengths = np.asarray(lengths)
        chosen = np.argsort(-lengths, kind="stable")[:SEQUENCES]
        time = int(lengths[chosen].min())
    else:
        chosen = np.arange(min(rows, SEQUENCES))

    def cut(one: taps.Seen) -> taps.Seen:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:time, chosen], one)

    layers = taps.units(subject.params)
    return [
        Layer(name, layer, cut(seen))
        for name, layer, seen in zip(probe.net.names, layers, found, strict=True)
    ]
