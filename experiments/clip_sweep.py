"""Which clipping threshold, for which cell? 192 runs as eight programs, in under 30 minutes on 2 cores.

    python launch.py sweep --config=experiments/clip_sweep.py

Four cells with as many parameters each, eight thresholds, three seeds; and the loss both as the
mean per token, as rnnlab's recipes have it, and as the sum over time, for which thresholds of 1 to
10 were first recommended (Pascanu et al. 2013). The text is the source of Python's own standard
library: nothing is downloaded.

Expect, with the mean per token, the lowest loss at T between 0.1 and 0.5 for every cell, and with
the sum over time at every T from 0.1 to 10: no clipping is 0.02 to 0.1 nats worse.
"""

from experiments import default

THRESHOLDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, float("inf"))
# Units for which one layer with its readout has about 47,500 parameters at 96 characters.
HIDDEN = {"rnn": 142, "ugrnn": 98, "gru": 77, "lstm": 64}


def get_config():
    config = default.get_config()
    config.data.valid_fraction = 0.005  # 54,000 characters
    config.model.layers = 1
    config.optim.name = "adam"
    config.optim.learning_rate = 0.01
    config.optim.warmup_steps = 0
    config.optim.ema = 0.99
    config.train.batch_size = 32
    config.train.window = 64
    config.train.steps = 1200
    config.train.log_every = 4
    config.train.eval_every = 600
    config.train.sample_every = 0
    config.train.checkpoint_every = 600
    config.eval.random_windows = 32
    return config


def sweep(add):
    for reduction in ("mean", "sum_over_time"):
        for cell, hidden in HIDDEN.items():
            for threshold in THRESHOLDS:
                for seed in range(3):
                    add(
                        **{
                            "optim.reduction": reduction,
                            "model.cell": cell,
                            "model.hidden": hidden,
                            "optim.clip_norm": threshold,
                            "seed": seed,
                        }
                    )
