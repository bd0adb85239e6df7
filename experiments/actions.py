"""Every key of action recognition: in which of ten ways an object moves.

    python launch.py train --config=experiments/actions.py

trains two convolutions and a GRU of 64 units on drawn clips of 8 to 12 frames, a minute and a half on one CPU
core. Of 1000 new clips it then answered 98.7% right (seed 0); guessing, 10%; a classifier of one frame 10.7%
(one_frame_accuracy in run.json: by construction a frame says nothing of the class). Then

    python launch.py show --workdir=runs/actions

draws the confusion matrix. Videos of your own, in folders of their classes like those of UCF101:

    python launch.py train --config=experiments/actions.py --config.data.path=FOLDER \
        --config.data.shortest=0 --config.train.window=16

(--config.data.trainlist=trainlist01.txt --config.data.testlist=testlist01.txt for its own splits.) The
frames that are used are kept in memory: 16 of 32 x 32 are 48 KiB a clip. Folders of .npy or .csv files of
joints or sensors are read likewise. All other keys are explained in memory.py and default.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "actions"

    config.data = ConfigDict()
    config.data.shortest = 8  # drawn: frames of the shortest clip; 0, for a folder
    config.data.path = placeholder(str)  # a folder of folders of videos, .npy or .csv; unset: drawn
    config.data.side = placeholder(int)  # pixels of a frame: 16 where they are drawn, 32 for videos
    config.data.trainlist = placeholder(str)  # which clips are for training, as UCF101 lists them
    config.data.testlist = placeholder(str)  # and which for the end; unset: a fixed split
    config.data.encoding = placeholder(
        str
    )  # of .csv files and lists; unset: UTF-8, or a file's mark
    config.data.valid = placeholder(float)  # share of the training clips that is held out, 0.1
    config.data.test = placeholder(float)  # without lists, share of the clips for the end, 0.2

    config.encoder = ConfigDict()  # of frames; there is none before joints or sensors
    config.encoder.channels = (8, 16)  # of each 3 x 3 convolution, which halves the frame
    config.encoder.features = 64  # of the dense layer behind them: the vector of a frame

    # Of smaller ones the vectors of the frames hardly reach the gates, and nothing is learned for
    # thousands of steps: one frame says nothing, and so the first thing to be learned is a product.
    config.model.options.kernel_x_init = "uniform:1.0"
    config.optim.schedule = "cosine"
    config.train.batch_size = 32
    config.train.steps = 5000
    config.train.window = 12  # frames of the longest clip; of longer ones as many, evenly spread
    config.train.eval_every = 1000
    config.train.sample_every = 2500
    config.train.checkpoint_every = 2000
    return config.lock()
