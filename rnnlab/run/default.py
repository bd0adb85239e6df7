"""Every key of a configuration, with its meaning. A config file starts here, and states what differs:

    from rnnlab.run import default

    def get_config():
        config = default.get_config()
        config.data.path = "my.txt"
        return config

It is Python code, and it runs: read one before you launch it. A key given as `placeholder(type)` is
unset: the cell's own default, or that of `model.preset`, holds.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rnnlab.types import Config


def get_config() -> Config:
    """The default, which trains a 2 x 128 LSTM on the source text of Python's standard library."""
    config = ConfigDict()
    config.seed = 0  # initial parameters, batches, dropout and samples all follow from it
    config.task = "language_model"  # a file of rnnlab/tasks

    config.data = ConfigDict()
    config.data.corpus = "python"  # python, shakespeare, shakespeare_works, text8, ptb
    config.data.path = ""  # a text file or folder of your own, instead of a corpus
    config.data.level = "char"  # char (Unicode characters) or byte
    config.data.glob = "**/*"  # which files of a folder
    # of your text: utf-16-le, latin-1, ...; unset: UTF-8, or what the byte order mark of a file says.
    # A file that gzip has packed is unpacked.
    config.data.encoding = placeholder(str)
    config.data.valid_fraction = 0.1  # the last part of the text is held out
    # streams: state carried (truncated BPTT); windows: independent
    config.data.batching = "streams"
    config.data.forget = 0.01  # share of windows that start from a zero state, to stay used to it
    config.data.shift = True  # each epoch's window borders fall elsewhere

    config.model = ConfigDict()
    config.model.cell = "lstm"  # a file of rnnlab/cells: rnn, ugrnn, gru, lstm
    config.model.hidden = 128  # units a layer
    config.model.layers = 2
    config.model.preset = placeholder(str)  # torch, flax or keras: the conventions of that library
    config.model.input = "one_hot"  # one_hot (gathered) or embedding; dense: real vectors; or auto
    config.model.embedding_size = 0  # columns of the embedding table
    config.model.tied = False  # readout kernel = embedding table
    config.model.bidirectional = False  # not for language models
    config.model.residual = False  # a layer's output is added to its input
    config.model.skip = False  # the readout sees every layer
    config.model.dropout = 0.0  # between layers
    config.model.input_dropout = 0.0  # whole characters (one_hot) or embedding entries
    config.model.output_dropout = 0.0  # before the readout
    config.model.dropout_shared = False  # one dropout mask for all time steps
    config.model.readout_init = "glorot_uniform"
    config.model.remat = False  # memory ~ sqrt(train.window), for one more forward pass
    config.model.path = "auto"  # auto (fast backward pass where the cell allows it), plain, cudnn
    config.model.keep = "preactivations"  # for the backward pass; or states: less memory, a product
    config.model.precision = "float32"  # of matrix products: float32 (strict), tf32 or bf16

    config.model.options = ConfigDict()  # of the cell; add a line for one of your own cell's
    config.model.options.kernel_x_init = placeholder(str)  # glorot_uniform, uniform:0.08, ...
    config.model.options.kernel_h_init = placeholder(str)  # orthogonal, identity:1.0, spectral:1.1
    config.model.options.bias_init = placeholder(str)
    config.model.options.init_per_gate = placeholder(bool)
    config.model.options.gate_bias = placeholder(float)  # of the gate that keeps the state
    config.model.options.hidden_bias = placeholder(bool)  # a second bias, as in PyTorch
    config.model.options.layer_norm = placeholder(bool)  # inside the cell
    config.model.options.recurrent_dropout = placeholder(float)
    config.model.options.recurrent_dropout_on = placeholder(str)  # candidate or state
    config.model.options.recurrent_dropout_shared = placeholder(bool)
    config.model.options.zoneout = placeholder(float)
    config.model.options.activation = placeholder(str)  # rnn: tanh or relu
    config.model.options.reset = placeholder(str)  # gru: after or before the product
    config.model.options.peepholes = placeholder(bool)  # lstm

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adam, adamw, rmsprop, sgd, adagrad
    config.optim.learning_rate = 0.004
    config.optim.schedule = "cosine"  # constant, cosine, linear, step
    config.optim.warmup_steps = 100
    config.optim.final_fraction = 0.0  # cosine and linear end at learning_rate times this
    config.optim.decay_every = 1000  # steps, for schedule "step"
    config.optim.decay_factor = 0.97
    config.optim.clip = "global_norm"  # global_norm, soft, per_layer, value, adaptive
    # The threshold T, inf switches clipping off. For a mean per token, whose norms lie between 0.1 and
    # 1, from 0.1 to 0.5, as experiments/clip_sweep.py shows; for a sum over time, 1 to 10.
    config.optim.clip_norm = 0.25
    config.optim.reduction = "mean"  # of the loss: mean per token, or sum_over_time (that mean x T)
    config.optim.omega = 0.0  # weight of Pascanu's regulariser, added to the loss; 0 is off
    config.optim.momentum = 0.9  # sgd and rmsprop (char-rnn's RMSProp has none: set 0)
    config.optim.beta1 = 0.9  # adam and adamw
    config.optim.beta2 = 0.999
    config.optim.epsilon = 1e-8
    config.optim.rms_decay = 0.95  # rmsprop
    config.optim.weight_decay = 0.0  # adamw; on matrices, not on biases
    config.optim.ema = 0.999  # moving average of the weights, used to evaluate and sample; 0 is off

    config.train = ConfigDict()
    config.train.steps = 3000  # updates
    # A run's folder, whose best weights this one begins with (DIR:latest, DIR:STEP for others), on a
    # new text or with another recipe: symbols are matched, new ones drawn afresh; see rnnlab/train
    config.train.init_from = placeholder(str)
    config.train.batch_size = 32  # B parallel streams
    config.train.window = 64  # T time steps of backpropagation
    config.train.log_every = 50
    config.train.eval_every = 500
    config.train.sample_every = 1000
    config.train.checkpoint_every = 500
    config.train.keep = 2  # newest checkpoints kept, beside the best one
    config.train.skip_faults = 0  # how many steps with NaN or inf a run may leave out: rnnlab/train
    config.train.steps_per_dispatch = 0  # steps the device takes at one call; 0: as suits the model

    config.parallel = ConfigDict()
    config.parallel.devices = 0  # the batch is split over so many; 0: as suits machine and batch

    config.diagnose = ConfigDict()
    config.diagnose.every = 0  # steps between two looks at the gradient's flow over time; 0 is off
    config.diagnose.saturation = True  # and at saturated activations, for a forward pass of 8 rows

    config.eval = ConfigDict()
    config.eval.streams = 32  # the held-out text is read as so many parallel streams ...
    config.eval.burn_in = 256  # ... each after so many characters of warming up, not counted
    config.eval.window = 256
    config.eval.random_windows = 256  # how many windows nanoGPT's estimate draws, from a zero state
    config.eval.random_window = 256  # characters in each; nanoGPT's best model has 256

    config.sample = ConfigDict()  # the samples printed while training
    config.sample.prime = ""  # empty: one random letter
    config.sample.length = 300
    config.sample.temperature = 0.8
    config.sample.python_snippets = 0  # functions written at the end, to see how many parse
    config.sample.snippet_length = 400  # characters; cut at the next unindented line
    return config.lock()
