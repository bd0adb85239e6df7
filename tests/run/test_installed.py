"""rnnlab without its repository: python -m rnnlab, from any folder, of the package alone."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

import rnnlab.__main__ as launcher
from rnnlab.errors import UsageError
from rnnlab.run import config, default
from tests.support import ROOT, TINY

MINE = """
from rnnlab.run import default

def get_config():
    config = default.get_config()
    config.data.path = {text!r}
    return config

def sweep(add):
    for seed in range(2):
        add(seed=seed)
"""


def test_every_key_is_declared_in_the_package_alone():
    experiment = config.load(ROOT / "experiments" / "default.py")
    assert config.difference(config.load(default.__file__), experiment) == {}
    assert "config." not in (ROOT / "experiments" / "default.py").read_text().replace(".config", "")


def test_a_config_that_needs_the_experiments_is_told_what_to_write(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "experiments", None)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    for line in ("from experiments import default", "import experiments.memory"):
        path.write_text(f"{line}\n")
        with pytest.raises(UsageError, match=r"line 1: .*`from rnnlab.run import default`"):
            config.load(path)
    with pytest.raises(UsageError, match=r"does not exist: .*`from rnnlab.run import default`"):
        config.load("experiments/quickstart.py")
    path.write_text("import nothing_of_this_name\n")
    with pytest.raises(UsageError, match=r"nothing_of_this_name'$"):
        config.load(path)


def test_the_script_is_the_launcher():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["rnnlab"].partition(":")
    assert getattr(sys.modules[module], name) is launcher.start


def told(folder, *arguments, **options):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", "rnnlab", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder / "packages")},
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


@pytest.fixture
def elsewhere(tmp_path):
    shutil.copytree(
        ROOT / "rnnlab", tmp_path / "packages" / "rnnlab", ignore=shutil.ignore_patterns("*.pyc")
    )
    return tmp_path


def test_help_and_mistakes_name_the_way_in(elsewhere):
    assert told(elsewhere, "--help").stdout.startswith("usage: python -m rnnlab [-h] VERB ...")
    assert "\n  python -m rnnlab train " in told(elsewhere, "--help").stdout
    done = told(elsewhere, "trian")
    assert done.returncode == 2
    assert done.stderr.endswith("(see python -m rnnlab --help)\n")


@pytest.mark.slow
def test_the_package_alone_trains_sweeps_checks_itself_and_times_its_start(elsewhere):
    text = elsewhere / "text.txt"
    text.write_text("the cat sat on the mat. " * 100)
    (elsewhere / "mine.py").write_text(MINE.format(text=str(text)))
    done = told(elsewhere, "train", "--config=mine.py", "--workdir=my run", *TINY)
    assert done.returncode == 0, done.stderr
    assert "Try it: python -m rnnlab sample '--workdir=my run' " in done.stdout
    done = told(elsewhere, "evaluate", "--workdir=my run")
    assert done.returncode == 0, done.stderr
    flags = ("--config=mine.py", "--workdir=two", "--executor=local", *TINY)
    done = told(elsewhere, "sweep", *flags)
    assert done.returncode == 0, done.stderr
    done = told(elsewhere, "doctor")
    assert done.returncode == 0, done.stderr
    done = told(elsewhere, "bench", "startup", "--repeats=1")
    assert done.returncode == 0, done.stderr
