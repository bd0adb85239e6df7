"""A 3 x 512 LSTM on the complete works of Shakespeare, which then writes from one random letter.

    python launch.py train  --config=experiments/shakespeare_works.py
    python launch.py sample --workdir=runs/shakespeare_works --length=1000

About four hours on 2 CPU cores, an estimate from the rate of shakespeare.py: not run yet.
Downloads the works once; without a network give --config.data.path=FILE. Five times the text of
tinyshakespeare, so less regularisation.
"""

from experiments import shakespeare


def get_config():
    config = shakespeare.get_config()
    config.data.corpus = "shakespeare_works"
    config.model.dropout = 0.15
    config.model.output_dropout = 0.15
    config.optim.weight_decay = 0.01
    config.train.steps = 35000
    config.train.eval_every = 2500
    config.train.sample_every = 2500
    config.train.checkpoint_every = 1000
    config.sample.length = 500
    return config
