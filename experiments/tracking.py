"""Every key of tracking: follow one of two objects that cross and hide, by its box in every frame.

    python launch.py train --config=experiments/tracking.py
    python launch.py show  --workdir=runs/tracking

The second command draws an animated GIF of true and found boxes. On ground truth of the MOT challenge,
where a step is how a box moved and the answer how it will:

    python launch.py train --config=experiments/tracking.py --config.data.path=FOLDER

All other keys are explained in memory.py and default.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "tracking"

    config.data = ConfigDict()
    config.data.shortest = 0  # all videos have train.window frames
    config.data.path = placeholder(str)  # a folder with MOT sequences; unset: drawn videos
    config.data.side = placeholder(int)  # pixels of a frame's side, 20
    config.data.stack = placeholder(int)  # frames that the encoder sees at once, 2

    config.encoder = ConfigDict()
    config.encoder.channels = (16, 32)  # of the convolutions, 3 x 3 with stride 2
    config.encoder.features = 96  # numbers that stand for a frame

    config.model.hidden = 128
    config.optim.schedule = "cosine"
    config.train.batch_size = 32
    config.train.steps = 3000
    config.train.window = 20
    config.train.eval_every = 1000
    return config.lock()
