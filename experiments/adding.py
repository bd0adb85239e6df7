"""The adding problem at T = 100: the sum of two marked numbers among a hundred, in under a minute.

    python launch.py train --config=experiments/adding.py

Hochreiter and Schmidhuber 1997, experiment 4; the definition is in rnnlab/tasks/adding.py. A 64-unit
GRU; whoever always says the mean has a squared error of 1/6. Expect 0.0002 after 3,000 steps, less than
1% of the sequences off by more than 0.04, and no understanding of longer ones: at T = 200 most answers
are wrong. (Bai et al. 2018 report 5e-5 for a GRU at T = 600, and that an LSTM and a tanh RNN stay at
the baseline there: --config.train.window=600 --config.model.cell=lstm.)
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "adding"
    config.train.window = 100
    config.train.steps = 3000
    config.eval.lengths = (200, 400)
    return config
