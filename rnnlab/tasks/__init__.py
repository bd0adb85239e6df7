"""The tasks. A file's or folder's name is its task's name; it has `make_task(config, kept=None) -> Task`.

`kept` is the folder of a finished or running run, from which a task takes what it keeps there
(`Task.keep`), so that evaluating and sampling need nothing but the run. The files that a config names
are kept there for every task alike; a module's READS says which of a folder's files those are. Adding a
task is adding one file, or one folder.
"""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from rnnlab.errors import UsageError, nearest
from rnnlab.tasks.kinds import sources
from rnnlab.types import Config, Task

NOT_TASKS = ("kinds", "metrics")  # what tasks are made with and judged by


def names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name[0] != "_" and name not in NOT_TASKS))


def module(name: str) -> Any:
    """The module of the task `name`. Raises UsageError for an unknown one."""
    if name not in names():
        hint = nearest(name, names())
        raise UsageError(f"unknown task '{name}': {hint}there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def summary(name: str) -> str:
    """The first line of the docstring of the task `name`, by its source: `python -OO` keeps no other."""
    tree = ast.parse(inspect.getsource(module(name)))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def make_task(config: Config, kept: Path | None = None, run: Path | None = None) -> Task:
    """The task that `config.task` names.

    kept: see above. run: the folder of a run that goes on, whose copies stand in for files that have
        gone. What the task reads is copied into a run's folder by `Task.keep` (`run.sources`).
    """
    made_by = module(config.task)
    reads = getattr(made_by, "READS", sources.Reads())
    place = kept if kept is not None else run
    found = config
    if place is not None:
        found = sources.located(config, place, own=kept is not None, strict=reads.at_once)
    task = made_by.make_task(found, kept)

    def keep(folder: Path) -> None:
        task.keep(folder)
        sources.keep(config, folder, reads)

    return task._replace(keep=keep)
