"""A trained run as a library's user opens it: from its folder, to write text with it."""

import shutil
import signal

import jax
import pytest

import rnnlab
from rnnlab.run.config import difference
from tests.support import ROOT

OLD = ROOT / "tests" / "old_runs"


def opened(name, tmp_path):
    return rnnlab.open_run(shutil.copytree(OLD / name, tmp_path / name))


def test_a_run_writes_text(tmp_path):
    run = opened("character", tmp_path)
    vocabulary, _ = run.task.probe.text()
    prime = vocabulary.decode([3, 1])
    text = run.sample(prime, length=30, seed=1)
    assert text.startswith(prime)
    assert len(text) == 32
    assert run.sample(prime, length=30, seed=1) == text
    greedy = [run.sample(prime, length=30, temperature=0.0, seed=seed) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    # The words are those of `generate`.
    (tokens,) = rnnlab.generate(
        run.task.probe.net, run.params, vocabulary.encode(prime), length=30, temperature=0.0
    )
    assert greedy[0] == prime + vocabulary.decode(tokens[:, 0])
    with pytest.raises(rnnlab.UsageError, match="not in the vocabulary"):
        run.sample("\u2603")


def test_a_run_that_writes_no_text_says_so(tmp_path):
    with pytest.raises(rnnlab.UsageError, match="the task translation, which writes no text"):
        opened("translation", tmp_path).sample()


def test_a_config_may_be_given_by_its_path(tmp_path):
    path = ROOT / "experiments" / "adding.py"
    task, _ = rnnlab.build(path)
    other, _ = rnnlab.build(rnnlab.load_config(path))
    assert task.layers == other.layers
    with pytest.raises(rnnlab.UsageError, match="does not exist"):
        rnnlab.fit(tmp_path / "none.py", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_trained_leaves_the_process_as_it_was(tmp_path, capsys):
    config = rnnlab.load_config(
        ROOT / "experiments" / "adding.py",
        [
            *("train.steps=2", "train.batch_size=2", "train.window=12", "model.hidden=3"),
            *("optim.warmup_steps=0", "eval.sequences=4", "eval.chunk=2", "eval.lengths=()"),
            *("eval.longer=2", "parallel.devices=1"),
        ],
    )
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], jax.config.values.copy()
    summary = rnnlab.fit(config, tmp_path / "run")
    assert ([signal.getsignal(number) for number in numbers], jax.config.values) == before
    assert summary["steps"] == 2
    assert difference(rnnlab.open_run(tmp_path / "run").config, config) == {}
    printed, warned = capsys.readouterr()
    assert "done: 2 steps" in printed
    assert "\x1b" not in printed
    assert warned == ""


def test_the_home_folder_of_a_run_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(rnnlab.UsageError, match=f"{tmp_path}/none holds no run"):
        rnnlab.open_run("~/none")
    with pytest.raises(rnnlab.UsageError, match=f"{tmp_path}/none holds no run"):
        rnnlab.fit(None, "~/none")
