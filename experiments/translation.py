"""Every key of translation: dates as people write them, to ISO 8601, by an encoder and a decoder.

    python launch.py train --config=experiments/translation.py

trains a GRU that reads in both directions and one with Luong's attention that writes. All other keys
are explained in default.py; `model` is that of the decoder, and the encoder takes its cell and its
options from it. See what it does, and have a date translated:

    python launch.py show   --workdir=runs/translation
    python launch.py sample --workdir=runs/translation --prime="the 3rd of March 1984"
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import default


def get_config():
    config = default.get_config().unlock()
    config.task = "translation"

    config.data = ConfigDict()
    config.data.path = ""  # a folder with NAME.LANGUAGE or NAME.LANGUAGE.gz, a sentence a line
    config.data.download = ""  # multi30k; neither: dates, drawn
    config.data.source = "en"  # the languages, as the files' names end
    config.data.target = "de"
    config.data.train = "train"  # the files' names in data.path
    config.data.valid = "val"
    config.data.test = "test"
    config.data.encoding = placeholder(
        str
    )  # of the files; unset: UTF-8, or what a file's mark says
    config.data.level = "char"  # char, word or bpe (byte-pair encoding)
    config.data.vocabulary = 10000  # symbols of each language at most
    config.data.rare = 1  # char and word: those that occur fewer times are unknown
    config.data.buckets = ()  # batches are padded to the first of these that suits, or train.window

    config.encoder = ConfigDict()
    config.encoder.layers = 1
    config.encoder.hidden = 64  # units a layer and direction
    config.encoder.bidirectional = True
    config.encoder.embedding = 32  # columns of the table of source symbols
    config.encoder.size = 64  # of what is attended over

    config.decoder = ConfigDict()
    config.decoder.attention = "luong"  # none, luong or bahdanau
    config.decoder.size = 64  # of queries, and of what the readout sees
    config.decoder.embedding = 32  # columns of the table of target symbols
    config.decoder.tied = False  # readout kernel = that table
    config.decoder.smoothing = 0.0  # of the labels, in training
    config.decoder.sampled = (
        0.0  # share of its own symbols it reads at the end of training, from 0 up
    )

    config.eval = ConfigDict()
    config.eval.examples = 1000  # the first so many for the loss of a validation
    config.eval.decoded = 200  # of these are translated too, greedily
    config.eval.tested = 0  # translated at the end, by beam search; 0: all, of dates eval.examples
    config.eval.beam = 4
    config.eval.penalty = 0.0  # of length, in beam search: Wu et al. 2016, eq. 14
    config.eval.length = 12  # symbols of a translation at most
    config.eval.chunk = 100  # examples at once

    config.sample = ConfigDict()  # nothing to choose

    config.model.cell = "gru"
    config.model.hidden = 64
    config.model.layers = 1
    config.model.input = "auto"
    config.optim.name = "adam"
    config.optim.learning_rate = 0.003
    config.optim.ema = 0.0
    config.optim.clip_norm = 1.0
    config.train.steps = 1000
    config.train.batch_size = 64
    config.train.window = 60
    config.train.log_every = 100
    config.train.eval_every = 250
    config.train.sample_every = 500
    config.train.checkpoint_every = 500
    return config.lock()
