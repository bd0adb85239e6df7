"""Weights of another run to begin with: vocabularies matched by symbol, and what is refused."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run.files import read_json
from rnnlab.sweep import execute, slurm
from rnnlab.sweep.members import declare_members, group_members
from rnnlab.train import start
from rnnlab.train.from_config import build
from rnnlab.train.saved import open_run
from rnnlab.train.session import fit
from rnnlab.train.state import configured_state
from tests.support import ROOT

SMALL = (
    *("model.hidden=6", "model.layers=1", "train.steps=2", "train.batch_size=2", "train.window=8"),
    *(
        "train.log_every=1",
        "train.sample_every=0",
        "optim.warmup_steps=0",
        "optim.schedule=constant",
    ),
    *("eval.streams=2", "eval.burn_in=0", "eval.window=8", "eval.random_windows=2"),
    *("eval.random_window=8", "sample.length=3", "data.valid_fraction=0.2", "parallel.devices=1"),
)
OLD, NEW = "abcdef gh" * 40, "defghi jklé" * 40


def made(folder: Path, text: str, *more: str):
    path = folder / f"{abs(hash(text))}.txt"
    path.write_text(text)
    overrides = [*SMALL, f"data.path={path}", *more]
    return configuration.load(ROOT / "experiments" / "default.py", overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    fit(made(folder, OLD), folder / "run")
    return folder / "run"


def named(params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def first_state(config):
    task, optimiser = build(config)
    fresh = configured_state(config, task, optimiser)
    found = start.plan(config, task)
    assert found is not None
    return task, found, fresh, start.begun(found, fresh, optimiser)


def test_symbols_are_matched_and_the_rest_is_drawn_afresh(trained, tmp_path):
    config = made(tmp_path, NEW, f"train.init_from={trained}")
    task, found, fresh, state = first_state(config)
    old = open_run(trained)
    before, drawn, after = named(old.params), named(fresh.params), named(state.params)
    there, here = old.task.symbols["text"], task.symbols["text"]
    seen = set()
    for path, leaf in after.items():
        if leaf.shape == before[path].shape and path not in found.axes:
            np.testing.assert_array_equal(leaf, before[path])
            continue
        ((axis, name),) = found.axes[path]
        assert name == "text"
        for place, symbol in enumerate(here):
            source = before[path] if symbol in there else drawn[path]
            at = there.index(symbol) if symbol in there else place
            np.testing.assert_array_equal(leaf.take(place, axis), source.take(at, axis))
        seen.add(path)
    assert seen == {"layers/0/kernel_x", "readout/kernel", "readout/bias"}
    assert found.facts["new_symbols"] == {"text": ["i", "j", "k", "l", "é"]}
    assert found.facts["left_symbols"] == {"text": ["a", "b", "c"]}
    assert "of 11 symbols (text) 6 are known there, new and drawn afresh: 5 ('i' 'j'" in found.told
    assert int(state.step) == 0
    same = jax.tree.map(np.array_equal, state.average, state.params)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    "more",
    [
        ("model.input=embedding", "model.embedding_size=6"),
        ("model.input=embedding", "model.embedding_size=6", "model.tied=True"),
        ("model.skip=True", "model.layers=2"),
    ],
)
def test_the_axes_of_every_kind_of_model_are_found(more, tmp_path):
    task, _ = build(made(tmp_path, OLD, *more))
    axes = start._axes(task)
    size = len(task.symbols["text"])
    shapes = named(task.init(jax.random.key(0)))
    assert {path for path, leaf in shapes.items() if size in leaf.shape} == axes.keys()


def test_a_run_begins_there_and_is_resumed_without_it(trained, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    config = made(tmp_path, OLD, f"train.init_from={old}:latest", "optim.learning_rate=1e-30")
    fit(config, tmp_path / "run")
    assert f"the weights are those of {old}, step 2" in capsys.readouterr().out
    said = read_json(tmp_path / "run" / "run.json")["init_from"]
    assert (said["folder"], said["step"], len(said["sha256"])) == (str(old), 2, 64)
    before, after = named(open_run(old).params), named(open_run(tmp_path / "run").params)
    for path, leaf in after.items():
        np.testing.assert_allclose(leaf, before[path], atol=1e-6)
    shutil.rmtree(old)
    fit(None, tmp_path / "run")
    assert read_json(tmp_path / "run" / "run.json")["resumptions"] == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("model.hidden=7",), "layers/0/kernel_h is 6 x 24 there and 7 x 28 here"),
        (("model.cell=gru",), "model.cell is lstm there and gru here"),
        (("model.layers=2",), "is none there and"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_shapes(trained, tmp_path, more, told):
    config = made(tmp_path, NEW, f"train.init_from={trained}", *more)
    with pytest.raises(UsageError, match=told) as error:
        fit(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/none", "train.init_from: .*none holds no run"),
        (":77", "no checkpoint of step 77"),
        (":soon", "takes best, latest or a step, got 'soon'"),
    ],
)
def test_a_run_that_is_not_there_is_refused(trained, tmp_path, place, told):
    config = made(tmp_path, NEW, f"train.init_from={trained}{place}")
    with pytest.raises(UsageError, match=told):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sweep_begins_its_members_there(trained, tmp_path):
    config = made(tmp_path, NEW)
    lines = [
        "from ml_collections import ConfigDict",
        "from experiments import default",
        "def get_config():",
        "    config = default.get_config()",
        *(f"    config.{k} = {v!r}" for k, v in changed(config).items()),
        "    return config",
        "def sweep(add):",
        f"    add(**{{'train.init_from': {str(trained)!r}}})",
        "    add(seed=3)",
    ]
    path = tmp_path / "mine.py"
    path.write_text("\n".join(lines))
    members = declare_members(str(path), [])
    assert len(group_members(members)) == 1  # one program for both
    execute.train_members(
        tmp_path / "sweep",
        members,
        executor="vmap",
        halving=None,
        say=lambda line: None,
        asked=slurm.Options(),
        launch=(),
    )
    said = [read_json(p) for p in sorted((tmp_path / "sweep").glob("members/*/run.json"))]
    assert ["init_from" in run for run in said] == [True, False]
    with pytest.raises(UsageError, match=r"member 000_.*the weights of .* do not fit"):
        group_members(declare_members(str(path), ["model.hidden=7"]))


def changed(config) -> dict:
    default = configuration.load(ROOT / "experiments" / "default.py")
    return {key: new for key, (_, new) in configuration.difference(default, config).items()}
