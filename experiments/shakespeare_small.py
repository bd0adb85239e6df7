"""A small Shakespeare in 3 minutes on 2 CPU cores: 1 x 256 LSTM on tinyshakespeare.

    python launch.py train --config=experiments/shakespeare_small.py

Reaches 1.522 nats per character on the whole held-out text. Downloads 1.1 MB once; without a
network give --config.data.path=FILE.
"""

from experiments import default


def get_config():
    config = default.get_config()
    config.data.corpus = "shakespeare"
    config.model.cell = "lstm"
    config.model.hidden = 256
    config.model.layers = 1
    config.model.output_dropout = 0.1
    config.optim.learning_rate = 0.005
    config.train.steps = 4500
    config.train.log_every = 100
    config.train.eval_every = 1500
    config.train.sample_every = 1500
    config.train.checkpoint_every = 1500
    return config
