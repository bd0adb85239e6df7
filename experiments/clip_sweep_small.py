"""The clipping threshold in 2 minutes on 2 CPU cores: a tanh RNN and a GRU, four thresholds, two seeds.

    python launch.py sweep --config=experiments/clip_sweep_small.py

A short form of clip_sweep.py, with the loss as the mean per token. Expect the lowest loss at
T = 0.1, and 0.04 to 0.13 nats more without clipping; of the RNN, two seeds of which lie far apart, that
is within noise.
"""

from experiments import clip_sweep


def get_config():
    config = clip_sweep.get_config()
    config.data.valid_fraction = 0.002
    config.train.steps = 400
    config.train.eval_every = 200
    config.train.checkpoint_every = 200
    return config


def sweep(add):
    for cell in ("rnn", "gru"):
        for threshold in (0.1, 0.5, 2.0, float("inf")):
            for seed in range(2):
                add(
                    **{
                        "model.cell": cell,
                        "model.hidden": clip_sweep.HIDDEN[cell],
                        "optim.clip_norm": threshold,
                        "seed": seed,
                    }
                )
