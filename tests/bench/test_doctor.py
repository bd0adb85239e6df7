"""What a machine has and promises; and that each kind of broken machine is told of."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import launch
from rnnlab.bench import doctor
from rnnlab.run import checkpoint, config, machine, process
from rnnlab.train.from_config import build
from tests.support import ROOT

SMALL = (  # what compiles soon
    "model.cell=rnn",
    "model.hidden=8",
    "model.layers=1",
    "model.dropout=0",
    "model.output_dropout=0.1",
    "optim.name=sgd",
    "optim.ema=0",
    "parallel.devices=1",
)


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path) -> Path:
    """A folder in which nothing is, for all that could be left on the disk."""
    monkeypatch.setattr(process, "keep_compiled", lambda folder: None)
    monkeypatch.setattr(process, "retain_memory", lambda: False)
    monkeypatch.setattr(doctor, "TRIAL", (*doctor.TRIAL, *SMALL))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trial(place):
    return config.load(str(ROOT / "experiments" / "default.py"), [*doctor.TRIAL])


def test_a_machine_on_which_all_is_well(place, capsys):
    assert launch.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert not err
    for title in ("versions", "devices and threads", "memory and disk", "precision", "self-check"):
        assert f"\n{title}\n" in out
    for package in ("jax", "orbax-checkpoint", "sentencepiece"):
        assert f"  {package:<{doctor.WIDTH}} {machine.installed(package)}" in out
    assert "off central differences by" in out
    assert "a flipped bit was noticed" in out
    assert f"two runs of {doctor.STEPS} steps, and one stopped" in out
    assert f"resumes bit for bit with these versions, this processor and {machine.cores()}" in out
    assert "NOT" not in out
    assert list(place.iterdir()) == []


def test_what_fails_is_one_line_and_nothing_is_promised_of_it(monkeypatch, capsys):
    def broken(*_: object):
        raise OSError(errno.ENOSPC, "No space left on device\nand more")

    monkeypatch.setattr(doctor, "check_checkpoints", broken)
    monkeypatch.setattr(doctor, "check_gradients", lambda: ("", "off by 1"))
    monkeypatch.setattr(doctor, "check_equal_bits", lambda config: ("all agree", ""))
    assert launch.main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert err == (
        "rnnlab: not all is well: gradients: off by 1; checkpoints: OSError: [Errno 28] No space left "
        "on device\n"
    )
    assert "resumes bit for bit is NOT promised here" in out
    assert "Gradients are WRONG here" in out


def test_a_wrong_gradient_of_the_fast_path_alone(monkeypatch):
    def wrong(cell, params, x, *, path, **options):
        if path == "auto":  # the value stays right
            kernel = max(params, key=lambda name: params[name].size)
            cut = jax.lax.stop_gradient(params[kernel][:1])
            params = params | {kernel: params[kernel].at[:1].set(cut)}
        return unroll(cell, params, x, path=path, **options)

    unroll = doctor.unroll
    monkeypatch.setattr(doctor, "unroll", wrong)
    found, problem = doctor.check_gradients()
    assert problem == found
    plain, fast = (float(part.split()[-1]) for part in problem.split(" by the ")[:2])
    assert plain < doctor.TOLERANCE < 0.01 < fast


def test_a_flipped_bit_that_goes_unnoticed(monkeypatch):
    monkeypatch.setattr(checkpoint, "fault_of", lambda folder: "")
    assert doctor.check_checkpoints() == ("", "a flipped bit of a checkpoint went unnoticed")


def test_a_restored_array_that_is_another(monkeypatch):
    monkeypatch.setattr(
        doctor, "_restored", lambda root, tree: tree | {"weights": -tree["weights"]}
    )
    assert doctor.check_checkpoints() == ("", "what was restored is not what was saved")


def test_runs_that_differ(trial, monkeypatch):
    task, optimiser = build(trial)
    calls = iter(range(10_000))  # one batch after the other, whatever the step
    monkeypatch.setattr(
        doctor,
        "build",
        lambda _: (task._replace(batch=lambda _: task.batch(next(calls))), optimiser),
    )
    found, problem = doctor.check_equal_bits(trial)
    assert not found
    assert problem.startswith(f"two equal runs of {doctor.STEPS} steps differ in .params")


def test_a_resumed_run_that_differs(trial, monkeypatch):
    def back(root, template):
        state = checkpoint.restore(root, template, fingerprint={}, warn=print)[0]
        return state.replace(carry=jax.tree.map(jax.numpy.zeros_like, state.carry))

    monkeypatch.setattr(doctor, "_restored", back)
    found, problem = doctor.check_equal_bits(trial)
    assert not found
    assert problem.startswith("a run that was stopped and resumed differs in .params")


def test_a_run_that_stops_at_a_fault(trial, monkeypatch):
    with trial.unlocked():
        trial.optim.learning_rate = 1e38
    found, problem = doctor.check_equal_bits(trial)
    assert not found
    assert f"of {doctor.STEPS}, its loss" in problem


def test_a_cache_folder_that_cannot_be_used(place, monkeypatch):
    assert doctor.why_unusable(place / "one" / "two") == ""
    (place / "file").write_text("")
    assert "file is no folder" in doctor.why_unusable(place / "file" / "cache")

    def refused(**_: object):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert "cannot be written: Read-only file system" in doctor.why_unusable(place)
    monkeypatch.setattr(doctor, "run_checks", lambda config: [])
    problems = doctor.examine(
        config.load(str(ROOT / "experiments" / "default.py"), []), lambda text: None
    )
    assert [problem.partition(":")[0] for problem in problems] == ["cache"]


@pytest.mark.parametrize("asked", [False, True])
def test_whether_memory_is_retained(asked):
    """In a process of its own: another test may have asked for it in this one."""
    if not hasattr(doctor.ctypes.CDLL(None), "mallopt"):
        pytest.skip("glibc alone retains memory")
    program = "from rnnlab.bench import doctor\nfrom rnnlab.run import process\n"
    program += "" if asked else "process.retain_memory = lambda: True\n"
    command = [sys.executable, "-c", f"{program}print(doctor.whether_retained())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("NOT retained" in done.stdout) == (not asked)


def test_memory_that_cannot_be_retained():
    assert doctor.whether_retained().startswith("freed memory goes back")


def test_what_is_told_of_a_disk_that_is_not_there(place):
    assert doctor._room(place).endswith(f"in {place}")
    assert "No such file" in doctor._room(place / "away")
    with contextlib.suppress(OSError):
        assert shutil.disk_usage(place).free
    assert doctor._size(1 << 30) == "1.0 GiB"
    assert doctor._size(1536) == "1.5 KiB"
