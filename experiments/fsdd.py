"""Speech to text, on strings of 3 to 7 spoken digits of the Free Spoken Digit Dataset.

    python launch.py train --config=experiments/fsdd.py --config.data.path=FOLDER

where FOLDER has the wav files (rnnlab/tasks/speech/digits.py says from where), takes 2 min 50 s of processor
time and gets 1.2% of the digits of 1,000 strings wrong on the data set's own split, whose speakers
training has heard (one constant string for all: 84%). --config.data.speaker=theo tests on a speaker that
it has not heard instead, and five others are few to learn from: theo 6.6%, yweweler 6.1%, jackson 9.0%,
lucas 23.7%, george 24.8%, nicolas 43.7%.
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
