"""Small sweeps."""

from pathlib import Path

import jax
import numpy as np

from rnnlab.run import checkpoint
from rnnlab.run.files import read_rows
from rnnlab.train.from_config import build
from rnnlab.train.saved import saved_config
from rnnlab.train.state import configured_state

STEPS = 30


SMALL = {
    "model.hidden": 8,
    "model.layers": 1,
    "optim.warmup_steps": 5,
    "train.batch_size": 4,
    "train.window": 8,
    "train.log_every": 4,
    "train.eval_every": 10,
    "train.sample_every": 0,
    "train.checkpoint_every": 7,
    "eval.streams": 4,
    "eval.window": 32,
    "eval.burn_in": 8,
    "eval.random_windows": 8,
    "eval.random_window": 16,
    "sample.length": 20,
    "data.forget": 0.1,
    "train.steps": STEPS,
    "train.steps_per_dispatch": 1,
    "parallel.devices": 1,
}


TIMES = ("seconds", "chars_per_second")


def experiment(folder: Path, text: Path, body: str, **changes) -> str:
    """A config file whose sweep(add) has this body."""
    lines = [
        f"    config.{k} = {v!r}" for k, v in ({**SMALL, "data.path": str(text), **changes}).items()
    ]
    source = "\n".join(
        [
            "from experiments import default",
            "def get_config():",
            "    config = default.get_config()",
            *lines,
            "    return config",
            "def sweep(add):",
            *(f"    {line}" for line in body.strip().split("\n")),
        ]
    )
    path = folder / "mine.py"
    path.write_text(source + "\n")
    return str(path)


def rows(workdir: Path) -> list[dict]:
    found = read_rows(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def final(workdir: Path) -> dict[str, bytes]:
    """Every leaf of the newest state, as bytes, by its path."""
    settings = saved_config(workdir)
    task, optimiser = build(settings)
    template = jax.eval_shape(lambda: configured_state(settings, task, optimiser))
    found = checkpoint.restore(
        workdir / "checkpoints", template, fingerprint=task.fingerprint, warn=print
    )
    assert found is not None
    plain = found[0].replace(key=jax.random.key_data(found[0].key))
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(plain)
    }
