"""The copying memory problem at a delay of 100 steps: ten symbols, to be said again; 2 minutes.

    python launch.py train --config=experiments/copy_memory.py

Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016; the definition is in rnnlab/tasks/copy.py. A
128-unit GRU; without memory one has 10 ln 8 / 120 = 0.173 nats a step. Expect 0.07 after 3,000 steps
and the loss still falling: it knows the blanks and about half of the symbols. (At a delay of 1,000
Bai et al. 2018 report that LSTM, GRU and tanh RNN all stay at the baseline: --config.train.window=1020.)
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "copy"
    config.model.hidden = 128
    config.train.window = 120  # 100 and twice ten
    config.train.steps = 3000
    return config
