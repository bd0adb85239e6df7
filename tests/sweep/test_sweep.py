"""A sweep: what it declares, what it leaves behind, and that stopping it anywhere changes nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import launch
from rnnlab.errors import Interrupted, UsageError
from rnnlab.run import checkpoint, config
from rnnlab.run import process as host
from rnnlab.run.files import read_json
from rnnlab.sweep import execute, halving, population, report, slurm, vmapped
from rnnlab.sweep.members import (
    Member,
    _name,
    declare_members,
    open_sweep,
    prepare_sweep,
    read_summary,
)
from rnnlab.train.saved import saved_config
from rnnlab.train.session import fit
from tests.support import ROOT
from tests.sweep.experiments import STEPS, TIMES, experiment, final, rows

GRID = """
for cell in ("rnn", "gru"):
    for threshold in (0.05, float("inf")):
        for seed in (0, 1):
            add(**{"model.cell": cell, "optim.clip_norm": threshold, "seed": seed})
"""


def run(path: str | None, folder: Path, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    members = declare_members(path, []) if path else None
    jobs = options.pop("jobs", 0)
    chosen = {"executor": "vmap", "halving": None} | options
    asked = slurm.Options(jobs=jobs)
    launching = launch.PROGRAM.command
    failed = execute.train_members(
        folder, members, say=said.append, asked=asked, launch=launching, **chosen
    )
    return failed, said


def assert_same_sweep(one: Path, other: Path) -> None:
    names = sorted(path.name for path in (one / "members").iterdir())
    assert names == sorted(path.name for path in (other / "members").iterdir())
    for name in names:
        a, b = one / "members" / name, other / "members" / name
        assert rows(a) == rows(b)
        assert final(a) == final(b)
        summaries = [read_json(w / "summary.json") for w in (a, b)]
        for summary in summaries:
            for key in TIMES:
                summary.pop(key, None)
        assert summaries[0] == summaries[1]


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory) -> tuple[str, Path]:
    """(the config file, the folder of a sweep that nothing interrupted)."""
    folder = tmp_path_factory.mktemp("straight")
    path = experiment(folder, text, GRID)
    assert run(path, folder / "sweep")[0] == 0
    return path, folder / "sweep"


# What it leaves behind


def test_a_member_is_a_run_like_any_other(straight, quiet_host, capsys):
    _, folder = straight
    member = folder / "members" / "004_cell=gru_clip_norm=0.05_seed=0"
    names = {path.name for path in member.iterdir()}
    assert names >= {
        "config.json", "run.json", "summary.json", "metrics.jsonl", "curves.png", "checkpoints",
        "tensorboard", "vocabulary.json", "valid.npy", "samples.txt",
    }  # fmt: skip
    described = json.loads((member / "run.json").read_text())
    assert described["overrides"] == ["model.cell=gru", "optim.clip_norm=0.05", "seed=0"]
    assert described["split"] == "one of 4 in a program over 1 devices"
    summary = json.loads((member / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert launch.main(["evaluate", f"--workdir={member}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(summary["valid_loss"], abs=1e-5)
    assert launch.main(["sample", f"--workdir={member}", "--length=5"]) == 0
    assert capsys.readouterr().out.strip()
    before = rows(member)
    assert launch.main(["train", f"--workdir={member}"]) == 0  # nothing is left to do
    assert rows(member) == before


@pytest.mark.slow
def test_a_member_goes_on_alone(text, tmp_path, quiet_host, capsys):
    changes = {"optim.schedule": "constant", "train.steps": 14}
    path = experiment(tmp_path, text, "for seed in (0, 1): add(seed=seed)", **changes)
    run(path, tmp_path / "sweep")
    member = tmp_path / "sweep" / "members" / "000_seed=0"
    settings = saved_config(member)
    settings.train.steps = 20
    fit(settings, member, [])
    assert [row["step"] for row in rows(member) if row["split"] == "train"] == [4, 8, 12, 16, 20]
    assert "equal bits are not promised" in capsys.readouterr().err


@pytest.mark.slow
def test_members_are_the_runs_alone(straight, text, tmp_path):
    _, folder = straight
    for name in ("002_cell=rnn_clip_norm=inf_seed=0", "005_cell=gru_clip_norm=0.05_seed=1"):
        member = folder / "members" / name
        settings = saved_config(member)
        fit(settings, tmp_path / name, [])
        mine, alone = rows(member), rows(tmp_path / name)
        assert [row["step"] for row in mine] == [row["step"] for row in alone]
        for a, b in zip(mine, alone, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert a.keys() == b.keys()


def test_a_finished_sweep_is_not_run_again(straight, monkeypatch):
    path, folder = straight
    monkeypatch.setattr(population.Population, "advance", None)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    for given in (path, None):
        failed, said = run(given, folder)
        assert failed == 0
        assert said == [f"8 members, 0 to run, in {folder}"]
    changed = [p for p in before if before[p] != p.stat().st_mtime_ns]
    assert [p for p in changed if p.name != ".lock"] == []


def test_the_report_of_a_sweep(straight, quiet_host, capsys):
    _, folder = straight
    assert launch.main(["report", f"--workdir={folder}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("rnn: the best mean is ")
    assert "Without clipping, none of 2 seeds diverged." in said
    text = (folder / "report.md").read_text()
    assert "8 members: 8 done, 0 diverged, 0 stopped early, 0 open" in text
    assert "the mean per token" in text
    lines = (folder / "results.csv").read_text().splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("member,model.cell,optim.clip_norm,seed,state,valid_loss")
    for name in ("validation", "learning", "norms"):
        assert f"({name}.png)" in text
        assert (folder / f"{name}.png").stat().st_size > 10_000


# Members that diverge


@pytest.fixture(scope="module")
def diverged(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("diverged")
    body = 'for rate in (0.1, 1e38):\n    add(**{"optim.learning_rate": rate})'
    changes = {"optim.name": "sgd", "optim.ema": 0.0}
    path = experiment(folder, text, body, **changes)
    failed, _ = run(path, folder / "sweep")
    assert failed == 0
    return folder / "sweep"


def test_a_diverged_member_is_marked_and_the_other_finishes(diverged):
    well, ill = (
        diverged / "members" / n for n in ("000_learning_rate=0.1", "001_learning_rate=1e+38")
    )
    assert json.loads((well / "summary.json").read_text())["steps"] == STEPS
    summary = json.loads((ill / "summary.json").read_text())
    assert 1 < summary["diverged_at"] <= 10
    assert summary["steps"] == summary["diverged_at"] - 1
    assert summary["valid_loss"] is None
    assert [r["step"] for r in rows(well) if r["split"] == "train"][-1] == 28
    # The same command has nothing to do.
    _, said = run(None, diverged)
    assert said == [f"2 members, 0 to run, in {diverged}"]
    told = report.write_report(diverged)
    assert "At learning_rate = 1e+38, 1 of 1 seeds diverged." in told
    assert "diverged" in (diverged / "results.csv").read_text()


def test_when_all_diverge_the_sweep_ends(text, tmp_path):
    body = 'for rate in (1e37, 1e38):\n    add(**{"optim.learning_rate": rate})'
    free = {"optim.name": "sgd", "optim.ema": 0.0, "optim.clip_norm": 1.0}
    path = experiment(tmp_path, text, body, **free)
    assert run(path, tmp_path / "sweep")[0] == 0
    told = report.write_report(tmp_path / "sweep")
    assert "all members: every member diverged." in told


# Stopped anywhere


class Cut(Exception):
    """As if the process had been killed here."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "saves", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6, 11, 17, 31))]
)
def test_a_sweep_cut_off_between_two_saves_goes_on_to_the_same_end(
    straight, text, tmp_path, monkeypatch, saves
):
    path, folder = straight
    done, save = 0, checkpoint.save

    def counted(*arguments, **options):
        nonlocal done
        done += 1
        if done == saves:
            raise Cut
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", counted)
    with pytest.raises(Cut):
        run(path, tmp_path / "sweep")
    monkeypatch.setattr(checkpoint, "save", save)
    run(path, tmp_path / "sweep")
    assert_same_sweep(folder, tmp_path / "sweep")


def launched(path: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "launch.py", "sweep", f"--config={path}", f"--workdir={folder}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(text, tmp_path):
    path = experiment(tmp_path, text, GRID, **{"train.checkpoint_every": 3})
    for kill, name in ((False, "straight"), (True, "killed")):
        draw, kills, patience = random.Random(0), 0, 2.0
        while True:
            process = launched(path, tmp_path / name)
            if not kill or kills == 10:
                output, _ = process.communicate()
                assert process.returncode == 0, output
                break
            try:
                process.communicate(timeout=draw.uniform(0.5, patience))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills, patience = kills + 1, patience + 1.5
            else:  # it came to its end sooner
                shutil.rmtree(tmp_path / name)
                patience /= 2
    assert_same_sweep(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
def test_a_signal_saves_all_members(text, tmp_path):
    path = experiment(tmp_path, text, GRID, **{"train.steps": 100_000, "train.eval_every": 0})
    process = launched(path, tmp_path / "sweep")
    first = tmp_path / "sweep" / "members" / "003_cell=rnn_clip_norm=inf_seed=1"
    while not checkpoint.steps(first / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 143
    assert "resume with python launch.py sweep --workdir=" in output
    found = {
        name: checkpoint.steps(tmp_path / "sweep" / "members" / name / "checkpoints")[-1]
        for name in os.listdir(tmp_path / "sweep" / "members")
        if "rnn" in name
    }
    assert len(set(found.values())) == 1, found


# Successive halving


@pytest.mark.slow
@pytest.mark.parametrize("cut", [pytest.param(0, marks=pytest.mark.slow), 9])
def test_halving_stops_the_worse_members_at_each_rung(text, tmp_path, monkeypatch, cut):
    """cut: the save at which it is cut off once, to go on by the same command."""
    rates = (0.001, 0.003, 0.01, 0.03, 0.1)
    body = f'for rate in {rates}:\n    add(**{{"optim.learning_rate": rate}})'
    changes = {"train.steps": 28, "train.eval_every": 0, "train.checkpoint_every": 0}
    path = experiment(tmp_path, text, body, **changes)
    folder, done, save = tmp_path / "sweep", 0, checkpoint.save

    def counted(*arguments, **options):
        nonlocal done
        done += 1
        if done == cut:
            raise Cut
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", counted)
    if cut:
        with pytest.raises(Cut):
            run(path, folder, halving=2)
    run(path, folder, halving=2)
    kept = open_sweep(folder)
    assert halving.rungs(kept) == [3, 7, 14, 28]
    ended = {m.name: read_summary(kept, m) for m in kept.members}
    left = list(ended)
    for rung, count in ((3, 3), (7, 2), (14, 1)):
        losses = {
            name: next(
                row["loss"]
                for row in rows(folder / "members" / name)
                if row["split"] == "valid" and row["step"] == rung
            )
            for name in left
        }
        best = sorted(losses, key=lambda name: losses[name])[:count]
        assert {n for n in left if ended[n].get("stopped_at") == rung} == set(left) - set(best)
        left = best
    assert ended[left[0]]["steps"] == 28
    report.write_report(folder)
    assert "4 stopped early" in (folder / "report.md").read_text()
    assert run(None, folder)[1] == [f"5 members, 0 to run, in {folder}"]
    with pytest.raises(UsageError, match="--halving=2"):
        run(path, folder, halving=3)


# Memory


@pytest.mark.slow
def test_a_population_is_cut_into_batches_that_fit(straight, text, tmp_path, monkeypatch):
    _, folder = straight
    compiled = population.Population.compile
    sizes = []

    def watched(self):
        needs = compiled(self)
        sizes.append((len(self.configs), needs))
        return needs

    monkeypatch.setattr(population.Population, "compile", watched)
    body = GRID.replace('("rnn", "gru")', '("rnn",)')
    monkeypatch.setattr(population, "budget", lambda devices: 0.0)
    _, said = run(experiment(tmp_path, text, body), tmp_path / "sweep")
    assert "4 members take " in said[1]
    assert said[1].endswith("1 at a time")
    assert [size for size, _ in sizes] == [4, 1, 1, 1, 1]
    for name in os.listdir(tmp_path / "sweep" / "members"):
        mine, theirs = (rows(f / "members" / name) for f in (tmp_path / "sweep", folder))
        assert [r["loss"] for r in mine] == pytest.approx([r["loss"] for r in theirs], abs=1e-5)


# A process for each


@pytest.mark.slow
def test_local_runs_them_all_and_reports_the_one_that_crashes(text, tmp_path):
    path = experiment(tmp_path, text, "for seed in range(3): add(seed=seed)")
    folder = tmp_path / "sweep"
    members = declare_members(path, [])
    folder.mkdir()
    prepare_sweep(folder, members, unit="char", halving=0)
    # Something is wrong with the second one: its folder cannot be read back.
    (folder / "members" / "001_seed=1" / "metrics.jsonl").mkdir()
    failed, said = run(None, folder, executor="local", jobs=2)
    assert failed == 1
    (line,) = [line for line in said if "failed" in line]
    assert "001_seed=1" in line
    assert "metrics.jsonl" in line
    for name in ("000_seed=0", "002_seed=2"):
        summary = json.loads((folder / "members" / name / "summary.json").read_text())
        assert summary["steps"] == STEPS
        settings = saved_config(folder / "members" / name)
        fit(settings, tmp_path / name, [])
        assert [r["loss"] for r in rows(folder / "members" / name)] == pytest.approx(
            [r["loss"] for r in rows(tmp_path / name)], abs=1e-4
        )
    (folder / "members" / "001_seed=1" / "metrics.jsonl").rmdir()
    failed, said = run(None, folder, executor="local")  # by the same command
    assert failed == 0
    assert said[0] == f"3 members, 1 to run, in {folder}"


def test_a_damaged_sweep_json_is_written_anew_for_the_same_members(text, tmp_path, capsys):
    members = declare_members(
        experiment(tmp_path, text, "for seed in range(2): add(seed=seed)"), []
    )
    others = declare_members(experiment(tmp_path, text, "for seed in (0, 2): add(seed=seed)"), [])
    folder = tmp_path / "sweep"
    folder.mkdir()
    prepare_sweep(folder, members, unit="char", halving=0)
    path = folder / "sweep.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"halving": 0', b'"halving": 8'))
    for given in (None, others):
        with pytest.raises(UsageError, match=r"sweep\.json: it has changed since it was written"):
            prepare_sweep(folder, given, unit="char", halving=0)
    assert prepare_sweep(folder, members, unit="char", halving=0).halving == 0
    assert path.read_bytes() == content
    assert "written anew" in capsys.readouterr().err


# What is refused, before anything runs


@pytest.mark.usefixtures("quiet_host")
@pytest.mark.parametrize(
    ("body", "arguments", "told"),
    [
        ("pass", [], "is empty"),
        ('add(**{"optim.clip_nrom": 1.0})', [], "did you mean 'optim.clip_norm'"),
        ('add(**{"optim.clip_norm": "much"})', [], "takes a float"),
        (
            'add(seed=0)\nadd(**{"optim.clip_norm": 0.0})',
            [],
            "member 001_clip_norm=0: optim.clip_norm",
        ),
        ('add(**{"optim.clip_norm": -1.0})', [], "must be greater than 0"),
        (
            "add(seed=1)\nadd(seed=1)",
            [],
            "members 000_seed=1 and 001_seed=1 of the sweep are the same",
        ),
        ('add(**{"model.dropout": 1.5})', [], "model.dropout must be in [0, 1)"),
        ('add(**{"model.cell": "lstn"})', [], "lstn"),
        ("1 / 0", [], "line 26: ZeroDivisionError"),
        ("add(seed=1)", ["--config.seed=2"], "the sweep sets it"),
        ("add(seed=1)", ["--executor=cloud"], "--executor must be one of"),
        ("add(seed=1)", ["--jobs=2"], "--jobs is for --executor=local"),
        ("add(seed=1)", ["--halving=1"], "--halving must be at least 2"),
        ("add(seed=1)", ["--halving=2", "--executor=local"], "--halving is for --executor=vmap"),
        ('add(seed=1)\nadd(**{"train.steps": 9})', ["--halving=2"], "the same train.steps"),
        ("add(seed=1)", ["--executor=local", "--jobs=-1"], "--jobs"),
    ],
)
def test_a_bad_sweep_is_refused_before_anything_runs(text, tmp_path, capsys, body, arguments, told):
    path = experiment(tmp_path, text, body)
    folder = tmp_path / "sweep"
    code = launch.main(["sweep", f"--config={path}", f"--workdir={folder}", *arguments])
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert not folder.exists()


@pytest.mark.usefixtures("quiet_host")
def test_other_refusals(straight, text, tmp_path, capsys):
    _, folder = straight
    other = experiment(tmp_path, text, "add(seed=7)")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "file").touch()
    for arguments, told in (
        (["sweep"], "needs --config"),
        (["sweep", f"--workdir={tmp_path / 'none'}"], "holds no sweep"),
        (["sweep", f"--workdir={folder}", "--config.seed=1"], "needs --config"),
        (["sweep", f"--config={other}", f"--workdir={folder}"], "a sweep of other members"),
        (["sweep", f"--config={other}", f"--workdir={tmp_path / 'strange'}"], "other files"),
        (["sweep", f"--config={ROOT / 'experiments' / 'default.py'}"], "declares no sweep"),
        (["report", f"--workdir={tmp_path}"], "holds no sweep"),
    ):
        assert launch.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert told in lines[0]


@pytest.mark.usefixtures("quiet_host")
def test_a_dry_run_lists_the_members_and_writes_nothing(straight, tmp_path, capsys):
    path, _ = straight
    folder = tmp_path / "sweep"
    assert launch.main(["sweep", f"--config={path}", f"--workdir={folder}", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "program 1 of 2: 1 x 8 rnn, 4 members"
    assert lines[1] == "  000_cell=rnn_clip_norm=0.05_seed=0"
    assert len(lines) == 10
    assert not folder.exists()


def test_names_are_those_of_folders():
    changes = {"optim.clip_norm": float("inf"), "model.options.kernel_h_init": "identity:0.9"}
    assert _name(7, changes) == "007_clip_norm=inf_kernel_h_init=identity-0.9"


@pytest.mark.parametrize("value", [0.1, float("inf"), True, (1, 2), "orthogonal", 3])
def test_values_are_spelt_as_they_are_parsed(value):
    assert config.parse("key", config.spell(value), type(value)) == value
    assert config.spell(np.float64(0.5)) == "0.5"
    with pytest.raises(UsageError):
        config.parse("key", config.spell(0.5), int)


@pytest.mark.parametrize(("failed", "code"), [(2, 1), (0, 2)])
def test_members_that_fail_before_their_first_row(
    text, tmp_path, monkeypatch, capsys, failed, code
):
    """There is no report, which is told, and the exit code is theirs."""
    path, folder = experiment(tmp_path, text, "add(seed=0)"), tmp_path / "sweep"
    monkeypatch.setattr(execute, "train_members", lambda *arguments, **options: failed)
    monkeypatch.setattr(host, "make_devices", lambda count: None)
    assert launch.main(["sweep", f"--config={path}", f"--workdir={folder}"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rnnlab: no report: ") == bool(failed)


@pytest.mark.slow
def test_one_damaged_checkpoint_costs_time_and_not_the_sweep(text, tmp_path, capsys):
    path, folder = (
        experiment(tmp_path, text, "for seed in range(2): add(seed=seed)"),
        tmp_path / "s",
    )
    assert run(path, folder)[0] == 0
    members = sorted((folder / "members").iterdir())
    before = [(rows(member), final(member)) for member in members]
    for member in members:
        (member / "summary.json").unlink()
    root = members[1] / "checkpoints"
    assert len(checkpoint.steps(root)) > 1
    newest = checkpoint.steps(root)[-1]
    victim = max(
        (file for file in root.rglob("*") if file.is_file() and f"{newest:08d}" in str(file)),
        key=lambda file: file.stat().st_size,
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    assert run(None, folder)[0] == 0
    assert "all members go on from an earlier step" in " ".join(capsys.readouterr().err.split())
    assert [(rows(member), final(member)) for member in members] == before
    assert all((member / "summary.json").exists() for member in members)


@pytest.mark.slow
def test_a_signal_in_a_last_step_is_not_lost(text, tmp_path, monkeypatch):
    """The first group has come to its end: the second does not begin."""
    path = experiment(tmp_path, text, 'for cell in ("rnn", "gru"): add(**{"model.cell": cell})')
    folder, finish = tmp_path / "sweep", vmapped.Record.finish

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(vmapped.Record, "finish", interrupted)
        with pytest.raises(Interrupted, match="resume with"):
            run(path, folder)
    members = sorted((folder / "members").iterdir())
    assert [(member / "summary.json").exists() for member in members] == [True, False]
    assert not (members[1] / "metrics.jsonl").exists()
    assert run(None, folder)[0] == 0


def test_a_validation_loss_that_is_not_finite_does_not_go_on(tmp_path):
    """NaN is neither the best in successive halving nor within noise in the report."""

    class Stub:
        halving = 2
        members = tuple(
            Member(f"m{i}", {}, config.load(str(ROOT / "experiments" / "default.py"), []))
            for i in range(4)
        )

        def path(self, member):
            return tmp_path / member.name

    for member, loss in zip(Stub.members, ("3.0", '"nan"', "1.0", "2.0"), strict=True):
        (tmp_path / member.name).mkdir()
        row = f'{{"step": 10, "split": "valid", "loss": {loss}}}\n'
        (tmp_path / member.name / "metrics.jsonl").write_text(row)
    halving.stop_worst(Stub(), 10, lambda text: None)
    stopped = [(tmp_path / member.name / "summary.json").exists() for member in Stub.members]
    assert stopped == [True, True, False, False]
