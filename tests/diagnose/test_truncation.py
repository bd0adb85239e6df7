"""The truncated gradient against that of training by windows, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import truncation
from rnnlab.diagnose.truncation import Truncation
from rnnlab.errors import UsageError
from tests.diagnose.by_hand import B, T, probed

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")


@pytest.mark.slow
def test_truncation_is_what_training_by_windows_computes():
    probe, params, batch = probed()
    windows = (1, 2, 3, 6)
    found = truncation.measure(probe, params, (), batch, windows=windows)

    def by_windows(params, length):
        total = 0.0
        carry = probe.net.carry(B, jnp.float64)
        for start in range(0, T, length):
            part = {k: v[start : start + length] for k, v in batch.items()}
            carry = jax.lax.stop_gradient(carry)
            carry, outputs = probe.net.apply(params, carry, part["x"])
            total = total + ((outputs - part["targets"]) ** 2).sum()
        return total / (T * B)

    gradients = {
        w: np.concatenate(
            [
                np.ravel(leaf)
                for leaf in jax.tree.leaves(
                    jax.jit(jax.grad(lambda p, w=w: by_windows(p, w)))(params)
                )
            ]
        )
        for w in windows
    }
    whole = gradients[T]
    for i, w in enumerate(windows):
        g = gradients[w]
        cosine = g @ whole / np.linalg.norm(g) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.cosine[i], cosine, rtol=1e-10)
        bias = np.linalg.norm(g - whole) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.bias[i], bias, rtol=1e-8, atol=1e-12)
        ratio = np.linalg.norm(g) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.ratio[i], ratio, rtol=1e-10)
    assert found.cosine[0] < 1 - 1e-4
    np.testing.assert_allclose(found.recurrent[-1], 1, rtol=1e-12)
    with pytest.raises(UsageError, match="at least 1 step"):
        truncation.measure(probe, params, (), batch, windows=(0,))


def test_two_directions_are_never_truncated():
    probe, params, batch = probed(bidirectional=True, layers=1)
    with pytest.raises(UsageError, match="one direction"):
        truncation.measure(probe, params, (), batch, windows=(2,))


def test_truncation_sentences():
    windows = np.array([1, 2, 4, 8])
    cosine = np.array([0.995, 0.98, 0.995, 1.0])  # it falls again: the last rise counts
    found = Truncation(windows, cosine, 1 - cosine, cosine, cosine)
    first, second = truncation.sentences(found, trained=4)
    assert "a cosine of 0.995 with that over 8 steps, and is off by 0.5% of its norm" in first
    assert second.startswith("From windows of 4 steps on")
    assert len(truncation.sentences(found, trained=8)) == 1
