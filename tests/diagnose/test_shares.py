"""The share of each step in the gradient, against explicit differentiation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import shares
from rnnlab.diagnose.shares import Share
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.types import Probe
from tests.diagnose.by_hand import LENGTHS, B, H, T, V, probed, stack_by_hand

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_shares_of_the_steps_add_up_to_the_gradient(cell):
    probe, params, batch = probed(cell, lengths=LENGTHS)
    found = {one.layer: one for one in shares.measure(probe, params, (), batch)}

    def loss(params):
        return stack_by_hand(probe.net, params, batch, {}, LENGTHS)

    whole = jax.jit(jax.grad(loss))(params)
    wanted = {f"layer {i + 1}": layer for i, layer in enumerate(whole["layers"])}
    wanted["readout"] = whole["readout"]
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        one = found[name]
        assert one.parts.keys() == gradient.keys()
        for key in gradient:
            np.testing.assert_allclose(one.parts[key].sum(), 1, rtol=1e-9)
            assert one.norms[key].sum() >= np.linalg.norm(gradient[key]) * (1 - 1e-9)
    # Of the readout each step's own gradient is known: x_t d_t.
    start = probe.net.carry(B, jnp.float64)
    *_, seen = probe.net.watch(params, start, **probe.inputs(batch))

    def by_outputs(outputs):
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum()

    _, outputs = probe.net.apply(params, start, **probe.inputs(batch))
    d = jax.grad(by_outputs)(outputs)
    top = jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], seen[-1].states.h, 0)
    each = jnp.einsum("tbh,tbv->thv", top, d)
    np.testing.assert_allclose(
        found["readout"].norms["kernel"], np.linalg.norm(each, axis=(1, 2)), rtol=1e-9, atol=1e-15
    )


def test_the_embedding_has_its_shares_too():
    net = stack.stack_cells(
        input_size=3, output_size=V, cell="rnn", hidden=H, layers=1, input="embedding",
        embedding_size=2,
    )  # fmt: skip
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 3, (T, B)))

    def losses(outputs, batch):
        return (outputs**2).sum(-1), jnp.ones((T, B), outputs.dtype)

    probe = Probe(net, lambda batch: {"x": batch["x"]}, losses)
    params = net.init(jax.random.key(0), jnp.float64)
    found = shares.measure(probe, params, (), {"x": tokens})
    assert [one.layer for one in found] == ["layer 1", "embedding", "readout"]
    for one in found:
        for parts in one.parts.values():
            np.testing.assert_allclose(parts.sum(), 1, rtol=1e-9)


def test_two_directions_have_no_order_of_steps():
    probe, params, batch = probed(bidirectional=True, layers=1)
    with pytest.raises(UsageError, match="one direction"):
        shares.measure(probe, params, (), batch)


def test_shares_sentences():
    even, late = np.full(20, 0.05), np.r_[np.zeros(18), 0.6, 0.4]
    assert shares.sentences([Share("layer 1", {}, {"kernel_h": even})]) == []
    (told,) = shares.sentences([Share("layer 1", {}, {"kernel_h": late})])
    assert told.startswith("layer 1: the last 2 of 20 steps make 100%")
