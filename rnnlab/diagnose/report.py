"""The report of the verb diagnose: diagnosis.md, of what the gradients of a model do, and why.

Every sentence in it follows from a number by the rule that the function which makes it states.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import rnnlab.diagnose
from rnnlab.diagnose.subject import Findings, Section, Subject, check_finite
from rnnlab.errors import UsageError, one_line
from rnnlab.run.files import write_file


class Part(NamedTuple):
    """What has become of a section that applies."""

    title: str
    found: Findings
    refused: str = ""  # why it could not be measured


def sections() -> list[Section]:
    """The constant SECTION of every module of this package that has one, by their order."""
    package = rnnlab.diagnose
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    found = [module.SECTION for module in modules if hasattr(module, "SECTION")]
    return sorted(found, key=lambda section: section.order)


def write_report(subject: Subject, folder: Path, *, say: Callable[[str], None]) -> Path:
    """Write diagnosis.md and its figures into `folder`; its path.

    Each section stands alone: one that raises UsageError is a line of the report, which has all others.

    Raises UsageError as `check_finite` does.
    """
    check_finite(subject)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for section in sections():
        say(f"{section.title} ...")
        part = examined(section, subject, folder)
        parts += [] if part is None else [part]
    path = folder / "diagnosis.md"
    write_file(path, _markdown(subject, parts))
    for sentence in _sentences(parts):
        say(f"  {sentence}")
    return path


def examined(section: Section, subject: Subject, folder: Path) -> Part | None:
    """What a section has found, or why it could not be measured; None where it does not apply."""
    try:
        found = section.examine(subject, folder)
    except UsageError as error:
        return Part(section.title, Findings([], []), one_line(error).rstrip("."))
    return None if found is None else Part(section.title, found)


def _sentences(parts: Sequence[Part]) -> list[str]:
    """All that is said, in the order of the sections."""
    said = []
    for part in parts:
        said += [f"{part.title}: not measured, as {part.refused}."] if part.refused else []
        said += part.found.sentences
    return said


def _markdown(subject: Subject, parts: Sequence[Part]) -> str:
    model = subject.config.model
    time, rows = subject.probe.inputs(subject.batch)["x"].shape[:2]
    lines = [
        f"# Diagnosis of {subject.title}",
        "",
        f"{model.layers} x {model.hidden} {model.cell}, task {subject.config.task}; measured on "
        f"{rows} rows of {time} steps of its training data, without dropout.",
        "",
        "## In words",
        "",
        *[f"- {sentence}" for sentence in _sentences(parts)],
        "",
    ]
    for part in parts:
        lines += [f"## {part.title}", ""]
        lines += [f"Not measured: {part.refused}.", ""] if part.refused else []
        lines += [*part.found.table, ""] if part.found.table else []
        for name, caption in part.found.figures:
            link = f"![{caption}]({name})" if name.endswith(".png") else f"[{name}]({name})"
            lines += [link, "", caption, ""]
    return "\n".join(lines)
