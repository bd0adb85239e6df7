"""launch.py, telling in a shared file what it is doing, so that a kill can be aimed.

python -m tests.faults._child FILE ARGUMENTS OF launch.py
"""

import functools
import mmap
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In the order in which a run comes to them.
PHASES = (
    *("start-up", "description", "compilation", "step", "validation", "sample"),
    *("checkpoint", "commit", "retention", "sweep's files", "summary"),
)
SIZE = 4 * (1 + len(PHASES))  # the phase now, and how often each was entered


class Board:
    """What the file says. It is shared memory: a killed process leaves its last word."""

    def __init__(self, path: Path):
        if not path.exists():
            path.write_bytes(bytes(SIZE))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), SIZE)

    def now(self) -> str:
        return PHASES[struct.unpack_from("<I", self.memory, 0)[0]]

    def entered(self, phase: str) -> int:
        return struct.unpack_from("<I", self.memory, 4 + 4 * PHASES.index(phase))[0]

    def enter(self, phase: str) -> None:
        index = PHASES.index(phase)
        struct.pack_into("<I", self.memory, 4 + 4 * index, self.entered(phase) + 1)
        struct.pack_into("<I", self.memory, 0, index)

    def back(self, phase: str) -> None:
        struct.pack_into("<I", self.memory, 0, PHASES.index(phase))


def told(board: Board, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which is in `phase` while it runs."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        before = board.now()
        board.enter(phase)
        try:
            return function(*args, **options)
        finally:
            board.back(before)

    return wrapped


def main(board: Board, arguments: list[str]) -> int:
    board.enter("start-up")
    import launch
    from rnnlab.run import checkpoint
    from rnnlab.sweep import members, population
    from rnnlab.train.record import Record
    from rnnlab.train.single import Single

    places = [
        (Record, "_describe", "description"),
        (Single, "evaluate", "validation"),
        (population.Population, "evaluate", "validation"),
        (Record, "sample", "sample"),
        (checkpoint, "save", "checkpoint"),
        (checkpoint, "_commit", "commit"),
        (checkpoint, "_retain", "retention"),
        (members, "prepare_sweep", "sweep's files"),
        (Record, "finish", "summary"),
    ]
    for owner, name, phase in places:
        setattr(owner, name, told(board, phase, getattr(owner, name)))
    for crew in (Single, population.Population):
        first, later = (told(board, p, crew.advance) for p in ("compilation", "step"))

        def advance(self: Any, *args: Any, first: Any = first, later: Any = later) -> Any:
            return (later if board.entered("compilation") else first)(self, *args)

        crew.advance = advance
    return launch.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Board(Path(sys.argv[1])), sys.argv[2:]))
