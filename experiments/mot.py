"""Boxes ahead: where an object will be in so many frames, from how its box has changed so far.

    python launch.py train --config=experiments/mot.py --config.data.path=FOLDER

reads the ground truth of MOT sequences, FOLDER/NAME/gt.txt or FOLDER/NAME/gt/gt.txt, and needs no
pictures. All keys are explained in tracking.py, memory.py and default.py.
"""

from experiments import tracking
from rnnlab.types import Config


def get_config() -> Config:
    config = tracking.get_config().unlock()
    config.data.name = "mot"
    config.model.hidden = 32
    config.optim.learning_rate = 0.003
    config.train.batch_size = 32
    config.train.window = 40
    config.train.steps = 1000
    config.train.log_every = 100
    config.train.eval_every = 200
    config.train.sample_every = 500
    config.train.checkpoint_every = 200
    return config.lock()
