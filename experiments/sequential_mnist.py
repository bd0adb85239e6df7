"""Sequential MNIST with an LSTM of 100 units: the baseline of Cooijmans et al. 2016, 98.9%.

    python launch.py train --config=experiments/sequential_mnist.py

100 epochs take five to eight hours on 2 CPU cores, an estimate from 200 to 380 sequences a second with
other programs on them. 6.8 of them have been run (figures/sequential_mnist.png): chance for four epochs,
then a training loss that falls to 1.6 nats with nearly every step clipped. The recipe is theirs (RMSProp
at 0.001 with momentum 0.9, gradients clipped at 1, orthogonal matrices but for the recurrent one, which is
the identity); the batch and the number of epochs are not taken from the paper.
--config.data.permuted=true is the permuted task, for which they report 90.2%. 11 MB are downloaded
once; without a network give --config.data.path=FOLDER. A quick run, on averages of 4 x 4 pixels, in less
than 2 minutes:

    python launch.py train --config=experiments/sequential_mnist.py --config.data.pool=4
        --config.train.window=49 --config.train.steps=4295 --workdir=runs/mnist_quick

ends at 95% of the test images (5 epochs).
"""

from experiments import memory


def get_config():
    config = memory.get_config()
    config.task = "mnist"
    config.model.cell = "lstm"
    config.model.hidden = 100
    config.model.readout_init = "orthogonal"
    config.model.options.kernel_x_init = "orthogonal"
    config.model.options.kernel_h_init = "identity:1.0"
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 0.001
    config.optim.momentum = 0.9
    config.optim.rms_decay = 0.9
    config.optim.clip_norm = 1.0
    config.train.batch_size = 64
    config.train.window = 784
    config.train.steps = 85900  # 100 epochs
    config.train.eval_every = 859
    config.train.sample_every = 8590
    config.train.checkpoint_every = 859
    config.eval.sequences = 5000
    config.eval.chunk = 250
    return config
