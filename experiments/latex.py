"""A character model of LaTeX, for a folder of .tex files of yours.

python launch.py train --config=experiments/latex.py --config.data.path=FOLDER
"""

from experiments import default


def get_config():
    config = default.get_config()
    config.data.corpus = "latex"
    config.data.glob = "*.tex"
    config.model.cell = "lstm"
    config.model.hidden = 256
    config.model.layers = 1
    config.optim.learning_rate = 0.005
    config.train.steps = 8000
    config.train.log_every = 100
    config.train.eval_every = 2000
    config.train.sample_every = 2000
    config.train.checkpoint_every = 2000
    config.sample.prime = "\n\n"
    return config
