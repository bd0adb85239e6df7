"""The cells. A file's name is its cell's name: `rnnlab/cells/lstm.py` is `get("lstm")`.

A cell file has `make_cell(**options) -> Cell` and, optionally, `PRESETS`: the options that reproduce the
conventions of a peer library ("torch", "flax", "keras"). Adding a cell is adding one file.
"""

import importlib
import inspect
import pkgutil
from typing import Any

from rnnlab.cells.parts import Options
from rnnlab.errors import UsageError, nearest
from rnnlab.types import Cell


def names() -> tuple[str, ...]:
    """The names of all cells, sorted."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if name[0] != "_" and name != "parts"))


def option_names(name: str) -> tuple[str, ...]:
    """The options that `get(name, ...)` takes."""
    module = importlib.import_module(f"{__name__}.{name}")
    named = []
    for option in inspect.signature(module.make_cell).parameters.values():
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
            f"unknown cell '{name}': {nearest(name, names())}there are {', '.join(names())}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    if preset:
        presets = getattr(module, "PRESETS", {})
        if preset not in presets:
            raise UsageError(
                f"cell '{name}' has no preset '{preset}': "
                f"{nearest(preset, [*presets])}there are {', '.join(presets) or 'none'}"
            )
        options = presets[preset] | options
    known = option_names(name)
    for option in options:
        if option not in known:
            raise UsageError(
                f"cell '{name}' has no option '{option}': "
                f"{nearest(option, known)}there are {', '.join(known)}"
            )
    if "hidden" not in options:
        raise UsageError(f"cell '{name}' needs the option 'hidden', its number of units")
    return module.make_cell(**options)
