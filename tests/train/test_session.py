"""A run as a whole: what it leaves behind, and that stopping it anywhere changes nothing."""

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from rnnlab.errors import Interrupted, InUseError, StorageError, UsageError
from rnnlab.run import checkpoint, config
from rnnlab.run.files import read_json, read_rows, write_json
from rnnlab.run.folder import lock
from rnnlab.train import parallel, single
from rnnlab.train.from_config import build
from rnnlab.train.record import Record
from rnnlab.train.saved import mended_config, open_run
from rnnlab.train.session import fit
from rnnlab.train.state import configured_state
from tests.faults.lab import leaves, rows
from tests.train.runs import STEPS, assert_same_run, made, stop_after

pytestmark = pytest.mark.exact


def test_a_run_folder_explains_itself(straight, text):
    run = json.loads((straight / "run.json").read_text())
    assert len(run["data"]["sha256"]) == 64
    assert run["data"]["vocabulary"] == len(set(text.read_text(encoding="utf-8")))
    assert run["parameters"] > 0
    assert run["versions"]["jax"] == jax.__version__
    json.loads((straight / "config.json").read_text())
    found = read_rows(straight / "metrics.jsonl")
    logged = [r["step"] for r in found if r["split"] == "train"]
    assert logged == [4, 8, 12, 16, 20, 24, 28]
    assert [r["step"] for r in found if r["split"] == "valid"] == [10, 20, 30]
    for row in found:
        assert np.isfinite(row["loss"])
        if row["split"] == "train":
            assert {"grad_norm", "clipped", "update_ratio", "chars_per_second"} <= row.keys()
            assert row["chars_per_second"] > 0
        else:
            assert row["bits_per_char"] == pytest.approx(row["loss"] / np.log(2))
            assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
            assert "loss_random_windows" in row
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["valid_loss"] == min(r["loss"] for r in found if r["split"] == "valid")
    assert summary["steps"] == STEPS
    assert summary["seconds"] > 0
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((straight / "tensorboard").iterdir())
    samples = (straight / "samples.txt").read_text()
    assert "---- step 15 ----" in samples
    assert "---- step 30 ----" in samples


def test_the_loss_falls(straight):
    losses = [r["loss"] for r in rows(straight) if r["split"] == "valid"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "step", [pytest.param(k, marks=pytest.mark.slow if k != 13 else ()) for k in (1, 7, 10, 13, 29)]
)
def test_stopped_by_a_signal_and_resumed_is_the_same_run(
    step, straight, text, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted) as stopped:
            fit(made(text), workdir, [])
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert checkpoint.steps(workdir / "checkpoints")[-1] == step
    fit(None, workdir, [])
    assert_same_run(straight, workdir)
    assert json.loads((workdir / "run.json").read_text())["resumed"][0]["step"] == step


@pytest.mark.slow
def test_rows_beyond_the_checkpoint_are_written_once(straight, text, tmp_path, monkeypatch):
    """A crash between two checkpoints: the rows after the last one are dropped and made again."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        make = single.make_train_step

        def failing(*args, **kwargs):
            inner = make(*args, **kwargs)

            def step(state, batch):
                if int(state.step) == 26:
                    raise RuntimeError("power cut")
                return inner(state, batch)

            return step

        patch.setattr(single, "make_train_step", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(made(text), workdir, [])
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "spl')
    fit(made(text), workdir, [])
    assert_same_run(straight, workdir)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_only_time(straight, text, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 17)
        with pytest.raises(Interrupted):
            fit(made(text), workdir, [])
    victim = max(
        (workdir / "checkpoints" / "00000017" / "state").rglob("*"), key=lambda p: p.stat().st_size
    )
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.write_bytes(damaged)
    fit(None, workdir, [])
    assert "00000017" in capsys.readouterr().err
    assert_same_run(straight, workdir)


def test_evaluation_sampling_and_checkpoints_do_not_change_training(straight, text, tmp_path):
    workdir = tmp_path / "run"
    quiet = ("train.eval_every=0", "train.sample_every=0", "train.checkpoint_every=0")
    fit(made(text, *quiet), workdir, [])
    assert leaves(workdir) == leaves(straight)


def test_a_finished_run_is_left_as_it_is(straight, text, capsys):
    before = {p: p.read_bytes() for p in straight.glob("*.*") if p.suffix in (".jsonl", ".txt")}
    summary = json.loads((straight / "summary.json").read_text())
    fit(None, straight, [])
    assert before == {p: p.read_bytes() for p in before}
    assert json.loads((straight / "summary.json").read_text()) == summary


def test_another_config_on_the_same_folder_is_refused(straight, text):
    with pytest.raises(
        UsageError, match=r"optim\.clip_norm: the run has 0\.25, you gave 2\.0"
    ) as error:
        fit(made(text, "optim.clip_norm=2.0"), straight, [])
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_on_a_constant_schedule_can_be_made_longer(text, tmp_path):
    constant = ("optim.schedule=constant", "train.log_every=10", "train.eval_every=10")
    short, long = tmp_path / "short", tmp_path / "long"
    fit(made(text, *constant, "train.steps=20"), short, [])
    fit(made(text, *constant), short, [])
    fit(made(text, *constant), long, [])
    assert leaves(short) == leaves(long)
    assert [r["step"] for r in rows(short)] == [r["step"] for r in rows(long)]


@pytest.mark.slow
def test_a_run_cannot_be_made_shorter_than_it_is(text, tmp_path):
    quiet = ("train.eval_every=0", "train.sample_every=0", "optim.schedule=constant")
    fit(made(text, *quiet, "train.steps=20"), tmp_path / "run", [])
    with pytest.raises(UsageError, match="has done 20 steps"):
        fit(made(text, *quiet, "train.steps=10"), tmp_path / "run", [])


def test_keys_too_many_or_too_few_are_one_line(text):
    more = made(text)
    with more.optim.unlocked():
        more.optim.nesterov = True
    with pytest.raises(UsageError, match="nesterov"):
        build(more)
    fewer = made(text)
    with fewer.data.unlocked():
        del fewer.data.forget
    with pytest.raises(UsageError, match="forget"):
        build(fewer)


@pytest.mark.slow
def test_bytes_are_called_bytes(text, tmp_path):
    workdir = tmp_path / "run"
    fit(made(text, "data.level=byte", "train.log_every=10"), workdir, [])
    found = read_rows(workdir / "metrics.jsonl")
    assert any("bytes_per_second" in r for r in found)
    assert any("bits_per_byte" in r for r in found)


def test_a_run_on_a_cosine_cannot(straight, text):
    with pytest.raises(UsageError, match=r"train\.steps: the run has 30, you gave 40"):
        fit(made(text, "train.steps=40"), straight, [])


def test_a_folder_of_something_else_is_left_alone(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl but no config\.json"):
        fit(made(text), tmp_path, [])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


def test_a_changed_text_is_refused(straight, text, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    old = text.read_text()
    try:
        text.write_text(old.replace("question", "questino", 1))
        with pytest.raises(UsageError, match="changed since it began"):
            fit(None, workdir, [])
    finally:
        text.write_text(old)


def test_a_damaged_config_is_named_or_put_back(straight, text, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    path = workdir / "config.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"steps": 30', b'"steps": 31'))
    with pytest.raises(UsageError, match=r"config\.json: it has changed .* puts it back"):
        open_run(workdir, "best", print)
    assert mended_config(workdir, print) == config.from_json(read_json(path))
    assert path.read_bytes() == content
    assert "put back as it was at step 30" in capsys.readouterr().out
    path.write_bytes(content.replace(b'"steps": 30', b'"steps": 31'))
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(UsageError, match=r"config\.json: it has changed"):
        fit(None, workdir, [])


def test_rows_that_have_gone_while_the_run_goes_on_are_the_disks_fault(text, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    validated = Record.log_validation

    def removed(self, step, found):
        better = validated(self, step, found)
        (workdir / "metrics.jsonl").unlink()
        return better

    monkeypatch.setattr(Record, "log_validation", removed)
    with pytest.raises(StorageError, match=r"cannot read .*metrics\.jsonl: No such file"):
        fit(made(text), workdir, [])


def test_a_folder_in_use_is_refused(straight, text):
    with lock(straight), pytest.raises(InUseError):
        fit(None, straight, [])


def test_evaluate_and_sample_need_nothing_but_the_folder(straight, text, tmp_path, monkeypatch):
    moved = text.with_suffix(".moved")
    text.rename(moved)
    try:
        run = open_run(straight, "best", print)
        best = min(rows(straight), key=lambda r: (r["split"] != "valid", r["loss"]))
        assert run.meta["step"] == best["step"]
        found = run.task.evaluate(run.params)
        assert found["loss"] == best["loss"]
        assert found["loss_random_windows"] == best["loss_random_windows"]
    finally:
        moved.rename(text)


def test_full_evaluation_equals_one_stream_read_from_the_start(text, tmp_path):
    """Many streams with burn-in come close to a single one, which is the definition."""
    settings = made(text, "eval.burn_in=64", "model.dropout=0", "model.options.recurrent_dropout=0")
    task, _ = build(settings)
    one, _ = build(made(text, "eval.streams=1"))
    params = task.init(jax.random.key(1))
    assert task.evaluate(params)["loss"] == pytest.approx(one.evaluate(params)["loss"], abs=5e-4)


@pytest.mark.slow
def test_several_steps_a_dispatch_are_the_same_run(straight, text, tmp_path, monkeypatch):
    """Whatever the groups are: cut by what falls due, by a signal, or by a resumption."""
    workdir = tmp_path / "run"
    several = "train.steps_per_dispatch=3"
    with monkeypatch.context() as patch:
        stop_after(patch, 19)  # groups end at 3, 4, 7, 8, 10, 12, 14, 15, 16, 19, 20 ...
        with pytest.raises(Interrupted, match="after step 19"):
            fit(made(text, several), workdir, [])
    fit(None, workdir, [])
    assert_same_run(straight, workdir)


@pytest.mark.slow
def test_split_over_two_devices(straight, text, tmp_path, monkeypatch, capsys):
    """The same bits when stopped and resumed; on another number of devices, a warning."""
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    two, stopped = tmp_path / "two", tmp_path / "stopped"
    fit(made(text, "parallel.devices=2"), two, [])
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(Interrupted):
            fit(made(text, "parallel.devices=2"), stopped, [])
    shutil.copytree(stopped, tmp_path / "moved")
    fit(None, stopped, [])
    assert_same_run(two, stopped)
    run = json.loads((two / "run.json").read_text())
    assert run["split"] == "2 devices"
    assert 0 < run["start_seconds"] < 600
    capsys.readouterr()
    fit(made(text, "parallel.devices=1"), tmp_path / "moved", [])
    assert 'split: checkpoint has "2 devices", this run has "1 device"' in capsys.readouterr().err
    resumed = json.loads((tmp_path / "moved" / "run.json").read_text())["resumed"][0]
    assert resumed["split"] == "1 device"
    assert resumed["start_seconds"] > 0
    assert rows(tmp_path / "moved")[0] == rows(two)[0]
    # Dropout draws other masks on the second device: near, and not the same.
    losses = [rows(w)[-1]["loss"] for w in (straight, two, tmp_path / "moved")]
    assert losses[0] != losses[1]
    assert max(losses) - min(losses) < 0.1
    open_run(two, "best", pytest.fail)  # to evaluate, on one device, is no reason to warn


def without_later_leaves(workdir: Path) -> None:
    """Its checkpoints as an older rnnlab would have written them."""
    settings = config.from_json(read_json(workdir / "config.json"))
    task, optimiser = build(settings)
    state, root = configured_state(settings, task, optimiser), workdir / "checkpoints"
    for step in checkpoint.steps(root):
        options = {"fingerprint": task.fingerprint}
        found, meta = checkpoint.restore(root, state, step=step, warn=print, **options)
        fault = {name: found.fault[name] for name in ("step", "loss", "norm")}
        tally = {name: total for name, total in found.tally.items() if name != "norm_large"}
        options |= {"metric": meta["metric"], "extra": meta["extra"], "keep": 9}
        checkpoint.save(root, step, found.replace(fault=fault, skips={}, tally=tally), **options)


def test_a_run_of_before_there_were_devices_goes_on(straight, text, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    config_file = workdir / "config.json"
    old = read_json(config_file)  # and no checksum
    without_later_leaves(workdir)
    del old["parallel"], old["train"]["steps_per_dispatch"], old["train"]["skip_faults"]
    for key in ("path", "keep", "precision"):
        del old["model"][key]
    old["model"]["compute_dtype"] = None
    config_file.write_text(json.dumps(old))
    fit(None, workdir, [])
    assert open_run(workdir, "latest", print).meta["step"] == STEPS


def test_run_json_describes_the_last_resumptions_and_counts_them_all(straight, tmp_path):
    workdir = shutil.copytree(straight, tmp_path / "run")
    path = workdir / "run.json"
    run = read_json(path)
    write_json(path, run | {"resumed": [{"step": n} for n in range(25)], "resumptions": 25})
    fit(None, workdir, [])
    run = read_json(path)
    assert run["resumptions"] == 26
    assert [entry["step"] for entry in run["resumed"]] == [
        *range(6, 25),
        run["resumed"][-1]["step"],
    ]
    assert run["resumed"][-1]["versions"]
