"""Boxes ahead: where an object will be in so many frames, from how its box has changed so far.

    python launch.py train --config=experiments/mot.py --config.data.path=FOLDER

reads the ground truth of MOT sequences, FOLDER/NAME/gt.txt or FOLDER/NAME/gt/gt.txt, and needs no
pictures; some seconds. On TUD-Campus and TUD-Stadtmitte of MOT15, 18 tracks, 8 frames ahead, the IoU was
0.87 on four tracks held out, where the last change repeated has 0.84 and the mean of the last five 0.88;
and with data.held=TUD-Campus 0.60 against 0.42 and 0.60. The squared error fell below that of either. So
few tracks teach little more than to average, and longer training overfits: with more of them take more
steps. All keys are explained in tracking.py, memory.py and default.py.
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
    config.train.steps = 200
    config.train.log_every = 20
    config.train.eval_every = 50
    config.train.sample_every = 100
    config.train.checkpoint_every = 50
    return config.lock()
