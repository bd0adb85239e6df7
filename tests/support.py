"""What several files of tests use: where things lie, and configs that train in seconds."""

import random
from pathlib import Path

import launch
from rnnlab.run import config

ROOT = Path(__file__).resolve().parents[1]


SMALL = [
    "model.hidden=8",
    "model.layers=2",
    "model.dropout=0.1",
    "model.output_dropout=0.1",
    "optim.warmup_steps=5",
    "data.forget=0.2",
    "train.batch_size=4",
    "train.window=8",
    "train.steps=60",
    "train.log_every=10",
    "eval.streams=2",
    "eval.window=32",
    "eval.burn_in=0",
    "eval.random_windows=4",
    "eval.random_window=16",
    "sample.length=10",
]


def small_config(text, changes=(), *more):
    """The config of a character model that trains on `text` in seconds. changes: key -> value; more:
    "key=value"."""
    settings = config.load(
        str(ROOT / "experiments" / "default.py"), [*SMALL, f"data.path={text}", *more]
    )
    for key, value in dict(changes).items():
        config.assign(settings, key, config.spell(value))
    return settings


def make_text(path: Path, characters: int = 6000) -> Path:
    """A text with some structure."""
    draw = random.Random(0)
    words = ["to", "be", "or", "not", "that", "is", "the", "question", "é"]
    text = " ".join(draw.choice(words) for _ in range(characters // 3))[:characters]
    path.write_text(text, encoding="utf-8")
    return path


DEFAULT = f"--config={ROOT / 'experiments' / 'default.py'}"


TINY = [
    "--config.model.hidden=6",
    "--config.model.layers=1",
    "--config.train.steps=12",
    "--config.optim.warmup_steps=2",
    "--config.train.batch_size=4",
    "--config.train.window=8",
    "--config.train.log_every=4",
    "--config.eval.streams=2",
    "--config.eval.window=32",
    "--config.eval.burn_in=0",
    "--config.eval.random_windows=4",
    "--config.eval.random_window=16",
    "--config.sample.length=10",
]


def refused(capsys, arguments: list[str], code: int = 2) -> str:
    """The one line on standard error with which `arguments` are refused."""
    assert launch.main(arguments) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("rnnlab: ")
    return lines[0]
