"""Multi30k, English to German: a bidirectional GRU reads, a GRU with Luong's attention writes.

    python launch.py train --config=experiments/multi30k.py

downloads 29,000 captions and their translations (Elliott et al. 2016), 1.2 MB; without a network give
--config.data.download= --config.data.path=FOLDER with train.en, train.de, val.en, val.de,
test_2016_flickr.en and test_2016_flickr.de, .gz or not. On 2 cores, in 58 minutes beside other work
(33 minutes of CPU time), it reaches a BLEU of 32.4 on the test set of 2016; published recurrent
models with attention lie in the low to middle thirties.
"""

from experiments import translation


def get_config():
    config = translation.get_config().unlock()
    config.data.download = "multi30k"
    config.data.test = "test_2016_flickr"
    config.data.level = "bpe"
    config.data.vocabulary = 5000
    config.data.buckets = (12, 16, 20, 28)
    config.encoder.hidden = 256
    config.encoder.embedding = 256
    config.encoder.size = 384
    config.decoder.size = 256
    config.decoder.embedding = 256
    config.decoder.tied = True
    config.decoder.smoothing = 0.1
    config.eval.examples = 1014
    config.eval.decoded = 300
    config.eval.beam = 5
    config.eval.penalty = 1.0
    config.eval.length = 60
    config.model.hidden = 384
    config.model.input_dropout = 0.2
    config.model.output_dropout = 0.4
    config.optim.learning_rate = 0.0015
    config.optim.ema = 0.999
    config.train.steps = 5400  # 12 epochs
    config.train.window = 50
    config.train.eval_every = 453
    config.train.sample_every = 453
    config.train.checkpoint_every = 453
    return config.lock()
