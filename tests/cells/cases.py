"""Every cell with every option that it takes: the cases of the tests of cells and of their gradients."""

import importlib
import inspect
from typing import Any, NamedTuple

from rnnlab import cells
from rnnlab.cells import parts
from rnnlab.errors import UsageError

T, B, D, H = 5, 2, 3, 4


COMMON: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer_norm": {"layer_norm": True},
    "dropout_candidate": {"recurrent_dropout": 0.4, "recurrent_dropout_on": "candidate"},
    "dropout_state": {
        "recurrent_dropout": 0.4,
        "recurrent_dropout_on": "state",
        "recurrent_dropout_shared": True,
    },
    "zoneout": {"zoneout": 0.3, "hidden_bias": True},
    "everything": {
        "hidden_bias": True,
        "layer_norm": True,
        "recurrent_dropout": 0.4,
        "recurrent_dropout_on": "state",
        "zoneout": 0.3,
    },
}


# The values, other than the default, of the options that a cell adds; a bool needs no entry.
CHOICES = {("gru", "reset"): ("before",), ("rnn", "activation"): ("relu",)}


class Case(NamedTuple):
    cell: str
    own: tuple[tuple[str, Any], ...]
    label: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.own) | COMMON[self.label]


def own_variants(name: str) -> list[tuple[tuple[str, Any], ...]]:
    make = importlib.import_module(f"rnnlab.cells.{name}").make_cell
    shared = inspect.signature(parts.Options).parameters
    variants: list[tuple[tuple[str, Any], ...]] = [()]
    for option in inspect.signature(make).parameters.values():
        if option.name in shared:
            continue
        values = CHOICES.get((name, option.name), ())
        if isinstance(option.default, bool):
            values = (not option.default,)
        variants += [((option.name, value),) for value in values]
    return variants


def find_cases() -> tuple[list[Case], list[Case]]:
    """The cases that exist, and those that a cell refuses."""
    found, refused = [], []
    for name in cells.names():
        for own in own_variants(name):
            for label in COMMON if not own else ("plain", "everything"):
                case = Case(name, own, label)
                if not set(case.options) <= set(cells.option_names(name)):
                    continue
                try:
                    cells.get(name, hidden=H, **case.options)
                except UsageError:
                    refused.append(case)
                else:
                    found.append(case)
    return found, refused


CASES, REFUSED = find_cases()


def label(case: Case) -> str:
    return "-".join([case.cell, *(f"{k}={v}" for k, v in case.own), case.label])
