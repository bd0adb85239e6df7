"""Every key of the mapping without time: the next state of the Henon map, from its state.

    python launch.py train --config=experiments/one_to_one.py

takes some seconds. A table of your own is --config.data.path=FILE.csv, whose last column is the answer.
All other keys are explained in memory.py and default.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "one_to_one"

    config.data = ConfigDict()
    config.data.shortest = 0  # one step: all have the same length
    config.data.path = placeholder(str)  # a CSV file of numbers; unset: the Henon map
    config.data.encoding = placeholder(str)  # of the file; unset: UTF-8, or what its mark says
    # the last column has labels, not values; unset: if they are words
    config.data.labels = placeholder(bool)
    config.data.valid = placeholder(float)  # share of the lines that is held out, 0.1
    config.data.test = placeholder(float)  # and for the end, 0.1

    config.model.hidden = 32
    config.train.batch_size = 64
    config.train.steps = 3000
    config.train.window = 1
    config.train.log_every = 500
    config.train.eval_every = 1000
    return config.lock()
