"""Saturation and the choice of initial values: a tanh RNN that starts with its units saturated.

    python launch.py diagnose --config=experiments/saturation.py
    python launch.py train --config=experiments/saturation.py

Glorot and Bengio 2010: a tanh at its ends passes no gradient, so that a network must not start there.
The recurrent weights are drawn with a standard deviation of 0.4, a spectral radius of about 3. The
first command, half a minute, writes runs/saturation.initial/diagnosis.md: initialisation.png maps the
gradient after 50 steps over the scales of the recurrent weights and of the inputs, with the border
between vanishing and exploding, and shows what each initialisation scheme does there. Expect four in
ten states beyond 0.95, a gradient that grows a thousandfold over 20 steps, and neighbouring states
that diverge. Compare --config.model.options.kernel_h_init=orthogonal. The second trains it on the
temporal order problem over 20 steps, in a minute, and looks at saturation as it goes: see
`diagnose --workdir=runs/saturation`.
"""

from experiments import memory


def get_config():
    config = memory.get_config().unlock()
    config.task = "temporal_order"
    config.model.cell = "rnn"
    config.model.hidden = 64
    config.model.options.kernel_h_init = "normal:0.4"
    config.train.window = 20
    config.train.steps = 3000
    config.diagnose.every = 50
    return config.lock()
