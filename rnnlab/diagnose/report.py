"""The verb diagnose: one report, diagnosis.md, of what the gradients of a model do, and why.

Of a run at any of its checkpoints, or of a config at initialisation. Every sentence in it follows from
a number by the rule that the function which makes it states.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.diagnose.layer_sections import LAYER_SECTIONS
from rnnlab.diagnose.subject import SECTIONS, Section, Subject, check, warm
from rnnlab.errors import UsageError
from rnnlab.run.files import read_rows, write_file
from rnnlab.train import step as stepping
from rnnlab.train import train
from rnnlab.train.record import initial
from rnnlab.types import Config, Params, Task

LONGER = 4  # windows of training in the one that shows what truncation does


def of_run(workdir: Path, which: str, window: int, warn: Callable[[str], None]) -> Subject:
    """The run in `workdir` at its checkpoint `which`; see `train.open_run` for what it raises."""
    run = train.open_run(workdir, which, warn)
    title = f"{workdir.resolve().name}, step {run.meta['step']}"
    rows = read_rows(workdir / "metrics.jsonl")
    path = workdir / "diagnosis.jsonl"
    looks = read_rows(path) if path.exists() else []
    task = _longer(run.config, run.task, window, workdir)
    return _subject(run.config, task, run.task, run.params, title, True, rows, looks)


def of_config(config: Config, name: str, window: int) -> Subject:
    """The model of a config at initialisation."""
    trained, optimiser = train.build(config)
    params = stepping.served(initial(config, trained, optimiser))
    task, title = _longer(config, trained, window, None), f"{name} at initialisation"
    return _subject(config, task, trained, params, title, False, [], [])


def _subject(config: Config, task: Task, trained: Task, params: Params, *rest: Any) -> Subject:
    if task.probe is None:
        raise UsageError(f"task '{config.task}' has no model that can be diagnosed")
    return Subject(config, task.probe, task, trained, params, *warm(task, params), *rest)


def untrained(subject: Subject) -> Subject:
    """The same at its initial parameters."""
    optimiser = train.optimiser_of(subject.config, {})
    params = stepping.served(initial(subject.config, subject.trained, optimiser))
    carry, batch = warm(subject.task, params)
    return subject._replace(params=params, carry=carry, batch=batch)


def _longer(config: Config, task: Task, window: int, kept: Path | None) -> Task:
    """The task over `window` steps; for 0 over LONGER windows of training where a task carries its
    state from one to the next, if its data are long enough, and else over one."""
    if window < 0:
        raise UsageError(f"--window must be at least 1, or 0 for what suits the task, got {window}")
    asked = window or (LONGER if _carries(task) else 1) * config.train.window
    if asked == config.train.window and config.model.path != "cudnn":
        return task
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.train.window = asked
        if (
            config.model.path == "cudnn"
        ):  # the same parameters; cuDNN shows nothing of what is inside
            other.model.path = "auto"
    try:
        made, _ = train.build(other, kept)
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


def write(subject: Subject, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Write diagnosis.md and its figures into `folder`; its path. Raises UsageError as `check` does."""
    check(subject)
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for part in (*SECTIONS, *LAYER_SECTIONS):
        say(f"{(part.__doc__ or '').split('.')[0].lower()} ...")
        found = part(subject, folder)
        sections += [] if found is None else [found]
    path = folder / "diagnosis.md"
    write_file(path, _markdown(subject, sections))
    for section in sections:
        for sentence in section.sentences:
            say(f"  {sentence}")
    return path


def _markdown(subject: Subject, sections: Sequence[Section]) -> str:
    model = subject.config.model
    time, rows = subject.probe.inputs(subject.batch)["x"].shape[:2]
    lines = [
        f"# Diagnosis of {subject.title}",
        "",
        f"{model.layers} x {model.hidden} {model.cell}, task {subject.config.task}; measured on "
        f"{rows} rows of {time} steps of its training data, without dropout.",
        "",
        "## In words",
        "",
        *[f"- {sentence}" for section in sections for sentence in section.sentences],
        "",
    ]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [*section.table, ""] if section.table else []
        for name, caption in section.figures:
            link = f"![{caption}]({name})" if name.endswith(".png") else f"[{name}]({name})"
            lines += [link, "", caption, ""]
    return "\n".join(lines)
