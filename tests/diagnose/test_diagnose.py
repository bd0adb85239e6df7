"""The verb diagnose: its report, what its sentences follow from, and what it refuses."""

import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from rnnlab.diagnose import diagnostics, subject
from rnnlab.diagnose.diagnostics import Clipping, Flow, Share, Truncation
from rnnlab.recurrence.saturation import Activation, Saturation
from rnnlab.train import train
from tests.sweep import test_population
from tests.sweep.test_population import ROOT, SMALL

text = test_population.text  # a fixture


@pytest.fixture(scope="module")
def run(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    changes = {"diagnose.every": 20, "data.valid_fraction": 0.2}
    changes |= {"model.layers": 1, "model.cell": "gru"}
    train.train(test_population.made(text, changes), folder, [])
    return folder


def figures_of(report: str, folder: Path) -> list[str]:
    names = re.findall(r"!\[[^\]]*\]\((\S+)\)", report)
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    return names


@pytest.mark.slow
def test_of_a_run(run, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert launch.main(["diagnose", f"--workdir={run}"]) == 0
    printed = capsys.readouterr().out
    folder = run / "diagnosis"
    assert printed.splitlines()[-1] == f"the diagnosis is in {folder / 'diagnosis.md'}"
    report = (folder / "diagnosis.md").read_text()
    assert report.startswith("# Diagnosis of run, step ")
    assert "4 rows of 32 steps" in report  # four windows of 8, as the state is carried
    names = figures_of(report, folder)
    for name in ("flow", "shares", "saturation_layer_1", "truncation", "clipping", "training"):
        assert f"{name}.png" in names
    told = [line[2:] for line in report.splitlines() if line.startswith("- ")]
    assert told
    for sentence in told:
        assert f"  {sentence}\n" in printed
    assert {p: p.read_bytes() for p in before} == before  # it writes beside the run alone
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_of_a_config_at_initialisation(text, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"--config={ROOT / 'experiments' / 'default.py'}", f"--out={out}", "--window=16"]
    changes = [f"--config.{c}" for c in [*SMALL, f"data.path={text}", "model.cell=gru"]]
    assert launch.main(["diagnose", *arguments, *changes]) == 0
    report = (out / "diagnosis.md").read_text()
    assert report.startswith("# Diagnosis of default at initialisation")
    assert "2 x 8 gru" in report
    assert "rows of 16 steps" in report
    assert "training.png" not in figures_of(report, out)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "diagnose needs --workdir=DIR with a run, or --config=FILE, and not both"),
        (["--config=x.py", "--workdir=RUN"], "and not both"),
        (["--workdir=RUN", "--config.seed=1"], "a run has its own config"),
        (["--workdir=RUN", "--window=-1"], "--window must be at least 1"),
        (["--workdir=RUN", "--window=100000"], "training text has"),
        (["--workdir=RUN", "--checkpoint=7"], "7"),
        (["--workdir=nowhere"], "holds no run"),
    ],
)
def test_what_is_refused_is_one_line(run, flags, told, capsys):
    code = launch.main(["diagnose", *(flag.replace("RUN", str(run)) for flag in flags)])
    (line,) = capsys.readouterr().err.splitlines()
    assert code in (2, 4)
    assert told in line


# ---- the sentences


def curve_of(values) -> Flow:
    """A flow whose norms at lags 0, 1 ... are these."""
    norms = np.array(values[::-1], float)[None, :, None]
    return Flow("layer 1", ("h",), norms, np.array([len(values) - 1]))


def test_flow_sentences():
    (told,) = subject.flow_sentences([curve_of(0.5 ** np.arange(20))])
    assert (
        told == "layer 1, h: the gradient falls to 1% within 7 steps, by a factor of 0.50 a step."
    )
    (told,) = subject.flow_sentences([curve_of(0.99 ** np.arange(101))])
    assert "reaches back over the whole window: after 100 steps it is 36.6%" in told
    assert "a factor of 0.990 a step" in told
    grows, falls = subject.flow_sentences([curve_of([1.0, 30.0, 50.0, 1e-3])])
    assert "grows, to 50 times its first size within 2 steps: it explodes" in grows
    assert "falls to 1% within 3 steps" in falls
    # An inner state has no gradient at lag 0: it is counted from lag 1.
    (told,) = subject.flow_sentences([curve_of([0.0, 1.0, 0.1, 0.001])])
    assert "falls to 1% within 2 steps" in told
    (told,) = subject.flow_sentences([curve_of([0.0, 0.0])])
    assert told == "layer 1, h: no gradient of the last step's loss arrives."


def test_the_part_of_the_state_that_reaches_furthest_is_told_of():
    fast, slow = curve_of(0.5 ** np.arange(20)), curve_of(0.8 ** np.arange(20))
    both = Flow("layer 2", ("h", "c"), np.concatenate([fast.norms, slow.norms]), fast.last)
    (told,) = subject.flow_sentences([both])
    assert told.startswith("layer 2, c: the gradient reaches back over the whole window")


def test_shares_sentences():
    even, late = np.full(20, 0.05), np.r_[np.zeros(18), 0.6, 0.4]
    assert subject.shares_sentences([Share("layer 1", {}, {"kernel_h": even})]) == []
    (told,) = subject.shares_sentences([Share("layer 1", {}, {"kernel_h": late})])
    assert told.startswith("layer 1: the last 2 of 20 steps make 100%")


def saturated(share, kind="tanh", name="candidate"):
    rows = np.full(4, share)
    return Saturation(
        "layer 1",
        Activation(name, kind),
        rows,
        np.array([1.0, 0.0]),
        np.ones((4, 40)),
        np.arange(41),
    )


def test_saturation_sentences():
    (told,) = subject.saturation_sentences([saturated(0.61), saturated(0.05)])
    assert told == (
        "layer 1, candidate: 61% of the values are saturated; 50% of the units are so most of the time."
    )
    (told,) = subject.saturation_sentences([saturated(0.05), saturated(0.02, "logistic", "gate")])
    assert told.startswith("No activation is saturated in more than 10%")
    assert "candidate of layer 1, 5.0%" in told
    assert subject.saturation_sentences([]) == []


def test_truncation_sentences():
    windows = np.array([1, 2, 4, 8])
    cosine = np.array([0.995, 0.98, 0.995, 1.0])  # it falls again: the last rise counts
    found = Truncation(windows, cosine, 1 - cosine, cosine, cosine)
    first, second = subject.truncation_sentences(found, trained=4)
    assert "a cosine of 0.995 with that over 8 steps, and is off by 0.5% of its norm" in first
    assert second.startswith("From windows of 4 steps on")
    assert len(subject.truncation_sentences(found, trained=8)) == 1


def test_clipping_sentences():
    found = Clipping(
        "global_norm", 1.0, np.array([0.5, 0.5, 0.5, 2.0]), np.r_[1, 1, 1, 0.5], np.ones(4)
    )
    (told,) = subject.clipping_sentences(found, [])
    assert "clipping at 1 acts on 25% of them" in told
    rows = [
        {"split": "train", "step": step, "clipped": share}
        for step, share in ((10, 1.0), (20, 0.1), (100, 0.0))
    ]
    _, told = subject.clipping_sentences(found, rows)
    assert told == "In training it acted on 11% of 100 steps, nine tenths of them before step 10."
    off = found._replace(threshold=math.inf, factor=np.ones(4))
    assert "clipping off acts on 0% of them" in subject.clipping_sentences(off, [])[0]


def test_the_looks_of_training_are_rows_of_json(run):
    rows = [json.loads(line) for line in (run / "diagnosis.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]


def test_a_model_that_overflows_is_one_line(tmp_path, capsys):
    changes = ["model.cell=rnn", "model.options.activation=relu", "train.window=100"]
    changes += ["model.options.kernel_h_init=identity:4.0", "model.hidden=8", "train.batch_size=4"]
    arguments = [f"--config={ROOT / 'experiments' / 'memory.py'}", f"--out={tmp_path / 'out'}"]
    arguments += [f"--config.{change}" for change in changes]
    assert launch.main(["diagnose", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "take a shorter --window" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rows_that_begin_afresh_begin_at_zero(text):
    """What is diagnosed of independent windows is what trains: its loss is the task's own."""
    changes = {"data.batching": "windows", "model.dropout": 0.0, "model.output_dropout": 0.0}
    task, _ = train.build(test_population.made(text, changes))
    params = task.init(jax.random.key(0))
    carry, batch = jax.tree.map(jnp.ones_like, task.carry()), task.batch(0)
    total, count = task.loss(params, carry, batch, None)[1]["loss"]
    found = diagnostics._loss(task.probe, carry, batch)(params)
    np.testing.assert_allclose(found, total / count, rtol=1e-6)
