"""The tasks. A file's or folder's name is its task's name; it has `make_task(config, kept=None) -> Task`.

`kept` is the folder of a finished or running run, from which a task takes what it keeps there
(`Task.keep`), so that evaluating and sampling need nothing but the run. Adding a task is adding
one file, or one folder.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from rnnlab.errors import UsageError, nearest
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


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task that `config.task` names."""
    return module(config.task).make_task(config, kept)
