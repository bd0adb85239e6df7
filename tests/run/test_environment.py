"""Faults of the system and of variables, each told in a line and with exit code 2."""

import logging
import os
import subprocess
import sys

import jax
import pytest

import launch
from rnnlab import tasks
from rnnlab.errors import UsageError
from rnnlab.run import command, environment
from tests.support import ROOT

VERBS = {verb.name: verb for verb in launch.PROGRAM.verbs}


def act(*, raising: BaseException) -> command.Program:
    """A launcher of one verb, which raises."""

    def run(call):
        raise raising

    verb = command.Verb("act", "act", "", command.no_flags, run)
    return launch.PROGRAM._replace(verbs=(verb,), prepare=lambda: None)


WINDOWS = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import signal
del signal.SIGHUP
sys.platform = "win32"
import launch
codes = [launch.main([*words.split()]) for words in sys.argv[1:]]
assert set(codes) == {2}, codes
assert "jax" not in sys.modules
import rnnlab
from rnnlab.data import cache
from rnnlab.run import locks
try:
    with locks.held(None, "it", print):
        pass
except rnnlab.UsageError as error:
    print(error)
"""


def test_windows_is_told_what_is_supported_by_every_verb():
    flags = dict.fromkeys(("evaluate", "sample", "show", "compile", "report"), "--workdir=.")
    flags |= {"mot": "--truth=x --answers=x", "train": "--config=x.py"}
    words = [f"{name} {flags.get(name, '')}" for name in VERBS]
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, *words],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = f"rnnlab: {environment.SUPPORTED}; this Python is one for win32"
    assert done.stderr.splitlines() == len(words) * [line]
    assert done.stdout.strip() == environment.SUPPORTED


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--nonsense", "Unknown flag in XLA_FLAGS: --nonsense"),
        ("--xla_cpu_enable_fast_math=false --xla_nonsense=1", "--xla_nonsense=1"),
        ("--xla_force_host_platform_device_count=two", "two for flag"),
    ],
)
def test_flags_that_xla_would_end_the_process_for(flags, said, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(UsageError) as error:
        environment.start_jax()
    assert str(error.value).startswith(f"XLA refuses XLA_FLAGS={flags}: ")
    assert said in str(error.value)


@pytest.mark.parametrize("flags", [" ", "--xla_force_host_platform_device_count=2"])
def test_flags_that_xla_takes(flags, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    environment.start_jax()


@pytest.mark.parametrize(
    "setting",
    ["JAX_ENABLE_X64=maybe", "JAX_DEFAULT_MATMUL_PRECISION=much", "JAX_NUM_CPU_DEVICES=many"],
)
def test_jax_cannot_be_imported(setting):
    code = "import launch; raise SystemExit(launch.main(['evaluate', '--workdir=.']))"
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=os.environ | {name: value}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("rnnlab: JAX does not start here (ValueError: ")
    assert f"{setting}" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_transfer_guard_device_to_host", "disallow"),
    ],
)
def test_flags_by_which_jax_refuses_what_rnnlab_does(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(UsageError, match=f"{name.upper()}={value}: unset it"):
            environment.start_jax()
    finally:
        jax.config.update(name, before)
    environment.start_jax()


@pytest.mark.parametrize("error", [RuntimeError("what\never"), AssertionError(), ValueError("x")])
def test_jax_has_no_device(error, monkeypatch, capsys):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda': no plugin")

    program = act(raising=error)
    with pytest.raises(type(error)):
        command.main(program, ["act"])  # all is well, and this is a fault of rnnlab's own
    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert command.main(program, ["act"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Unable to initialize backend 'cuda'" in line
    assert "JAX_PLATFORMS=cuda" in line
    assert "the extras 'cuda' and 'tpu'" in line


def test_no_screen_is_asked_for(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    logger = logging.getLogger("matplotlib")
    level = logger.level
    environment.draw_into_files()
    assert os.environ["MPLBACKEND"] == "agg"
    assert not logger.isEnabledFor(logging.WARNING)
    logger.setLevel(level)


def test_no_docstring_is_data():
    for path in [ROOT / "launch.py", *(ROOT / "rnnlab").rglob("*.py")]:
        assert "__doc__" not in path.read_text(encoding="utf-8"), path


def test_a_task_is_told_of_by_its_docstring():
    for name in tasks.names():
        assert tasks.summary(name) == (tasks.module(name).__doc__ or "").split("\n")[0] != ""


@pytest.mark.slow
def test_tasks_are_listed_without_docstrings():
    code = "import launch; raise SystemExit(launch.main(['tasks']))"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in tasks.names():
        assert tasks.summary(name)
        assert f"  {name:<23} {tasks.summary(name)}\n" in done.stdout


def test_what_is_supported_is_said_where_a_user_looks():
    assert "Linux, macOS" in environment.SUPPORTED
    assert "Linux, macOS or WSL" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Operating System :: POSIX :: Linux" in (ROOT / "pyproject.toml").read_text()
