"""Every key of action recognition: which of ten ways an object moves, in videos of 8 to 12 frames.

    python launch.py train --config=experiments/actions.py

takes less than a minute on 2 CPU cores and names 99% of the test's videos. One frame does not tell (a
classifier of single frames guesses), and it is the encoder's look at two at once that makes the motion
easy to find: with --config.data.stack=1 the same network still guesses after 3,000 steps. Then

    python launch.py show --workdir=runs/actions

draws the confusion matrix. Videos of your own, a folder for each class:

    python launch.py train --config=experiments/actions.py --config.data.path=FOLDER
        --config.data.shortest=0 --config.data.side=32 --config.train.window=24

All other keys are explained in memory.py and default.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "actions"

    config.data = ConfigDict()
    config.data.shortest = 8  # lengths are uniform from here to train.window; of recordings: 0
    config.data.path = placeholder(str)  # a folder with a folder for each class; unset: drawn
    config.data.side = placeholder(int)  # pixels of a frame's side, 16
    config.data.stack = placeholder(int)  # frames that the encoder sees at once, 2
    config.data.train_list = placeholder(str)  # lists of CLASS/FILE, a line each; unset: by hash
    config.data.test_list = placeholder(str)

    config.encoder = ConfigDict()
    config.encoder.channels = (8, 16)  # of the convolutions, 3 x 3 with stride 2
    config.encoder.features = 64  # numbers that stand for a frame

    config.train.batch_size = 32
    config.train.steps = 1500
    config.train.window = 12
    config.train.eval_every = 500
    config.train.sample_every = 1000
    return config.lock()
