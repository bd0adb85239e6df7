"""The activations inside a cell, found by tracing its step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.recurrence import activations
from rnnlab.recurrence.activations import Activation
from tests.recurrence.by_hand import H, lstm_by_hand, window


def test_the_values_are_those_of_the_equations():
    cell = cells.get("lstm", hidden=H)
    params, seen = window(cell)
    found = {one.name: value for one, value in activations.over_time(cell, seen)(params)}
    expected = lstm_by_hand(params, seen)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_a_users_cell_without_names_is_seen_too():
    bare = cells.get("rnn", hidden=H)

    def step(params, carry, z):
        @jax.jit
        def inside(h):
            return jnp.tanh(h @ params["kernel_h"] + z.a)

        new = jax.checkpoint(inside)(carry.h) * jax.nn.sigmoid(z.a)
        return carry._replace(h=new), new

    cell = bare._replace(step=step, operand=None, product=None, merge=None, gates=None)
    params, seen = window(cell)
    found = [one for one, _ in activations.over_time(cell, seen)(params)]
    assert found == [Activation("tanh 1", "tanh"), Activation("logistic 1", "logistic")]


@pytest.mark.parametrize(
    ("kind", "values", "saturated"),
    [
        ("tanh", [-0.96, -0.95, 0.0, 0.94, 0.96], [True, False, False, False, True]),
        ("logistic", [0.0, 0.04, 0.06, 0.94, 0.96], [True, True, False, False, True]),
        ("relu", [0.0, 0.0, 1e-3, 0.5, 7.0], [True, True, False, False, False]),
    ],
)
def test_what_counts_as_saturated(kind, values, saturated):
    found = activations.beyond(Activation("it", kind), jnp.asarray(values))
    assert found.tolist() == saturated
