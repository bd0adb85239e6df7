"""The activations inside a cell, against the cell's own equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.recurrence import saturation, taps
from rnnlab.recurrence.saturation import Activation
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell

T, B, D, H = 7, 3, 4, 5


def window(cell: Cell, scale: float = 3.0):
    """(params, Seen) of random inputs, large ones, so that something is saturated."""
    params = cell.init(jax.random.key(0), D, jnp.float32)
    x = scale * jax.random.normal(jax.random.key(1), (T, B, D))
    start = jax.tree.map(lambda a: a + 0.1, cell.carry(B, jnp.float32))
    _, joined = unroll(cell, params, x, start, record=True)
    return params, taps.parted(cell, x, joined)[1]


def lstm_by_hand(params, seen):
    pre = seen.x @ params["kernel_x"] + params["bias"]
    i, f, g, o = jnp.split(pre + seen.before.h @ params["kernel_h"], 4, axis=-1)
    return {
        "forget gate": jax.nn.sigmoid(f),
        "input gate": jax.nn.sigmoid(i),
        "candidate": jnp.tanh(g),
        "output gate": jax.nn.sigmoid(o),
        "tanh(c)": jnp.tanh(seen.states.c),
    }


def test_shares_and_histograms_are_those_of_the_equations():
    cell = cells.get("lstm", hidden=H)
    params, seen = window(cell)
    found = {s.activation.name: s for s in saturation.measure(cell, params, seen, layer="layer 1")}
    expected = lstm_by_hand(params, seen)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        one = found[name]
        kind = "logistic" if name.endswith("gate") else "tanh"
        assert one.activation == Activation(name, kind)
        away = np.abs(np.asarray(values) if kind == "tanh" else 2 * np.asarray(values) - 1)
        limit = 0.95 if kind == "tanh" else 0.9
        assert 0 < (away > limit).mean() < 1
        np.testing.assert_allclose(one.share, (away > limit).mean((1, 2)), atol=1e-6)
        np.testing.assert_allclose(one.units, (away > limit).mean((0, 1)), atol=1e-6)
        np.testing.assert_allclose(one.histogram.sum(1), 1, rtol=1e-5)
        low = -1 if kind == "tanh" else 0
        np.testing.assert_allclose(one.edges, np.linspace(low, 1, saturation.BINS + 1), atol=1e-6)
        counts = [np.histogram(row, one.edges)[0] / row.size for row in np.asarray(values)]
        # A value on an edge, which rounding decides, may be on either side of it.
        assert np.abs(one.histogram - counts).sum() <= 4 / (B * H)


@pytest.mark.parametrize("name", cells.names())
def test_every_activation_of_a_cell_has_a_name_and_lies_in_its_range(name):
    cell = cells.get(name, hidden=H)
    params, seen = window(cell)
    found = saturation.measure(cell, params, seen, layer="layer 1")
    names = [one.activation.name for one in found]
    assert names
    assert len(set(names)) == len(names)
    assert all(name.split()[-1].isalpha() or "(" in name for name in names), names  # no "tanh 1"
    for one in found:
        assert one.histogram.shape == (T, saturation.BINS)
        assert ((one.share >= 0) & (one.share <= 1)).all()


def test_a_relu_is_dead_where_it_is_zero():
    cell = cells.get("rnn", hidden=H, activation="relu")
    params, seen = window(cell)
    (one,) = saturation.measure(cell, params, seen, layer="layer 1")
    assert one.activation == Activation("state", "relu")
    np.testing.assert_allclose(one.share, (np.asarray(seen.states.h) == 0).mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(one.edges[-1], np.asarray(seen.states.h).max(), rtol=1e-6)


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
    found = [one.activation for one in saturation.measure(cell, params, seen, layer="layer 1")]
    assert found == [Activation("tanh 1", "tanh"), Activation("logistic 1", "logistic")]


@pytest.mark.parametrize("name", cells.names())
def test_the_share_inside_a_jitted_step_is_the_mean_of_the_shares(name):
    cell = cells.get(name, hidden=H)
    params, seen = window(cell)
    inside = jax.jit(lambda p, s: saturation.share(cell, p, s))(params, seen)
    outside = saturation.measure(cell, params, seen, layer="layer 1")
    assert set(inside) == {one.activation.name for one in outside}
    for one in outside:
        np.testing.assert_allclose(inside[one.activation.name], one.share.mean(), atol=1e-6)


def test_steps_that_do_not_exist_do_not_count():
    cell = cells.get("lstm", hidden=H)
    params, seen = window(cell)
    valid = jnp.arange(T)[:, None] < jnp.asarray([T, 3, 1])
    inside = saturation.share(cell, params, seen, valid)
    for one in saturation.measure(cell, params, seen, layer="layer 1", valid=valid):
        values = lstm_by_hand(params, seen)[one.activation.name]
        away = np.asarray(saturation.beyond(one.activation, values))[np.asarray(valid)]
        np.testing.assert_allclose(inside[one.activation.name], away.mean(), rtol=1e-5)
        np.testing.assert_allclose(one.units, away.mean(0), atol=1e-6)
        np.testing.assert_allclose(one.histogram[3:].sum(1), 1, rtol=1e-5)
