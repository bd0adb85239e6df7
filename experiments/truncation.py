"""What truncated BPTT loses, by the length of its windows: a character model trained by windows of 16.

    python launch.py train --config=experiments/truncation.py
    python launch.py diagnose --workdir=runs/truncation --window=256

Williams and Peng 1990: the gradient of a window of w steps leaves out what reaches further back. The
second command compares it, at the trained weights, with full BPTT over 256 steps: the cosine between
the two and the error, for w = 1, 2, 4 ... 256 (truncation.png). A 128-unit GRU on the source text of
Python's standard library; a minute for each command. Expect a cosine of about 0.95 and an error of a
third of the norm for the windows of 16 it was trained by, and a cosine of 0.99 from windows of 64 on:
that is how far back this model looks, as context.png says in characters.
"""

from experiments import default


def get_config():
    config = default.get_config().unlock()
    config.model.cell = "gru"
    config.model.layers = 1
    config.data.valid_fraction = 0.02
    config.optim.clip_norm = 1.0
    config.train.window = 16
    config.train.batch_size = 64
    config.train.steps = 4000
    config.train.eval_every = 1000
    config.train.sample_every = 0
    return config.lock()
