"""Speech to text, on strings of 3 to 7 spoken digits of the Free Spoken Digit Dataset.

    python launch.py train --config=experiments/fsdd.py --config.data.path=FOLDER

where FOLDER has the wav files (rnnlab/tasks/speech.py says from where). --config.data.speaker=theo tests on
the clips of a speaker that training has not heard, instead of the data set's own split.
"""

from experiments import speech


def get_config():
    config = speech.get_config().unlock()
    config.data.source = "fsdd"
    config.data.stack = 4  # a step of 40 ms
    config.data.speed = 0.15
    config.data.noise = 15.0
    config.data.mask = 8

    config.model.dropout = 0.2
    config.optim.learning_rate = 0.006
    config.train.steps = 800
    config.train.window = 150  # 6 s, more than any string takes
    config.train.eval_every = 200
    config.train.sample_every = 400
    return config.lock()
