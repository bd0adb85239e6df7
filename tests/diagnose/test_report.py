"""The verb diagnose: its report, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import pytest

import launch
from rnnlab.diagnose import report, subject
from rnnlab.diagnose.subject import Findings, Section
from rnnlab.errors import UsageError
from rnnlab.train.session import fit
from tests.support import ROOT, SMALL, small_config


@pytest.fixture(scope="module")
def run(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    changes = {"diagnose.every": 20, "data.valid_fraction": 0.2}
    changes |= {"model.layers": 1, "model.cell": "gru"}
    fit(small_config(text, changes), folder, [])
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
        (["--workdir=nowhere"], "--workdir=nowhere"),
    ],
)
def test_what_is_refused_is_one_line(run, flags, told, capsys):
    code = launch.main(["diagnose", *(flag.replace("RUN", str(run)) for flag in flags)])
    (line,) = capsys.readouterr().err.splitlines()
    assert code in (2, 4)
    assert told in line


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


# ---- sections


def test_the_sections_are_the_files_that_have_one():
    found = report.sections()
    known = (
        "Gradient flow",
        "The share of each time step",
        "Saturation",
        "Truncation",
        "Clipping",
        "While it trained",
        "Jacobians",
        "Lyapunov exponents",
        "Fixed points",
        "Initialisations",
        "Reading the model",
    )
    # A section that a file adds takes its place among these.
    assert tuple(section.title for section in found if section.title in known) == known
    orders = [section.order for section in found]
    assert orders == sorted(set(orders))


MINE = '''
"""How many parameters there are."""

import jax

from rnnlab.diagnose.subject import Findings, Section


def examine(subject, folder):
    count = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
    (folder / "mine.png").write_bytes(b"drawn")
    return Findings([f"There are {count} parameters."], [("mine.png", "A figure.")])


SECTION = Section(15, "Parameters", examine)
'''


def test_a_new_section_is_one_file(run, tmp_path, monkeypatch):
    place = tmp_path / "package"
    place.mkdir()
    (place / "mine.py").write_text(MINE)
    package = sys.modules["rnnlab.diagnose"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])
    found = report.sections()
    assert [section.title for section in found][:2] == ["Gradient flow", "Parameters"]
    monkeypatch.setattr(report, "sections", lambda: [found[1]])
    said = []
    written(run, tmp_path / "out", said)
    assert said[0] == "Parameters ..."
    assert said[1].startswith("  There are ")
    assert "## Parameters\n\n![A figure.](mine.png)" in (tmp_path / "out/diagnosis.md").read_text()
    del sys.modules["rnnlab.diagnose.mine"]


def written(run, out, said):
    return report.write_report(subject.of_run(run, "latest", 0, pytest.fail), out, say=said.append)


def refusing(subject, folder):
    raise UsageError("the text has 3 characters")


def finding(subject, folder):
    return Findings(["All is well."], [], ("| a table |",))


def test_a_section_that_is_refused_is_a_line_and_the_rest_is_written(run, tmp_path, monkeypatch):
    chosen = [Section(1, "Words", refusing), Section(2, "Health", finding)]
    monkeypatch.setattr(report, "sections", lambda: chosen)
    said = []
    text = written(run, tmp_path / "out", said).read_text()
    line = "Words: not measured, as the text has 3 characters."
    assert said == ["Words ...", "Health ...", f"  {line}", "  All is well."]
    assert f"- {line}\n- All is well.\n" in text
    assert "## Words\n\nNot measured: the text has 3 characters.\n" in text
    assert "## Health\n\n| a table |" in text


def test_a_bug_in_a_section_is_not_hidden(run, tmp_path, monkeypatch):
    def broken(subject, folder):
        raise KeyError("kernel_h")

    monkeypatch.setattr(report, "sections", lambda: [Section(1, "Words", broken)])
    with pytest.raises(KeyError):
        written(run, tmp_path / "out", [])
    assert not (tmp_path / "out" / "diagnosis.md").exists()


def test_a_text_too_short_to_be_read_loses_its_section_alone(run, tmp_path, monkeypatch, capsys):
    chosen = [one for one in report.sections() if one.title in ("Reading the model", "Clipping")]
    monkeypatch.setattr(report, "sections", lambda: chosen)
    whole = subject.of_run

    def shortened(*arguments):
        found = whole(*arguments)
        vocabulary, tokens = found.probe.text()
        return found._replace(probe=found.probe._replace(text=lambda: (vocabulary, tokens[:409])))

    monkeypatch.setattr(subject, "of_run", lambda *a, **k: shortened(*a, *k.values()))
    assert launch.main(["diagnose", f"--workdir={run}", f"--out={tmp_path / 'out'}"]) == 0
    text = (tmp_path / "out" / "diagnosis.md").read_text()
    told = "the text has 409 characters: a context of 512 needs at least 513"
    assert f"- Reading the model: not measured, as {told}.\n" in text
    assert f"Reading the model: not measured, as {told}.\n" in capsys.readouterr().out
    assert "](clipping.png)" in text
    assert not (tmp_path / "out" / "reading.html").exists()
