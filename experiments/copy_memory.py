"""The copying memory problem at a delay of 100 steps: ten symbols, to be said again.

    python launch.py train --config=experiments/copy_memory.py

A 128-unit GRU.
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "copy"
    config.model.hidden = 128
    config.train.window = 120  # 100 and twice ten
    config.train.steps = 3000
    return config
