"""The flow of the gradient against explicit differentiation, in float64, and what is said of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import flow
from rnnlab.diagnose.flow import Flow
from rnnlab.errors import UsageError
from tests.diagnose.by_hand import LENGTHS, B, T, probed, stack_by_hand

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_the_flow_is_explicit_differentiation_by_each_state(lengths, last):
    probe, params, batch = probed(lengths=lengths)
    net = probe.net
    found = flow.measure(probe, params, (), batch, last=last)
    scored = None
    if last:
        scored = np.full(B, T - 1) if lengths is None else lengths - 1

    @jax.jit
    def gradients(zero):
        bump = {(layer, t): zero for layer in range(2) for t in range(T)}
        return jax.grad(lambda b: stack_by_hand(net, params, batch, b, lengths, scored))(bump)

    expected = gradients(net.cell.carry(B, jnp.float64))
    for layer, one in enumerate(found):
        assert (one.layer, one.parts) == (f"layer {layer + 1}", ("c", "h"))
        for t in range(T):
            for part, name in enumerate(one.parts):
                norm = np.linalg.norm(getattr(expected[layer, t], name), axis=1)
                np.testing.assert_allclose(one.norms[part, t], norm, rtol=1e-10, atol=1e-16)
    assert (found[0].last == (scored if last else -1)).all()


def test_by_lag_and_reach_count_from_each_rows_last_step():
    norms = np.zeros((1, 5, 2))
    norms[0, :, 0] = [1e-4, 1e-3, 5e-3, 0.5, 1.0]  # last step 4
    norms[0, :, 1] = [2e-3, 0.5, 1.0, 0.0, 0.0]  # last step 2
    one = Flow("layer 1", ("h",), norms, np.array([4, 2]))
    np.testing.assert_allclose(one.by_lag()[0], [1.0, 0.5, np.sqrt(5e-3 * 2e-3)], rtol=1e-12)
    assert one.reach() == [2]
    assert one.reach(1e-3) == [None]
    whole = one._replace(last=np.array([-1, -1]))
    with pytest.raises(UsageError, match="of the last scored step"):
        whole.by_lag()


def test_a_model_of_two_directions_has_a_flow_for_each():
    probe, params, batch = probed(bidirectional=True, layers=1)
    assert len(flow.measure(probe, params, (), batch)) == 2


def curve_of(values) -> Flow:
    """A flow whose norms at lags 0, 1 ... are these."""
    norms = np.array(values[::-1], float)[None, :, None]
    return Flow("layer 1", ("h",), norms, np.array([len(values) - 1]))


def test_flow_sentences():
    (told,) = flow.sentences([curve_of(0.5 ** np.arange(20))])
    assert (
        told == "layer 1, h: the gradient falls to 1% within 7 steps, by a factor of 0.50 a step."
    )
    (told,) = flow.sentences([curve_of(0.99 ** np.arange(101))])
    assert "reaches back over the whole window: after 100 steps it is 36.6%" in told
    assert "a factor of 0.990 a step" in told
    grows, falls = flow.sentences([curve_of([1.0, 30.0, 50.0, 1e-3])])
    assert "grows, to 50 times its first size within 2 steps: it explodes" in grows
    assert "falls to 1% within 3 steps" in falls
    # An inner state has no gradient at lag 0: it is counted from lag 1.
    (told,) = flow.sentences([curve_of([0.0, 1.0, 0.1, 0.001])])
    assert "falls to 1% within 2 steps" in told
    (told,) = flow.sentences([curve_of([0.0, 0.0])])
    assert told == "layer 1, h: no gradient of the last step's loss arrives."


def test_the_part_of_the_state_that_reaches_furthest_is_told_of():
    fast, slow = curve_of(0.5 ** np.arange(20)), curve_of(0.8 ** np.arange(20))
    both = Flow("layer 2", ("h", "c"), np.concatenate([fast.norms, slow.norms]), fast.last)
    (told,) = flow.sentences([both])
    assert told.startswith("layer 2, c: the gradient reaches back over the whole window")
