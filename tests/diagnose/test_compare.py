"""A sweep of a memory task: which seeds solved it, beyond its length, and its gradient flow."""

import types

import numpy as np
import pytest

import launch
from rnnlab.diagnose import compare
from rnnlab.errors import UsageError
from rnnlab.sweep.results import axis_of, read_results

EXPERIMENT = """
from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.model.hidden = 8
    config.train.batch_size = 4
    config.train.steps = 20
    config.train.log_every = 10
    config.train.eval_every = 10
    config.train.sample_every = 0
    config.eval.sequences = 20
    config.eval.lengths = (20, 30)
    config.eval.longer = 10
    return config.lock()


def sweep(add):
    for cell in ("rnn", "gru"):
        for window in (10, 20):
            for seed in range(2):
                add(**{"model.cell": cell, "train.window": window, "seed": seed})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("flows")
    (place / "experiment.py").write_text(EXPERIMENT)
    made = place / "sweep"
    assert launch.main(["sweep", f"--config={place / 'experiment.py'}", f"--workdir={made}"]) == 0
    return made


@pytest.mark.slow
def test_the_report_tells_what_was_solved(folder):
    text = (folder / "report.md").read_text()
    assert "no window was solved by most of the seeds" in text
    assert (folder / "success.png").read_bytes().startswith(b"\x89PNG")
    assert "](success.png)" in text
    assert axis_of(read_results(folder)) == "train.window"
    assert "](lengths.png)" not in text  # nobody has solved it


@pytest.mark.slow
def test_diagnose_of_a_sweep_draws_its_lines_side_by_side(folder, capsys):
    assert launch.main(["diagnose", f"--workdir={folder}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    text = (folder / "diagnosis" / "diagnosis.md").read_text()
    assert "](flows.png)" in text
    assert (folder / "diagnosis" / "flows.png").read_bytes().startswith(b"\x89PNG")
    lines = ("rnn, window 10", "rnn, window 20", "gru, window 10", "gru, window 20")
    for line in lines:
        assert sum(said.startswith(f"  {line}: the gradient ") for said in printed) == 1
    assert text.count("(2 seeds)") == 4


@pytest.mark.slow
def test_the_curves_are_means_over_the_seeds(folder):
    found = compare.measure(folder, "latest", 0, pytest.fail)
    assert found[0].label == "rnn, window 10"
    for one in found:
        time = 10 if "10" in one.label else 20
        assert one.seeds == 2
        assert len(one.initial) == len(one.trained) == time
        np.testing.assert_allclose([one.initial[0], one.trained[0]], 1, rtol=1e-6)


def test_the_sentences():
    fast, slow = 0.1 ** np.arange(5.0), 0.9 ** np.arange(5.0)
    (told,) = compare.sentences([compare.Curve("rnn", fast, slow, 1)])
    assert told == (
        "rnn: the gradient falls to 1% within 2 steps at initialisation, and is at 65.6% after 4 steps "
        "trained (1 seed)."
    )


@pytest.mark.slow
def test_a_sweep_that_has_not_begun_is_refused(tmp_path, folder, capsys):
    empty = tmp_path / "sweep"
    empty.mkdir()
    (empty / "sweep.json").write_text((folder / "sweep.json").read_text())
    assert launch.main(["diagnose", f"--workdir={empty}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnnlab: ")


def test_a_member_that_is_refused_is_left_out_unless_all_are(tmp_path, monkeypatch):
    members = [types.SimpleNamespace(name=name) for name in ("good", "bad")]
    for member in members:
        (tmp_path / member.name / "checkpoints").mkdir(parents=True)
    opened = types.SimpleNamespace(members=members, path=lambda member: tmp_path / member.name)
    points = [types.SimpleNamespace(value=1.0, members=members)]
    refused = ["bad"]

    def of_run(path, *_):
        if path.name in refused:
            raise UsageError(f"the text of {path.name} is too short")

    monkeypatch.setattr(compare, "open_sweep", lambda _: opened)
    monkeypatch.setattr(compare, "read_results", lambda _: [])
    monkeypatch.setattr(compare, "axis_of", lambda _: None)
    line = types.SimpleNamespace(parts=("rnn",), points=points)
    monkeypatch.setattr(compare, "lines_of", lambda *_: [line])
    monkeypatch.setattr(compare, "of_run", of_run)
    monkeypatch.setattr(compare, "untrained", lambda subject: subject)
    monkeypatch.setattr(compare, "_curve", lambda _: np.array([1.0, 0.5]))
    warned = []
    (one,) = compare.measure(tmp_path, "best", 0, warned.append)
    assert (one.label, one.seeds) == ("rnn", 1)
    assert warned == ["bad is left out: the text of bad is too short"]
    refused.append("good")
    with pytest.raises(UsageError, match="the text of good is too short"):
        compare.measure(tmp_path, "best", 0, pytest.fail)
