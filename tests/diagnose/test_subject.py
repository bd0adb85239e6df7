"""What is diagnosed: the window, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose.objective import mean_loss
from rnnlab.train.from_config import build
from tests.support import small_config


@pytest.mark.slow
def test_rows_that_begin_afresh_begin_at_zero(text):
    """What is diagnosed of independent windows is what trains: its loss is the task's own."""
    changes = {"data.batching": "windows", "model.dropout": 0.0, "model.output_dropout": 0.0}
    task, _ = build(small_config(text, changes))
    params = task.init(jax.random.key(0))
    carry, batch = jax.tree.map(jnp.ones_like, task.carry()), task.batch(0)
    total, count = task.loss(params, carry, batch, None)[1]["loss"]
    found = mean_loss(task.probe, carry, batch)(params)
    np.testing.assert_allclose(found, total / count, rtol=1e-6)
