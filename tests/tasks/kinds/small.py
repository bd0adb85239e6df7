"""Tasks of memory that train in seconds."""

from rnnlab import tasks
from rnnlab.run import config as configuration
from tests.support import ROOT

QUICK = [
    "model.hidden=16",
    "train.batch_size=8",
    "train.window=24",
    "train.steps=60",
    "train.log_every=20",
    "train.eval_every=30",
    "train.sample_every=0",
    "train.checkpoint_every=0",
    "eval.sequences=30",
    "eval.chunk=20",
]


def settings(task, *more):
    changes = [
        *QUICK,
        f"task={task}",
        *(["data.symbols=5"] if task == "random_permutation" else []),
    ]
    return configuration.load(str(ROOT / "experiments" / "memory.py"), [*changes, *more])


def made(task, *more):
    return tasks.make_task(settings(task, *more))
