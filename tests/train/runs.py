"""Small runs, for the tests of what a run leaves behind."""

import os
import signal
from pathlib import Path

from rnnlab.run import config
from rnnlab.train import single
from tests.faults.lab import SMALL, differences
from tests.support import ROOT

STEPS = 30


def made(text: Path, *changes: str):
    return config.load(
        str(ROOT / "experiments" / "default.py"), [*SMALL, f"data.path={text}", *changes]
    )


def assert_same_run(one: Path, other: Path) -> None:
    assert differences(one, other) == []


def stop_after(monkeypatch, step: int) -> None:
    """SIGTERM once the step has been taken, as a scheduler would send it."""
    make = single.make_train_step

    def counted(*args, **kwargs):
        inner = make(*args, **kwargs)

        def step_and_kill(state, batch):
            state, report = inner(state, batch)
            if int(report["step"]) == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return state, report

        return step_and_kill

    monkeypatch.setattr(single, "make_train_step", counted)
