"""A run that comes to steps that are not finite: it stops there, or goes on without them."""

import json

import jax
import numpy as np
import pytest

from rnnlab import tasks
from rnnlab.errors import DivergedError, Interrupted
from rnnlab.train import single
from rnnlab.train.saved import open_run
from rnnlab.train.session import fit
from tests.faults.lab import rows
from tests.train.runs import STEPS, made, stop_after


def test_divergence_stops_and_keeps_the_last_good_state(text, tmp_path):
    workdir = tmp_path / "run"
    wild = ("optim.name=sgd", "optim.learning_rate=1e38", "optim.clip_norm=inf")
    with pytest.raises(DivergedError) as error:
        fit(made(text, *wild, "optim.warmup_steps=0", "optim.ema=0"), workdir, [])
    assert error.value.exit_code == 3
    message = str(error.value)
    assert "step" in message
    assert "threshold inf" in message
    assert "\n" not in message
    run = open_run(workdir, "latest", print)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


@pytest.mark.slow
def test_divergence_is_found_in_a_group_too(text, tmp_path):
    wild = ("optim.name=sgd", "optim.learning_rate=1e38", "optim.clip_norm=inf", "optim.ema=0")
    told = []
    for count in (1, 3):
        with pytest.raises(DivergedError) as error:
            fit(
                made(text, *wild, "optim.warmup_steps=0", f"train.steps_per_dispatch={count}"),
                tmp_path / str(count),
                [],
            )
        told.append(str(error.value))
    assert told[0] == told[1]
    assert rows(tmp_path / "1") == rows(tmp_path / "3")


def struck(patch, value: float, *bad: int) -> None:
    """From now on the loss of the steps `bad` is `value`."""
    make = tasks.make_task

    def changed(config, kept=None, run=None):
        task = make(config, kept, run)

        def batch(n):
            return {**task.batch(n), "bad": np.float32(value if n + 1 in bad else 0.0)}

        def loss(params, carry, batch, key, **options):
            carry, sums = task.loss(params, carry, batch, key, **options)
            return carry, {"loss": (sums["loss"][0] + batch["bad"], sums["loss"][1])}

        return task._replace(batch=batch, loss=loss)

    patch.setattr(tasks, "make_task", changed)


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_without_the_step(text, tmp_path, monkeypatch, capsys):
    """It was resumed at its best checkpoint, which must stay that, and stops at the next step."""
    struck(monkeypatch, np.nan, 11, 20, 23)
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        with pytest.raises(Interrupted):
            fit(made(text), tmp_path, [])
    with pytest.raises(DivergedError) as error:
        fit(None, tmp_path, [])
    told = str(error.value)
    assert told.startswith("diverged at step 11: the loss is not finite, and neither is bad in its")
    assert "step 10, is kept" in told
    assert "train.skip_faults=1 with --config=FILE" in told
    assert json.loads((tmp_path / "summary.json").read_text())["diverged_at"] == 11
    assert open_run(tmp_path, "best", pytest.fail).meta["metric"] > 0
    with pytest.raises(
        DivergedError, match=r"at step 23: .*2 of 2 steps .* skipped before: 11, 20"
    ):
        fit(made(text, "train.skip_faults=2"), tmp_path, [])
    fit(made(text, "train.skip_faults=3"), tmp_path, [])
    counts = {row["step"]: row.get("skipped") for row in rows(tmp_path) if row["split"] == "train"}
    assert counts == {4: None, 8: None, 12: 1, 16: 1, 20: 2, 24: 3, 28: 3}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["skipped"], summary["steps"], "diverged_at" in summary) == (3, STEPS, False)
    warned = [line for line in capsys.readouterr().err.split("\n") if "is skipped" in line]
    assert [line.split("step ")[1].split(":")[0] for line in warned] == [
        *("11 is skipped, 1 of 2", "20 is skipped, 2 of 2", "23 is skipped, 3 of 3")
    ]


def test_a_damaged_state_is_not_saved(text, tmp_path, monkeypatch):
    make = single.make_train_step

    def damaging(*args, **kwargs):
        inner = make(*args, **kwargs)

        def step(state, batch):
            if int(state.step) == 8:
                state = state.replace(params=jax.tree.map(lambda p: p * np.nan, state.params))
            return inner(state, batch)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(single, "make_train_step", damaging)
        with pytest.raises(DivergedError) as error:
            fit(made(text), tmp_path, [])
    told = str(error.value)
    assert "at step 9: the loss is not finite (" in told
    assert (
        "the last good state, step 7, is kept: before that step the parameter layers/0/bias" in told
    )
    run = open_run(tmp_path, "latest", pytest.fail)
    assert run.meta["step"] == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
