"""The cells. A file's name is its cell's name: `rnnlab/cells/lstm.py` is `get("lstm")`.

A cell file has `make(**options) -> Cell` and, optionally, `PRESETS`: the options that reproduce the
conventions of a peer library ("torch", "flax", "keras"). Adding a cell is adding one file.
"""

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from rnnlab.parts import Options
from rnnlab.types import Cell, UsageError


def names() -> tuple[str, ...]:
    """The names of all cells, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != "_"))


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def option_names(name: str) -> tuple[str, ...]:
    """The options that `get(name, ...)` takes."""
    module = importlib.import_module(f"{__name__}.{name}")
    named = []
    for option in inspect.signature(module.make).parameters.values():
        if option.kind is option.VAR_KEYWORD:
            named += list(inspect.signature(Options).parameters)
        else:
            named.append(option.name)
    return tuple(named)


def get(name: str, *, preset: str | None = None, **options: Any) -> Cell:
    """The cell called `name`, e.g. `get("lstm", hidden=512, gate_bias=1.0)`.

    preset: "torch", "flax" or "keras": start from that library's conventions (initialisation,
        biases, gate bias); options given beside it win.

    Raises UsageError for an unknown cell, preset or option (with the nearest name) or a bad value.
    """
    if name not in names():
        raise UsageError(
            f"unknown cell '{name}': {_nearest(name, names())}there are {', '.join(names())}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    if preset:
        presets = getattr(module, "PRESETS", {})
        if preset not in presets:
            raise UsageError(
                f"cell '{name}' has no preset '{preset}': "
                f"{_nearest(preset, presets)}there are {', '.join(presets) or 'none'}"
            )
        options = presets[preset] | options
    known = option_names(name)
    for option in options:
        if option not in known:
            raise UsageError(
                f"cell '{name}' has no option '{option}': "
                f"{_nearest(option, known)}there are {', '.join(known)}"
            )
    if "hidden" not in options:
        raise UsageError(f"cell '{name}' needs the option 'hidden', its number of units")
    return module.make(**options)
