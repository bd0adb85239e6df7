"""A small config that has every key which any config must have."""

import pytest

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration

BASE = """\
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    config = ConfigDict()
    config.seed = 0
    config.name = "one"
    config.on = True
    config.sizes = (1, 2.5)
    config.optim = ConfigDict()
    config.optim.learning_rate = 0.1
    config.optim.clip_norm = 1.0
    config.cell = ConfigDict()
    config.cell.preset = placeholder(str)
    config.cell.gate_bias = placeholder(float)
    config.cell.layer_norm = placeholder(bool)
    config.cell.groups = placeholder(int)
    config.train = ConfigDict()
    for name in ("steps", "batch_size", "window", "log_every", "keep"):
        config.train[name] = 1
    for name in ("eval_every", "checkpoint_every", "sample_every"):
        config.train[name] = 0
    config.train.skip_faults = 0
    config.train.steps_per_dispatch = 0
    config.parallel = ConfigDict({"devices": 0})
    config.diagnose = ConfigDict({"every": 0, "saturation": True})
    return config.lock()
"""


def load(*overrides):
    return configuration.load("base.py", list(overrides))


def refused(function, *arguments):
    """The message of the UsageError, which must be one line."""
    with pytest.raises(UsageError) as error:
        function(*arguments)
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message
