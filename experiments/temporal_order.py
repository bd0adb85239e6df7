"""Clipping, Omega and gates on the temporal order problem, against its length: 180 runs in an hour.

    python launch.py sweep --config=experiments/temporal_order.py

Pascanu et al. 2013, section 4.1: which of two symbols came first, at the end of T steps of distractors
(rnnlab/tasks/temporal_order.py). A tanh RNN of 50 units, plain descent in batches of 20: without
clipping, with the clip at 1, and with the clip and the regulariser Omega; and the gated cells with and
without the clip. Five seeds each. The learning rate is 0.1 and not the paper's 0.01, so that 8,000
steps tell; a run has solved the problem if it errs on less than 1% of 10,000 sequences.

Expect (success.png) that without clipping the RNN fails from T = 20 on with every seed, that clipping
carries it to T = 20 and Omega to T = 50; that LSTM and UGRNN without clipping fail at T = 100 at the
latest, and with it go further. Trained at one length, no model does well at another (lengths.png):
for that see temporal_order_lengths.py.
"""

from experiments import memory

LENGTHS = (10, 20, 50, 100)
OFF = float("inf")


def get_config():
    config = memory.get_config().unlock()
    config.task = "temporal_order"
    config.model.cell = "rnn"
    config.model.hidden = 50
    config.model.options.kernel_x_init = "normal:0.1"
    config.model.options.kernel_h_init = "normal:0.1"
    config.model.readout_init = "normal:0.1"
    config.optim.name = "sgd"
    config.optim.momentum = 0.0
    config.optim.learning_rate = 0.1
    config.optim.clip_norm = 1.0
    config.train.batch_size = 20
    config.train.window = 20
    config.train.steps = 8000
    config.train.log_every = 500
    config.train.eval_every = 4000
    config.train.sample_every = 0
    config.train.checkpoint_every = 0
    config.train.keep = 1
    config.eval.sequences = 10000
    config.eval.chunk = 1000
    config.eval.lengths = (100, 200, 500, 1000, 2000, 5000)
    config.eval.longer = 200
    return config.lock()


def sweep(add):
    ways = [("rnn", OFF, 0.0), ("rnn", 1.0, 0.0), ("rnn", 1.0, 2.0)]
    ways += [(cell, clip, 0.0) for cell in ("ugrnn", "gru", "lstm") for clip in (OFF, 1.0)]
    for length in LENGTHS:
        for cell, clip, omega in ways:
            for seed in range(5):
                add(
                    **{
                        "model.cell": cell,
                        "optim.clip_norm": clip,
                        "optim.omega": omega,
                        "train.window": length,
                        "seed": seed,
                    }
                )
