"""Sequential MNIST, a digit read pixel by pixel, with an LSTM of 100 units: 100 epochs.

    python launch.py train --config=experiments/sequential_mnist.py

Le et al. 2015; the setting is that of the LSTM baseline of Cooijmans et al. 2016, which reports 98.9%
on the test set (and 90.2% with --config.data.permuted=True): 100 units, RMSProp with a learning rate
of 0.001 and momentum 0.9, batches of 64, clipping at 1. The images are downloaded once, or read from
--config.data.path=FOLDER with the four IDX files. On 2 CPU cores the whole takes hours; it can be
stopped and resumed at any step. A quick look, 4 x 4 pixels as one step, takes a minute or two an epoch
less: --config.data.pool=4 --config.train.window=49.
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
