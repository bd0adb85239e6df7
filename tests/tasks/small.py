"""Configs with which each task trains in seconds."""

from rnnlab.run import config as configuration
from tests.support import ROOT

COMMON = [
    "model.hidden=16",
    "train.batch_size=8",
    "train.log_every=1",
    "train.eval_every=0",
    "train.sample_every=0",
    "train.checkpoint_every=0",
    "optim.schedule=constant",
    "optim.warmup_steps=0",
    "optim.learning_rate=0.01",
    "optim.ema=0",
    "eval.chunk=8",
]


# What makes each small enough to be tested in seconds.
QUICK = {
    "actions": [
        "train.window=6", "data.shortest=4", "data.side=8", "encoder.channels=(4,)",
        "encoder.features=16", "eval.sequences=16",
    ],
    "captions": [
        "data.size=24", "encoder.channels=(8,8,16)", "decoder.size=16", "decoder.embedding=8",
        "eval.examples=8", "eval.decoded=8", "eval.tested=8", "eval.beam=2",
    ],
    "one_to_one": ["eval.sequences=16"],
    "tracking": [
        "encoder.channels=(4,)", "encoder.features=8", "data.size=16", "train.window=8",
        "eval.sequences=8",
    ],
    "translation": [
        "encoder.hidden=16", "encoder.size=16", "encoder.embedding=8", "decoder.size=16",
        "decoder.embedding=8", "eval.examples=8", "eval.decoded=8", "eval.beam=2",
    ],
    "speech": [
        "model.layers=1", "data.stack=4", "train.window=40", "eval.examples=8", "eval.decoded=8",
        "eval.beam=2", "sample.utterances=1",
    ],
}  # fmt: skip


def task_config(task, *more):
    return configuration.load(
        str(ROOT / "experiments" / f"{task}.py"), [*COMMON, *QUICK[task], *more]
    )
