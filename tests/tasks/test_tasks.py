"""What holds for every task of a mapping: pure batches, rows apart, learning, resumption, pictures."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from rnnlab import tasks
from rnnlab.run import config as configuration
from rnnlab.train.from_config import build
from rnnlab.train.saved import open_run
from rnnlab.train.session import fit
from rnnlab.train.state import initial_state
from rnnlab.train.step import make_train_step
from rnnlab.types import MAPPINGS
from tests.support import ROOT
from tests.tasks.small import QUICK, task_config

ELSEWHERE = {"language_model", "mnist"}  # and those of memory: tests of their own


def test_every_task_is_tested_here_or_has_tests_of_its_own():
    of_memory = {n for n in tasks.names() if tasks.module(n).ABOUT.experiment in ("memory", n)}
    drawn = {"adding", "copy", "temporal_order"}
    memory = {n for n in of_memory if n not in QUICK and n not in ELSEWHERE} | drawn
    assert {*QUICK, *ELSEWHERE, *memory} == {*tasks.names()}
    for name in memory:
        assert {"sequences", "patterns"} & {*vars(tasks.module(name))}


def test_every_mapping_has_a_task(capsys):
    abouts = {name: tasks.module(name).ABOUT for name in tasks.names()}
    assert {about.mapping for about in abouts.values()} == {*MAPPINGS}
    for about in abouts.values():
        assert (ROOT / "experiments" / f"{about.experiment}.py").exists()
        assert all(about)
    assert launch.main(["tasks"]) == 0
    printed = capsys.readouterr().out
    for name, about in abouts.items():
        assert f"  {name} " in printed
        assert about.metric in printed


@pytest.fixture(scope="module", params=QUICK)
def built(request):
    config = task_config(request.param)
    return (request.param, config, *build(config))


# Of those whose steps take longest to compile; the others are of every run of the tests.
LONG = {"actions", "captions", "speech", "tracking", "translation"}
mostly_slow = pytest.mark.parametrize(
    "built",
    [pytest.param(task, marks=pytest.mark.slow if task in LONG else ()) for task in QUICK],
    indirect=True,
    scope="module",
)


def rows_of(batch, rows):
    """The same batch with these rows alone, as several devices share it out."""
    cut = {0: lambda a: a, 1: lambda a: a[rows]}
    return {k: cut.get(np.ndim(a), lambda a: a[:, rows])(np.asarray(a)) for k, a in batch.items()}


def test_a_batch_is_a_function_of_its_step(built):
    _, config, one, _ = built
    other = tasks.make_task(config)
    for step in (5, 0):
        first, second = one.batch(step), other.batch(step)
        jax.tree.map(np.testing.assert_array_equal, first, second)
    after = one.batch(6)
    assert any(not np.array_equal(first[key], after[key]) for key in first)
    for leaf in first.values():
        assert np.ndim(leaf) == 0 or leaf.shape[np.ndim(leaf) > 1] == 8
    if one.shapes == 1:
        assert {k: np.shape(v) for k, v in first.items()} == {
            k: np.shape(v) for k, v in after.items()
        }


@mostly_slow
def test_no_row_knows_of_another(built):
    _, _, one, _ = built
    params, batch = one.init(jax.random.key(0)), one.batch(0)
    loss = jax.jit(lambda p, b: one.loss(p, one.carry(), b, None)[1]["loss"])
    whole = loss(params, batch)
    parts = [loss(params, rows_of(batch, rows)) for rows in (slice(0, 4), slice(4, 8))]
    for index in range(2):
        total = sum(float(part[index]) for part in parts)
        np.testing.assert_allclose(float(whole[index]), total, rtol=1e-4)


@mostly_slow
def test_a_few_steps_bring_the_loss_down(built, tmp_path):
    _, _, one, optimiser = built
    state = initial_state(one, optimiser, seed=0, average=False)
    before = one.evaluate(state.params)
    take = make_train_step(one, optimiser, average_decay=0.0, reduction="mean", log_every=100)
    for step in range(30):
        state, _ = take(state, one.batch(step))
    after = one.evaluate(state.params)
    assert after["loss"] < before["loss"]
    assert after["baseline_loss"] == one.baseline[1]
    assert all(np.isfinite(value) for value in after.values())
    assert one.show(state.params, 30)
    if one.draw is not None:
        written = one.draw(state.params, tmp_path)
        assert written
        assert all(path.stat().st_size > 0 for path in written)
        assert {*written} == {*tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_stopped_run_goes_on_bit_for_bit(name, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fit(task_config(name, "train.steps=6"), straight, [])
    for steps in (3, 6):
        fit(task_config(name, f"train.steps={steps}"), stopped, [])

    def rows(folder):
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(r["step"], r["loss"], r["grad_norm"]) for r in found if r["split"] == "train"]

    def params(folder):
        return open_run(folder, "latest", print).params

    assert len(rows(straight)) == 6
    assert rows(straight) == rows(stopped)
    jax.tree.map(np.testing.assert_array_equal, params(straight), params(stopped))
    assert jnp.isfinite(rows(straight)[-1][1])


def test_the_page_about_a_task_of_your_own_is_true(tmp_path, monkeypatch, capsys):
    page = (ROOT / "rnnlab" / "tasks" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S)[1]
    assert len(code.splitlines()) <= 45
    (tmp_path / "modulo.py").write_text(code)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(ROOT)
    command = re.search(r"python launch.py (train .*)", page)[1].split()
    small = {
        "train.steps": 40,
        "train.batch_size": 16,
        "model.hidden": 16,
        "optim.learning_rate": 0.01,
    }
    small |= {"train.log_every": 20, "train.sample_every": 0, "train.eval_every": 0}
    changes = [f"--config.{key}={value}" for key, value in small.items()]
    monkeypatch.chdir(ROOT)
    assert launch.main([*command, *changes, f"--workdir={tmp_path / 'run'}"]) == 0
    assert "(baseline 1.0986)" in capsys.readouterr().out
    found = tasks.make_task(configuration.load("experiments/memory.py", ["task=modulo"]))
    batch = found.batch(0)
    asked = batch["targets"][batch["weights"]]
    np.testing.assert_array_equal(asked, batch["inputs"].sum(0) % 3)
    sys.modules.pop("rnnlab.tasks.modulo")
