"""The temporal order problem at lengths beyond those of training: 12 runs, 15 minutes or less.

    python launch.py sweep --config=experiments/temporal_order_lengths.py

Pascanu et al. 2013, section 4.1: a tanh RNN with clipping and Omega, trained on sequences of 50 to 200
steps, "generalises" to 5,000. Here it is trained on 20 to 60, beside the gated cells, all clipped at 1,
three seeds each; lengths.png draws the error of those that solved it up to 5,000 steps.

Expect all but one seed to solve it at the lengths of training, and none to do well beyond: at 100 steps
17% of the RNN's answers are wrong and 28% of the LSTM's, and from 200 on all guess. 10,000 steps at
these lengths do not reproduce the paper's generalisation.
"""

from experiments import temporal_order


def get_config():
    config = temporal_order.get_config().unlock()
    config.train.window = 60
    config.data.shortest = 20
    config.train.steps = 10000
    config.train.eval_every = 5000
    config.eval.lengths = (60, 100, 200, 500, 1000, 2000, 5000)
    config.eval.longer = 500
    return config.lock()


def sweep(add):
    for cell in ("rnn", "ugrnn", "gru", "lstm"):
        for seed in range(3):
            omega = 2.0 if cell == "rnn" else 0.0
            add(**{"model.cell": cell, "optim.omega": omega, "seed": seed})
