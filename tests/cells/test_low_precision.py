"""Parameters of 16 bits: every cell starts and runs in them, and leaves for PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.cells.parts import initialisers
from rnnlab.models import interop
from rnnlab.recurrence.unrolling import unroll

LOW = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])


@LOW
@pytest.mark.parametrize("name", cells.names())
def test_a_cell_starts_and_runs(name, dtype):
    cell = cells.get(name, hidden=4, layer_norm=True, hidden_bias=True)
    params = cell.init(jax.random.key(0), 3, dtype)
    full = cell.init(jax.random.key(0), 3, jnp.float32)
    for found, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(full), strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted.astype(dtype))  # drawn in float32, rounded once
    carry, y = jax.jit(lambda p: unroll(cell, p, jnp.ones((2, 2, 3), dtype)))(params)
    assert {leaf.dtype for leaf in (*jax.tree.leaves(carry), y)} == {jnp.dtype(dtype)}
    assert np.isfinite(y.astype(jnp.float32)).all()


@LOW
@pytest.mark.parametrize(
    "spec",
    ["orthogonal", "identity:0.5", "uniform:0.1", "normal:0.1", "constant:0.3", "spectral:0.9",
     "glorot_uniform", "glorot_normal", "lecun_normal", "lecun_uniform", "he_normal", "zeros",
     "ones", "inverse_sqrt_hidden"],
)  # fmt: skip
def test_every_initialiser(spec, dtype):
    draw = initialisers.from_spec(spec, 4)
    found = draw(jax.random.key(0), (4, 4), dtype)
    assert found.dtype == dtype
    wanted = draw(jax.random.key(0), (4, 4), jnp.float32).astype(dtype)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_exports_are_of_dtypes_that_numpy_has(name):
    cell = cells.get(name, hidden=4, preset="torch")
    for dtype, wanted in ((jnp.bfloat16, np.float32), (jnp.float16, np.float16)):
        params = cell.init(jax.random.key(0), 3, dtype)
        state = interop.to_torch([params], cell=name)
        assert {array.dtype for array in state.values()} == {np.dtype(wanted)}
        assert all(a.flags.writeable and a.flags.c_contiguous for a in state.values())
        np.testing.assert_array_equal(state["weight_hh_l0"], params["kernel_h"].T.astype(wanted))
