"""A 3 x 512 LSTM on tinyshakespeare: below nanoGPT's best transformer on the same split.

    python launch.py train --config=experiments/shakespeare.py

Reaches 1.417 nats per character on the whole held-out text, in 55 minutes on 2 CPU cores that had
other work too. Downloads 1.1 MB once; without a network give --config.data.path=FILE. The recipe
includes its regularisation: dropout between layers and before the readout, decoupled weight
decay, and a moving average of the weights.
"""

from experiments import default


def get_config():
    config = default.get_config()
    config.data.corpus = "shakespeare"
    config.model.cell = "lstm"
    config.model.hidden = 512
    config.model.layers = 3
    config.model.residual = True
    config.model.dropout = 0.4
    config.model.output_dropout = 0.4
    config.optim.learning_rate = 0.003
    config.optim.weight_decay = 0.02
    config.train.steps = 5000
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.sample_every = 1000
    config.train.checkpoint_every = 500
    return config
