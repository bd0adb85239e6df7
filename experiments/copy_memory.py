"""The copying memory problem at a delay of 100 steps: ten symbols, to be said again.

    python launch.py train --config=experiments/copy_memory.py

A 128-unit GRU, in 3 minutes on 2 CPU cores. Expect it to leave the plateau at the baseline, 0.173 nats,
within 500 steps and to be at 0.034 after 5,000, where one sequence in eight is right in all ten
symbols; 8,000 steps reach 0.022.
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "copy"
    config.model.hidden = 128
    config.train.window = 120  # 100 and twice ten
    config.train.steps = 5000
    return config
