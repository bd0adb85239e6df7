"""The flags of the benchmark's suites: their values, and how lists of them are spelt."""

import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from rnnlab.errors import UsageError


class Options(SimpleNamespace):
    """The flags, checked: `threads`, and those in the suite's entry of SUITES, by name; and
    `program`, which the suites startup and sweep launch.

    shapes: (L, H, B, T) each. cells, libraries, batch: tuples too.
    """

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the suite has no flag '{name}'")

    def flags(self) -> dict[str, Any]:
        """Name -> value, of the flags alone."""
        return {name: value for name, value in vars(self).items() if name != "program"}

    def times(self) -> list[int]:
        """64, 256, 1024 ... up to max_time."""
        return [64 * 4**k for k in range(16) if 64 * 4**k <= self.max_time] or [self.max_time]


def parse_names(flag: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """The names in a comma-separated list, without repeats. Raises UsageError for an unknown one."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in found or ("",):
        if name not in known:
            raise UsageError(f"--{flag}: no '{name}', there are {', '.join(known)}")
    return found


def parse_numbers(flag: str, text: str) -> tuple[int, ...]:
    """The positive integers in a comma-separated list. Raises UsageError for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--{flag} takes positive integers, such as 1,64; got '{text}'")
    return tuple(int(word) for word in words)


def parse_shapes(text: str) -> tuple[tuple[int, int, int, int], ...]:
    """(L, H, B, T) of each of "3x512xB64xT128,...". Raises UsageError for anything else."""
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)xB([1-9]\d*)xT([1-9]\d*)", word.strip())
        if match is None:
            raise UsageError(
                f"--shapes takes LxHxBbatchxTtime, such as 2x128xB50xT50; got '{word}'"
            )
        layers, hidden, batch, steps = map(int, match.groups())
        found.append((layers, hidden, batch, steps))
    return tuple(found)
