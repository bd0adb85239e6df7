"""Damaged files: each file of a checkpoint, and of the run folder, deleted, cut short, a bit flipped.

A checkpoint survives damage if restoring names the file, falls back to the newest one that is whole,
deletes nothing, and raises CheckpointError (exit code 4) where none is left. A file of the run folder
survives it if resuming, by the command a user types, names the file and ends in the same run to the bit
as the one that nothing has damaged: the checkpoint holds a copy. Evaluating names it and ends with 2, or
4 for the checkpoint.
"""

import contextlib
import io
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from rnnlab.errors import CheckpointError
from rnnlab.run import checkpoint
from rnnlab.train.from_config import build
from rnnlab.train.session import fit
from rnnlab.train.state import configured_state
from tests.faults import lab as laboratory
from tests.faults.lab import Lab, Tally

SHORT = 0.01
FLIPS = 100  # of one bit each, in each file of a checkpoint
KEPT = ("config.json", "run.json", "vocabulary.json")  # of the run folder; and what it grows by
FILES = (*KEPT, "summary.json", "metrics.jsonl", "samples.txt")


def flip(path: Path, draw: random.Random) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(b"\1")
        return
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    """Keep a beginning alone, which may be empty."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))] if content else b"\1")


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "bit flipped": flip,
    "cut short": cut,
    "deleted": remove,
}


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def _checkpoints(lab: Lab, share: float) -> Iterator[Tally]:
    root = lab.place("damaged")
    shutil.copytree(lab.straight / "checkpoints", root)
    settings = lab.config()
    task, optimiser = build(settings)
    template = jax.eval_shape(lambda: configured_state(settings, task, optimiser))
    *others, newest = checkpoint.steps(root)
    victim = root / f"{newest:08d}"
    files = sorted(p for p in victim.rglob("*") if p.is_file())

    def problem(path: Path, damage: Callable[[Path, random.Random], None], alone: bool) -> str:
        content = path.read_bytes()
        away = [(root / f"{n:08d}", root.parent / f"away-{n}") for n in others if alone]
        for there, elsewhere in away:
            there.rename(elsewhere)
        damage(path, lab.random)
        before, told = names(root), []
        try:
            found = checkpoint.restore(
                root, template, fingerprint=task.fingerprint, warn=told.append
            )
            step = found[1]["step"] if found else None
        except CheckpointError as error:
            step = error.exit_code
        after = names(root)
        path.write_bytes(content)
        for there, elsewhere in away:
            elsewhere.rename(there)
        where = path.relative_to(victim).as_posix()
        if step != (4 if alone else others[-1]):
            return f"{where}: it ended with {step}"
        if len(told) != 1 or path.name not in told[0]:
            return f"{where}: it was told {told}"
        return "" if before == after else f"{where}: {before ^ after} came or went"

    for name, damage in DAMAGE.items():
        row = Tally(f"a file of the newest checkpoint {name}")
        for path in files:
            for _ in range(lab.many(FLIPS, share) if name == "bit flipped" else 1):
                row.count("named; fell back", problem(path, damage, alone=False))
        yield row
    row = Tally("a file of the only checkpoint damaged")
    for path in files:
        for damage in DAMAGE.values():
            row.count("named; exit 4", problem(path, damage, alone=True))
    yield row


def resumed(workdir: Path) -> str:
    """What `train --workdir` says on standard error, in this process."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as said,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        fit(None, workdir, [])
    return said.getvalue()


def _run_folder(lab: Lab, share: float) -> Iterator[Tally]:
    stopped = lab.place("stopped")  # as a kill after its last checkpoint but one leaves it
    shutil.copytree(lab.straight, stopped)
    shutil.rmtree(stopped / "checkpoints" / f"{checkpoint.steps(stopped / 'checkpoints')[-1]:08d}")
    (stopped / "summary.json").unlink()

    def problem(whole: Path, name: str, damage: Callable[[Path, random.Random], None]) -> str:
        workdir = lab.place("resumed")
        shutil.copytree(whole, workdir)
        damage(workdir / name, lab.random)
        said = resumed(workdir)
        found = laboratory.differences(lab.straight, workdir)
        shutil.rmtree(workdir)
        if name not in said:
            return f"{name}: it said {said!r}"
        return f"{name}: another run: {found}" if found else ""

    row = Tally(f"{', '.join(FILES)} damaged, then resumed")
    for index, name in enumerate(FILES):
        damages = list(DAMAGE.values())
        for damage in damages if share > SHORT else damages[index % 3 :][:1]:
            # A summary that is missing is one that has not been written yet.
            if name == "summary.json" and damage is remove:
                continue
            for number in range(lab.many(16, share) if damage is flip else 1):
                # What is left to train of the stopped run takes longer than all else.
                goes_on = share == 1 and number == 0 and name in KEPT
                row.count(
                    "named; put back", problem(stopped if goes_on else lab.straight, name, damage)
                )
    yield row


def _verbs(lab: Lab, share: float) -> Iterator[Tally]:
    row = Tally("the same, then evaluate")
    files = {"config.json": 2, "vocabulary.json": 2, "valid.npy": 2, "run.json": 2}
    newest = sorted((lab.straight / "checkpoints").rglob("manifest.json"))[-1]
    kinds = [*files.items(), (newest.relative_to(lab.straight).as_posix(), 4)]
    for name, code in kinds[: lab.many(len(kinds), share)]:
        workdir = lab.place("evaluated")
        shutil.copytree(lab.straight, workdir)
        if code == 4:
            shutil.rmtree(workdir / "checkpoints")
            shutil.copytree(newest.parent, (workdir / name).parent)
        flip(workdir / name, lab.random)
        told = Path(name).name
        done = lab.run("evaluate", f"--workdir={workdir}")
        row.count(f"exit {code}, named", done.wrong(code, told))
    yield row


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    yield from _checkpoints(lab, share)
    yield from _run_folder(lab, share)
    yield from _verbs(lab, share)
