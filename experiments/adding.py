"""The adding problem at T = 100: the sum of two marked numbers among a hundred.

    python launch.py train --config=experiments/adding.py

A 64-unit GRU.
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "adding"
    config.train.window = 100
    config.train.steps = 3000
    config.eval.lengths = (200, 400)
    return config
