"""Sequential MNIST with an LSTM of 100 units: the baseline of Cooijmans et al. 2016.

python launch.py train --config=experiments/sequential_mnist.py
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "mnist"
    config.data.valid = 5000
    config.model.cell = "lstm"
    config.model.hidden = 100
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.001
    config.optim.momentum = 0.9
    config.optim.clip_norm = 1.0
    config.train.batch_size = 64
    config.train.window = 784
    config.train.steps = 85900  # 100 epochs
    config.eval.sequences = 5000
    config.eval.chunk = 250
    return config
