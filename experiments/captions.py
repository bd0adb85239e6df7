"""Image captioning: what is in a picture, in words, where combinations of words are held out.

    python launch.py train --config=experiments/captions.py

trains a convolutional encoder and a GRU of 128 units that attends over the encoder's map, on drawn scenes
of shapes: 8000 steps, three and a half minutes of one CPU core. At the end the answers were right word for
word in 96% of the test's pictures, each with a combination of count, colour and shape that training never
had, and in 99% of new pictures of combinations that it had (test_exact, familiar_exact; seed 0). Without
word_dropout and weight_decay these were 86% and 97% after 6000 steps. Then

    python launch.py show --workdir=runs/captions

writes a page of pictures with the captions. Flickr8k, in its published layout:

    python launch.py train --config=experiments/captions.py --config.data.name=flickr8k \
        --config.data.path=FOLDER --config.data.size=64 --config.train.window=24 \
        --config.eval.chunk=50

All keys but those below are explained in default.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import default
from rnnlab.types import Config


def get_config() -> Config:
    config = default.get_config().unlock()
    config.task = "captions"

    config.data = ConfigDict()
    config.data.name = "scenes"  # drawn; or flickr8k: a folder in its layout
    config.data.path = ""  # flickr8k: the folder, with images, captions and the lists of the splits
    config.data.features = ""  # flickr8k: a .npy of features, with a .txt of names, and no images
    config.data.encoding = placeholder(
        str
    )  # of the text files; unset: UTF-8, or as a file's mark says
    config.data.size = 32  # pixels a side; images are scaled to it
    config.data.rare = 5  # flickr8k: words that come less often in training are one unknown symbol

    config.encoder = ConfigDict()
    config.encoder.channels = (32, 64, 64)  # of each 3 x 3 convolution, which halves the picture
    config.encoder.features = 0  # a dense layer of so many makes one vector; 0: each place has one

    config.decoder = ConfigDict()
    config.decoder.attention = "luong"  # none, luong or bahdanau: over the places of the picture
    config.decoder.size = 128  # of queries, keys and what the readout sees
    config.decoder.embedding = 64  # of the words
    config.decoder.tied = False  # the readout's kernel is the words' embedding
    config.decoder.word_dropout = 0.3  # while training, the share of words it reads as blanks

    config.eval = ConfigDict()
    config.eval.examples = 1000  # pictures for the loss of a validation
    config.eval.decoded = 500  # of them are answered too, greedily
    config.eval.tested = 2000  # pictures of each test at the end; 0: all
    config.eval.beam = 3  # of the answers at the end
    config.eval.penalty = 0.0  # for length (Wu et al. 2016): 0 favours short captions
    config.eval.chunk = 250  # pictures at once

    config.sample = ConfigDict()

    config.model.cell = "gru"
    config.model.hidden = 128
    config.model.layers = 1
    config.model.input = "auto"
    config.optim.name = "adamw"
    config.optim.learning_rate = 0.002
    config.optim.weight_decay = (
        0.2  # with it, and word_dropout, combinations are less known by heart
    )
    config.optim.ema = 0.0
    config.optim.clip_norm = 1.0
    config.train.steps = 8000
    config.train.batch_size = 32
    config.train.window = 9  # symbols of a caption, the end included; of a longer one the beginning
    config.train.log_every = 100
    config.train.eval_every = 1000
    config.train.sample_every = 2000
    config.train.checkpoint_every = 2000
    return config.lock()
