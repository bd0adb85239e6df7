"""The tasks. A file's name is its task's name; it has `make(config, kept=None) -> Task`.

`kept` is the folder of a finished or running run, from which a task takes what it keeps there
(`Task.keep`), so that evaluating and sampling need nothing but the run. Adding a task is adding
one file.
"""

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from rnnlab.types import Config, Task, UsageError


def names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != "_"))


def module(name: str) -> Any:
    """The module of the task `name`. Raises UsageError for an unknown one."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"unknown task '{name}': {hint}there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def make(config: Config, kept: Path | None = None) -> Task:
    """The task that `config.task` names."""
    return module(config.task).make(config, kept)
