"""Runs of an older version (`old_runs/`): this one reads them, says the same of them and goes on with them.

Through the launcher alone, in processes of its own, so that nothing here depends on where a function is.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

OLD = ROOT / "tests" / "old_runs"
EXPECTED = json.loads((OLD / "expected.json").read_text())
# Of the float32 results of another processor, whose sums have another order: of the same parameters,
# and after some more steps.
SAME, LATER = 1e-5, 1e-4
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
SESSION = """
import contextlib, io, json, os, sys
import launch

printed = []
for folder, arguments in json.load(sys.stdin):
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        code = launch.main(arguments)
    if code:
        sys.exit(f"{arguments} ended with {code}")
    printed.append(text.getvalue())
json.dump(printed, sys.stdout)
"""
Session = Callable[[list[tuple[Path, list[str]]]], list[str]]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    """Commands in one process, each in a folder: what they print."""
    cache = tmp_path_factory.mktemp("cache")

    def run(commands: list[tuple[Path, list[str]]]) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", SESSION],
            input=json.dumps([(str(folder), arguments) for folder, arguments in commands]),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RNNLAB_CACHE": str(cache)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def alike(found: str, expected: str, tolerance: float) -> bool:
    """Whether two texts are the same but for the last digits of their decimal numbers."""
    first, second = (list(map(float, DECIMAL.findall(text))) for text in (found, expected))
    if DECIMAL.sub("#", found) != DECIMAL.sub("#", expected):
        return False
    pairs = zip(first, second, strict=True)
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in pairs)


def calls(name: str) -> list[dict[str, Any]]:
    """What was asked of a run and its answers."""
    of = re.compile(rf"--workdir={name}(/|$)")
    return [call for call in EXPECTED["calls"] if any(map(of.match, call["arguments"]))]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def goes_on(resumed: Path, old: Path, rows: list[dict[str, Any]]) -> None:
    """A resumed run has kept its rows, and those that follow are the expected ones."""
    before = (old / "metrics.jsonl").read_text()
    after = (resumed / "metrics.jsonl").read_text()
    assert after.startswith(before)
    found = [json.loads(line) for line in after.removeprefix(before).splitlines()]
    assert [(row["step"], row["split"]) for row in found] == [
        (row["step"], row["split"]) for row in rows
    ]
    for row, expected in zip(found, rows, strict=True):
        assert expected.keys() <= row.keys()
        for key in ("loss", "grad_norm", "learning_rate"):
            if key in expected:
                assert row[key] == pytest.approx(expected[key], rel=LATER), (row["step"], key)
    summary = json.loads((resumed / "summary.json").read_text())
    assert summary["steps"] == rows[-1]["step"]
    assert summary["final_valid_loss"] == pytest.approx(rows[-1]["loss"], rel=LATER)


@pytest.mark.parametrize("name", ["character", "translation"])
def test_a_run_says_the_same_and_goes_on(name, session, tmp_path):
    apart, home = tmp_path / "apart", tmp_path / "home"
    for folder in (apart, home):
        shutil.copytree(OLD / name, folder / name)
    shutil.copy(OLD / "text.txt", home)  # which evaluating and sampling do not need
    asked = calls(name)
    assert {call["arguments"][0] for call in asked} == {"evaluate", "sample"}
    printed = session(
        [(apart, call["arguments"]) for call in asked] + [(home, ["train", f"--workdir={name}"])]
    )
    for call, text in zip(asked, printed, strict=False):
        assert alike(text, call["printed"], SAME), (call, text)
    assert files(apart / name) == files(OLD / name)
    goes_on(home / name, OLD / name, EXPECTED["rows"][name])


def test_a_sweep_says_the_same_and_goes_on(session, tmp_path):
    apart, home = tmp_path / "apart", tmp_path / "home"
    for folder in (apart, home):
        shutil.copytree(OLD / "sweep", folder / "sweep")
    shutil.copy(OLD / "text.txt", home)
    asked = calls("sweep")
    # The sweep comes first, as it makes devices of the cores, for which it must be before JAX runs.
    commands = [(home, ["sweep", "--workdir=sweep"]), (apart, ["report", "--workdir=sweep"])]
    _, _, *printed = session([*commands, *((apart, call["arguments"]) for call in asked)])
    for call, text in zip(asked, printed, strict=True):
        assert alike(text, call["printed"], SAME), (call, text)
    for folder, when, tolerance in ((apart, "before", SAME), (home, "after", LATER)):
        table = (folder / "sweep" / "results.csv").read_text()
        assert alike(table, EXPECTED["results"][when], tolerance), table
    for member in (home / "sweep" / "members").iterdir():
        old, place = OLD / "sweep" / "members" / member.name, f"sweep/members/{member.name}"
        if (old / "summary.json").exists():  # it had ended, and nothing is left to train
            assert files(member) == files(old)
        else:
            goes_on(member, old, EXPECTED["rows"][place])
