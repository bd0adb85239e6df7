"""What each kind of clip does to given gradients, and what is said of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import clipping
from rnnlab.diagnose.clipping import Clipping
from rnnlab.diagnose.objective import mean_loss
from rnnlab.train import optim
from tests.diagnose.by_hand import B, probed

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_clipping_measures_what_the_clip_does(kind):
    probe, params, batch = probed("rnn")
    batches = [batch | {"targets": (k + 1) * batch["targets"]} for k in range(3)]

    def loss(params, carry, batch, key):
        _, outputs = probe.net.apply(params, probe.net.carry(B, jnp.float64), batch["x"])
        values, weights = probe.losses(outputs, batch)
        return carry + 1, {"loss": ((values * weights).sum(), weights.sum())}

    grads, carry = clipping.batch_gradients(loss, params, jnp.zeros(()), batches)
    assert carry == 3
    whole = jax.grad(lambda p: mean_loss(probe, (), batch)(p, None))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), grads[0], whole)
    norms = [float(optim.global_norm(g)) for g in grads]
    threshold = 0.01 if kind in ("adaptive", "value") else norms[1] * 1.001
    found = clipping.measure(grads, params, kind=kind, threshold=threshold)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    assert (found.factor <= 1 + 1e-12).all()
    if kind == "global_norm":
        expected = [min(1, threshold / n) for n in norms]
        np.testing.assert_allclose(found.factor, expected, rtol=1e-12)
    if kind == "soft":
        expected = [threshold / (threshold + n) for n in norms]
        np.testing.assert_allclose(found.factor, expected, rtol=1e-12)
    if kind in ("global_norm", "soft"):
        np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)
    if kind in ("value", "adaptive"):
        assert (found.cosine < 1 - 1e-6).all()


def test_clipping_sentences():
    found = Clipping(
        "global_norm", 1.0, np.array([0.5, 0.5, 0.5, 2.0]), np.r_[1, 1, 1, 0.5], np.ones(4)
    )
    (told,) = clipping.sentences(found, [])
    assert "clipping at 1 acts on 25% of them" in told
    rows = [
        {"split": "train", "step": step, "clipped": share}
        for step, share in ((10, 1.0), (20, 0.1), (100, 0.0))
    ]
    _, told = clipping.sentences(found, rows)
    assert told == "In training it acted on 11% of 100 steps, nine tenths of them before step 10."
    off = found._replace(threshold=math.inf, factor=np.ones(4))
    assert "clipping off acts on 0% of them" in clipping.sentences(off, [])[0]
