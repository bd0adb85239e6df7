"""A run in processes of its own, interrupted and killed anywhere, is that of an undisturbed one."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.lab import SMALL
from tests.support import ROOT
from tests.train.runs import STEPS, assert_same_run


def command(workdir: Path, text: Path, *changes: str) -> list[str]:
    overrides = [f"--config.{c}" for c in [*SMALL, f"data.path={text}", *changes]]
    return [
        sys.executable,
        str(ROOT / "launch.py"),
        "train",
        f"--config={ROOT / 'experiments' / 'default.py'}",
        f"--workdir={workdir}",
        *overrides,
    ]


def launched(workdir: Path, text: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(workdir, text), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def launched_straight(text, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("launched") / "run"
    done = launched(workdir, text)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("k", range(1, STEPS))
def test_every_k_in_separate_processes(k, launched_straight, text, tmp_path):
    """30 steps = k steps + stop + resume + 30 - k steps, bit for bit."""
    workdir = tmp_path / "run"
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import launch; "
        "from rnnlab.train import single; make = single.make_train_step\n"
        "def counted(*a, **o):\n"
        "    inner = make(*a, **o)\n"
        "    def step(state, batch):\n"
        "        state, report = inner(state, batch)\n"
        f"        if int(report['step']) == {k}: os.kill(os.getpid(), signal.SIGINT)\n"
        "        return state, report\n"
        "    return step\n"
        "single.make_train_step = counted\n"
        "sys.exit(launch.main(sys.argv[2:]))\n"
    )
    arguments = command(workdir, text)[2:]
    first = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert first.returncode == 130, first.stderr
    assert "resume with" in first.stderr
    second = launched(workdir, text)
    assert second.returncode == 0, second.stderr
    assert_same_run(launched_straight, workdir)


@pytest.mark.slow
def test_killed_at_random_moments_twenty_times(launched_straight, text, tmp_path):
    """kill -9 at any time, even while a checkpoint is written: the run is that of an undisturbed one."""
    draw = random.Random(1)
    kills, attempt = 0, 0
    while kills < 20:
        attempt += 1
        assert attempt < 20
        workdir = tmp_path / f"run{attempt}"
        while True:
            process = subprocess.Popen(
                command(workdir, text), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            # From the first words of the process on, so that most kills hit training or saving;
            # later and later, so that a busy machine too comes to the end of a run.
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0.0, 2.5 + 0.2 * kills))
            ended = process.poll() is not None
            process.kill()
            _, errors = process.communicate()
            if ended:
                assert process.returncode == 0, errors
                break
            kills += 1
        assert_same_run(launched_straight, workdir)
