"""Every key of the memory tasks: sequences of known answers, to see what a model can keep in mind.

    python launch.py train --config=experiments/memory.py

trains a 64-unit GRU on the temporal order problem at T = 50, in about half a minute on 2 CPU cores;
--config.task=copy, adding, multiplication, noiseless_memorisation, random_permutation, parity or dyck
takes another. Each docstring in rnnlab/tasks has the definition and the paper. All other keys are
explained in default.py. A key of `data` given as `placeholder(type)` is unset: the task's own value,
that of its paper, holds; a key that a task has no use for must be.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import default


def get_config():
    config = default.get_config().unlock()
    config.task = "temporal_order"

    config.data = ConfigDict()
    # lengths are uniform from here to train.window; 0: all are train.window
    config.data.shortest = 0
    config.data.symbols = placeholder(int)  # temporal_order: 2 or 3; random_permutation: dictionary
    config.data.bits = placeholder(int)  # noiseless_memorisation: 5 or 20
    config.data.kinds = placeholder(int)  # dyck: of brackets
    config.data.depth = placeholder(int)  # dyck: the most that are open
    config.data.path = placeholder(str)  # mnist: a folder with the four IDX files, .gz or not
    config.data.permuted = placeholder(bool)  # mnist: the pixels in one random order
    config.data.pool = placeholder(int)  # mnist: pixels are averaged over blocks of pool x pool
    config.data.valid = placeholder(int)  # mnist: the last training images, held out

    config.eval = ConfigDict()
    # fresh ones, the same at every evaluation; mnist: the first so many
    config.eval.sequences = 1000
    config.eval.chunk = 250  # of them at once
    config.eval.lengths = ()  # at the end: the error at these lengths too, such as (100, 500)
    config.eval.longer = 1000  # fresh sequences at each of these lengths

    config.sample = ConfigDict()  # the example shown while training
    config.sample.steps = 100  # of a longer one both ends are shown

    config.model.cell = "gru"
    config.model.hidden = 64
    config.model.layers = 1
    config.model.input = "auto"  # one_hot or dense, as the task reads symbols or real vectors
    config.optim.name = "adam"
    config.optim.learning_rate = 0.003
    config.optim.schedule = "constant"
    config.optim.warmup_steps = 0
    config.optim.ema = 0.0
    config.optim.clip_norm = 1.0
    config.train.steps = 2000
    config.train.window = 50
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.sample_every = 1000
    config.train.checkpoint_every = 1000
    return config.lock()
