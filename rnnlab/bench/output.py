"""What the benchmark prints: tables in Markdown and notes as they come, or one JSON object."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from rnnlab.run import machine


class Report:
    """What is printed: tables and lines at once, or one JSON object at the end."""

    def __init__(self, target: str | None, facts: dict[str, Any]):
        self.target, self.failed = target, False
        self.content: dict[str, Any] = {**facts, "tables": [], "notes": []}
        if target not in (None, "-"):
            with open(target, "a", encoding="utf-8"):
                pass  # a file that cannot be written is known now, not at the end
        self._print(machine.facts_line(facts["machine"]) + "\n")

    def _print(self, text: str) -> None:
        # JSON on standard output leaves standard error to what a person reads meanwhile.
        print(text, file=sys.stderr if self.target == "-" else sys.stdout, flush=True)

    def progress(self, text: str) -> None:
        """What is going on, for a person who watches."""
        if sys.stderr.isatty():
            print(f"... {text}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """One line beside the tables."""
        self.content["notes"].append(line)
        self._print(line + "\n")

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """A table of rows with the same keys; None is an empty field."""
        self.content["tables"].append({"title": title, "rows": rows})
        self._print(
            f"{title}\n\n{to_markdown(rows)}\n" if rows else f"{title}: nothing was measured\n"
        )

    def finish(self) -> None:
        """Write the JSON, if it was asked for."""
        if self.target is None:
            return
        text = json.dumps(self.content, indent=2) + "\n"
        if self.target == "-":
            print(text, end="")
        else:
            Path(self.target).write_text(text, encoding="utf-8")


def format_field(value: Any) -> str:
    """A field of a table: three significant digits or so."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or (value and abs(value) < 1e-3):
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table in GitHub's Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[format_field(row[name]) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
