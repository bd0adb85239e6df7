"""Speech to text, on Morse code in noise: every key of the task.

    python launch.py train --config=experiments/speech.py

trains a bidirectional GRU with CTC on keyed words, letters and digits at 18 to 32 words a minute, the tone
10 dB above the noise, in 3 min 32 s of processor time, and reads new texts with 0.42% of their characters
wrong (1.3% of their words; one constant text for all: 91%). What it hears, and how well:

    python launch.py show     --workdir=runs/speech
    python launch.py evaluate --workdir=runs/speech

The folder rnnlab/tasks/speech has the definitions; all other keys are explained in default.py.
A key of `data` given as `placeholder(type)` is unset: what is said behind it holds, and it must be unset
where the source has no use for it. fsdd.py has the configuration for spoken digits.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import default


def get_config():
    config = default.get_config().unlock()
    config.task = "speech"

    config.data = ConfigDict()
    config.data.source = "morse"  # morse, built in; or fsdd, spoken digits
    config.data.stack = (
        2  # frames a step of the network; a frame is 16 ms of Morse code, 10 of speech
    )
    config.data.snr = placeholder(float)  # morse: dB of the tone above the noise, 10
    config.data.path = placeholder(str)  # fsdd: the folder of its wav files
    config.data.speaker = placeholder(
        str
    )  # fsdd: one who is held out, "theo" say; "": the data's split
    config.data.shortest = placeholder(int)  # fsdd: digits of a string, 3
    config.data.longest = placeholder(int)  # fsdd: 7
    config.data.speed = placeholder(
        float
    )  # fsdd, training: time is stretched by up to this share, 0
    config.data.noise = placeholder(
        float
    )  # fsdd, training: noise, from 40 dB below the voice to this
    config.data.mask = placeholder(int)  # fsdd, training: up to so many bands are hidden, 0

    config.eval = ConfigDict()
    config.eval.examples = 256  # utterances of the validation loss,
    config.eval.decoded = 256  # and of its error rates, greedily
    config.eval.tested = 1000  # at the end, by prefix beam search and greedily
    config.eval.beam = 16  # prefixes kept
    config.eval.chunk = 64  # utterances at once

    config.sample = ConfigDict()
    config.sample.utterances = 3  # that `show` draws, of the test

    config.model.cell = "gru"
    config.model.hidden = 64
    config.model.layers = 2
    config.model.input = "dense"
    config.model.bidirectional = True
    config.optim.name = "adam"
    config.optim.learning_rate = 0.004
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
    config.optim.clip_norm = 1.0
    config.train.steps = 1500
    config.train.window = 140  # steps of the longest utterance: 4.5 s
    config.train.batch_size = 32
    config.train.log_every = 50
    config.train.eval_every = 500
    config.train.sample_every = 500
    config.train.checkpoint_every = 500
    return config.lock()
