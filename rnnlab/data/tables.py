"""CSV files: numbers, a row a line, with a heading or without, and perhaps a label in the last column.

A first line is a heading if one of its cells that should be a number is none.
"""

import csv
import io
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.data import textfile
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError

LABELS = ("label", "labels", "class")  # what a heading calls a column of labels


class Table(NamedTuple):
    """The N rows of a file."""

    numbers: np.ndarray  # float64 [N, D]; may not be finite
    labels: tuple[str, ...]  # N, or none
    lines: tuple[int, ...]  # N: where in the file a row ends


def read(
    path: Path, encoding: str | None = None, *, labels: bool | None, named: bool = False
) -> Table:
    """The table of a file. encoding: see `textfile.checked`.

    labels: whether the last column has labels, which may be words; None: if none of its cells is a number.
    named: and also if the heading calls it "label" or "class".

    Raises UsageError, with the line, for a cell that should be a number and is none, a label that is empty,
    or a row of another length than the first one.
    """
    rows, lines = _rows(path, encoding)
    last = [unicodedata.normalize("NFC", row[-1].strip()) for row in rows]
    if len(rows[0]) < 2:
        labels = bool(labels)
    elif labels is None:
        heading = len(rows) > 1 and not all(map(_is_number, rows[0][:-1]))
        labels = not any(map(_is_number, last[heading:]))
        labels |= named and last[0].casefold() in LABELS
    first = int(not all(map(_is_number, rows[0][: len(rows[0]) - labels])))
    found = []
    for row, label, line in list(zip(rows, last, lines, strict=True))[first:]:
        if len(row) != len(rows[first]):
            raise UsageError(
                f"{path}:{line} has {len(row)} columns, and line {lines[first]} {len(rows[first])}"
            )
        if labels and not label:
            raise UsageError(f"{path}:{line} has no label in its last column")
        found.append(_numbers(row[: len(row) - labels], f"{path}:{line}"))
    if not found:
        raise UsageError(f"{path} has no numbers")
    return Table(np.array(found), tuple(last[first:]) if labels else (), tuple(lines[first:]))


def _rows(path: Path, encoding: str | None) -> tuple[list[list[str]], list[int]]:
    """(the cells of each line that is not blank, the numbers of these lines)."""
    with reading(path):
        reader = csv.reader(io.StringIO(textfile.read(path, encoding), newline=""))
        found = [(row, reader.line_num) for row in reader if any(cell.strip() for cell in row)]
    if not found:
        raise UsageError(f"{path} has no numbers")
    return [row for row, _ in found], [line for _, line in found]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: list[str], where: str) -> list[float]:
    if not all(map(_is_number, cells)):
        raise UsageError(f"{where} is not all numbers: {','.join(cells)[:60]}")
    return [float(cell) for cell in cells]
