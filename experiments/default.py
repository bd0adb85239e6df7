"""The default, from which the other experiments start; rnnlab/run/default.py explains every key.

    python launch.py train --config=experiments/default.py

trains a 2 x 128 LSTM on the source text of Python's standard library.
"""

from rnnlab.run.default import get_config

__all__ = ["get_config"]
