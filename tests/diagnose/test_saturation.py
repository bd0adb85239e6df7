"""Shares and histograms of the activations inside a cell, against its own equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.diagnose import saturation
from rnnlab.diagnose.saturation import Saturation
from rnnlab.recurrence import activations
from rnnlab.recurrence.activations import Activation
from tests.recurrence.by_hand import B, H, T, lstm_by_hand, window


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


@pytest.mark.parametrize("name", cells.names())
def test_the_share_inside_a_jitted_step_is_the_mean_of_the_shares(name):
    cell = cells.get(name, hidden=H)
    params, seen = window(cell)
    inside = jax.jit(lambda p, s: activations.share(cell, p, s))(params, seen)
    outside = saturation.measure(cell, params, seen, layer="layer 1")
    assert set(inside) == {one.activation.name for one in outside}
    for one in outside:
        np.testing.assert_allclose(inside[one.activation.name], one.share.mean(), atol=1e-6)


def test_steps_that_do_not_exist_do_not_count():
    cell = cells.get("lstm", hidden=H)
    params, seen = window(cell)
    valid = jnp.arange(T)[:, None] < jnp.asarray([T, 3, 1])
    inside = activations.share(cell, params, seen, valid)
    for one in saturation.measure(cell, params, seen, layer="layer 1", valid=valid):
        values = lstm_by_hand(params, seen)[one.activation.name]
        away = np.asarray(activations.beyond(one.activation, values))[np.asarray(valid)]
        np.testing.assert_allclose(inside[one.activation.name], away.mean(), rtol=1e-5)
        np.testing.assert_allclose(one.units, away.mean(0), atol=1e-6)
        np.testing.assert_allclose(one.histogram[3:].sum(1), 1, rtol=1e-5)


def saturated(share, kind="tanh", name="candidate"):
    rows = np.full(4, share)
    return Saturation(
        "layer 1",
        Activation(name, kind),
        rows,
        np.array([1.0, 0.0]),
        np.ones((4, 40)),
        np.arange(41),
    )


def test_saturation_sentences():
    (told,) = saturation.sentences([saturated(0.61), saturated(0.05)])
    assert told == (
        "layer 1, candidate: 61% of the values are saturated; 50% of the units are so most of the time."
    )
    (told,) = saturation.sentences([saturated(0.05), saturated(0.02, "logistic", "gate")])
    assert told.startswith("No activation is saturated in more than 10%")
    assert "candidate of layer 1, 5.0%" in told
    assert saturation.sentences([]) == []
