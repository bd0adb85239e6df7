"""How far back the gradient reaches, for four cells, at initialisation and trained: 8 runs, 3 minutes.

    python launch.py sweep --config=experiments/vanishing.py
    python launch.py diagnose --workdir=runs/vanishing

Bengio et al. 1994 and Pascanu et al. 2013: going back k steps the gradient is multiplied by k
Jacobians, and so behaves like a^k. The task is the temporal order problem over 100 steps: the answer
depends on what stood 50 to 90 steps before. Expect, in runs/vanishing/diagnosis, the tanh RNN's
gradient to fall like 0.9^k at initialisation, and faster once training has saturated its units: it
solves nothing. That of UGRNN and GRU reaches back over the whole sequence once they have solved it:
training has made their factor close to 1. (In 2,000 steps the LSTM solves it with one of two seeds.)
"""

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "temporal_order"
    config.model.hidden = 64
    config.train.window = 100
    config.train.batch_size = 32
    config.train.steps = 2000
    config.train.eval_every = 1000
    config.train.sample_every = 0
    config.train.keep = 1
    config.optim.learning_rate = 0.005
    return config.lock()


def sweep(add):
    for cell in ("rnn", "ugrnn", "gru", "lstm"):
        for seed in range(2):
            add(**{"model.cell": cell, "seed": seed})
