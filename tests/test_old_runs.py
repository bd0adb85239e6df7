"""Runs of an older version (`old_runs/`): this one reads them, says the same of them and goes on with them.

Through the launcher alone, in a process of its own, so that nothing here depends on where a function is.
"""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import ROOT

OLD = ROOT / "tests" / "old_runs"
RUNS = ("sweep", "character", "translation")
EXPECTED = json.loads((OLD / "expected.json").read_text())
# Of the float32 results of another processor, whose sums have another order: of the same parameters,
# and after some more steps.
SAME, LATER = 1e-5, 1e-4
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
SESSION = """
import contextlib, io, json, os, sys
import launch

ends = []
for folder, arguments in json.load(sys.stdin):
    os.chdir(folder)
    told, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(warned):
        code = launch.main(arguments)
    ends.append((code, told.getvalue(), warned.getvalue()))
json.dump(ends, sys.stdout)
"""


class Session(NamedTuple):
    """What has been done with copies of the runs, in one process."""

    apart: Path  # the folder in which they were only read from, and which has no text
    home: Path  # the folder in which they were resumed
    printed: dict[str, list[str]]  # by run: of EXPECTED's calls, in their order


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    apart, home = tmp_path_factory.mktemp("apart"), tmp_path_factory.mktemp("home")
    for name in RUNS:
        for folder in (apart, home):
            shutil.copytree(OLD / name, folder / name)
    shutil.copy(OLD / "text.txt", home)
    # The sweep comes first, as it makes devices of the cores, for which it must be before JAX runs.
    commands = [(home, ["sweep", "--workdir=sweep"]), (apart, ["report", "--workdir=sweep"])]
    commands += [(apart, call["arguments"]) for name in RUNS for call in calls(name)]
    commands += [(home, ["train", f"--workdir={name}"]) for name in ("character", "translation")]
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps([(str(folder), arguments) for folder, arguments in commands]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "RNNLAB_CACHE": str(tmp_path_factory.mktemp("cache"))}
        | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # to compile in half the time
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    for (_, arguments), (code, _, warned) in zip(commands, ends, strict=True):
        assert code == 0, (arguments, warned)
    told = iter(text for _, text, _ in ends[2:])
    return Session(apart, home, {name: [next(told) for _ in calls(name)] for name in RUNS})


def alike(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two texts are the same but for the last digits of their decimal numbers; of JSON objects
    and rows of tables what is expected, beside which a later version may say more."""
    if isinstance(expected, dict):
        return all(key in found and alike(found[key], expected[key], tolerance) for key in expected)
    first, second = str(found), str(expected)
    if DECIMAL.sub("#", first) != DECIMAL.sub("#", second):
        return False
    pairs = zip(DECIMAL.findall(first), DECIMAL.findall(second), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=tolerance) for a, b in pairs)


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


@pytest.mark.parametrize("name", RUNS)
def test_evaluating_and_sampling_give_the_same(name, session):
    for call, text in zip(calls(name), session.printed[name], strict=True):
        read = json.loads if "--json" in call["arguments"] else str
        assert alike(read(text), read(call["printed"]), SAME), (call, text)
    if name != "sweep":  # of which a report has been written
        assert files(session.apart / name) == files(OLD / name)


@pytest.mark.parametrize("name", ["character", "translation"])
def test_a_run_goes_on(name, session):
    goes_on(session.home / name, OLD / name, EXPECTED["rows"][name])


def test_a_sweep_goes_on_and_is_reported(session):
    for folder, when, tolerance in (
        (session.apart, "before", SAME),
        (session.home, "after", LATER),
    ):
        table = csv.DictReader((folder / "sweep" / "results.csv").read_text().splitlines())
        expected = csv.DictReader(EXPECTED["results"][when].splitlines())
        for found, row in zip(table, expected, strict=True):
            assert alike(found, row, tolerance), (found, row)
    for member in (session.home / "sweep" / "members").iterdir():
        old, place = OLD / "sweep" / "members" / member.name, f"sweep/members/{member.name}"
        if (old / "summary.json").exists():  # it had ended, and nothing is left to train
            assert files(member) == files(old)
        else:
            goes_on(member, old, EXPECTED["rows"][place])
