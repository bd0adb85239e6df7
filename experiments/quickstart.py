"""Quickstart: a GRU learns to write Python from the source text of the standard library.

    python launch.py train --config=experiments/quickstart.py

Needs no network and no data but the running interpreter. About 2 minutes on 2 CPU
cores; 1.26 nats per character on the last 2% of the text. A trial of fewer steps than the
warm-up's 100 sets --config.optim.warmup_steps=0 too.
"""

from experiments import default


def get_config():
    config = default.get_config()
    config.data.corpus = "python"
    config.model.cell = "gru"
    config.model.hidden = 256
    config.model.layers = 1
    config.optim.learning_rate = 0.005
    config.train.steps = 4000
    config.train.log_every = 100
    config.train.eval_every = 1000
    config.train.sample_every = 1000
    config.train.checkpoint_every = 1000
    config.data.valid_fraction = 0.02
    config.sample.prime = "\ndef "
    config.sample.temperature = 0.5
    config.sample.python_snippets = 64
    return config
