"""What `unroll` refuses at the door: one line that names the argument, compiled or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.recurrence.unrolling import unroll

T, B, D, H = 5, 2, 3, 4
CELL = cells.get("lstm", hidden=H)
PARAMS = jax.tree.map(
    lambda leaf: jnp.full(leaf.shape, 0.1), jax.eval_shape(lambda: CELL.init(jax.random.key(0), D))
)
X = np.ones((T, B, D), np.float32)
FULL = np.ones((T, B), bool)


def without(name):
    return {key: leaf for key, leaf in PARAMS.items() if key != name}


WRONG = [
    ("x", X[0]),
    ("x", X[..., None]),
    ("x", X.astype(np.complex64)),
    ("x", X.astype(bool)),
    ("x", X.astype(np.int32)),  # tokens are [T, B]
    ("x", X[..., 0]),  # and numbers [T, B, D]
    ("x", X[..., :2]),
    ("x", X.tolist()),
    ("lengths", np.array([5.0, 2.0])),
    ("lengths", np.array([True, False])),
    ("lengths", np.array([5, 2, 1])),
    ("lengths", np.array([[5, 2]])),
    ("lengths", np.int32(5)),
    ("lengths", [5, 2]),
    ("mask", FULL.astype(np.float32)),
    ("mask", FULL.astype(np.int32)),
    ("mask", FULL.T),
    ("mask", FULL[..., None]),
    ("mask", FULL[0]),
    ("reset", FULL.astype(np.float32)),
    ("reset", FULL.T),
    ("reset", FULL[:, 0]),
    ("key", 0),
    ("key", jax.random.split(jax.random.key(0), 3)),
    ("carry", CELL.carry(B + 1)),
    ("carry", CELL.carry(B).h),
    ("carry", tuple(CELL.carry(B))),
    ("carry", CELL.carry(B, jnp.int32)),
    ("carry", cells.get("gru", hidden=H).carry(B)),
    ("carry", cells.get("lstm", hidden=H + 1).carry(B)),
    ("params", without("bias")),
    ("params", PARAMS | {"peepholes": np.ones((3, H), np.float32)}),
    ("params", PARAMS | {"kernel_h": np.ones((H, 3 * H), np.float32)}),
    ("params", PARAMS | {"bias": np.ones(4 * H, np.int32)}),
    ("params", PARAMS | {"bias": np.ones(4 * H, np.complex64)}),
    ("path", "fast"),
    ("keep", "all"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_is_refused(name, value):
    given = {"params": PARAMS, "x": X} | {name: value}
    with pytest.raises(UsageError, match=name) as error:
        unroll(CELL, given.pop("params"), given.pop("x"), **given)
    assert "\n" not in str(error.value)


def test_it_is_refused_while_it_is_traced():
    run = jax.jit(lambda mask: unroll(CELL, PARAMS, X, mask=mask)[1].sum())
    with pytest.raises(UsageError, match=r"mask is float32 \[5, 2\]: it must be bool \[T, B\]"):
        run(FULL.astype(np.float32))
    with pytest.raises(UsageError, match=r"x is float32 \[5, 2, 2\]: .* D = 3"):
        jax.eval_shape(lambda x: unroll(CELL, PARAMS, x), X[..., :2])
    with pytest.raises(UsageError, match="cell is str 'lstm'"):
        unroll("lstm", PARAMS, X)  # pyright: ignore[reportArgumentType]


def test_no_cost_to_the_program():
    """The checks leave nothing in it: with flags and state given it is what is asked for."""
    program = str(jax.make_jaxpr(lambda x: unroll(CELL, PARAMS, x, path="plain"))(X))
    assert "callback" not in program
    assert "random" not in program


@pytest.mark.parametrize(("time", "batch"), [(0, B), (T, 0)])
def test_of_nothing(time, batch):
    """No steps: the carry given; no rows: none come out. The gradient is zero."""
    start = CELL.carry(batch)._replace(h=jnp.ones((batch, H)))

    def loss(params):
        final, y = unroll(CELL, params, X[:time, :batch], start)
        return y.sum(), (final, y)

    gradient, (final, y) = jax.grad(loss, has_aux=True)(PARAMS)
    assert y.shape == (time, batch, H)
    np.testing.assert_array_equal(final.h, start.h)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
