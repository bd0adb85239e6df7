"""The Jacobians of a step against closed forms, reverse mode and differences."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import jacobians, lyapunov, trajectory
from rnnlab.errors import UsageError
from rnnlab.recurrence.taps import Seen
from rnnlab.types import Cell
from tests.diagnose.systems import driven, every_cell, linear, matrix, still

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def before(seen: Seen, t: int, row: int) -> list[np.ndarray]:
    return [np.asarray(leaf)[t, row] for leaf in jax.tree.leaves(seen.before)]


def vector_step(cell: Cell, params: Any, seen: Seen, t: int, row: int):
    """F of one row, made by hand: the leaves side by side, in a batch of one."""
    sizes = [len(part) for part in before(seen, t, row)]
    tree = jax.tree.structure(seen.before)
    z = jax.tree.map(lambda leaf: leaf[t], cell.project(params, seen.x[:, row : row + 1], None))

    def step(s):
        parts = jnp.split(s[None], list(np.cumsum(sizes)[:-1]), axis=1)
        new, _ = cell.step(params, jax.tree.unflatten(tree, parts), z)
        return jnp.concatenate(jax.tree.leaves(new), axis=1)[0]

    return step, jnp.concatenate([jnp.asarray(part) for part in before(seen, t, row)])


@every_cell
def test_jacobians_are_those_of_reverse_mode_and_of_differences(name, float64):
    cell, params, seen = driven(name)
    found = trajectory.step_jacobians(cell, params, seen, row=2)
    size = sum(leaf.shape[-1] for leaf in jax.tree.leaves(seen.before))
    assert found.shape == (6, size, size)
    assert found.dtype == np.float64
    assert np.abs(found).max() > 0.1
    for t in (0, 3):
        step, s = vector_step(cell, params, seen, t, 2)
        np.testing.assert_allclose(found[t], jax.jacrev(step)(s), rtol=1e-12, atol=1e-14)
        e = 1e-5
        moved = jax.jit(jax.vmap(step))(
            jnp.concatenate([s + e * jnp.eye(size), s - e * jnp.eye(size)])
        )
        differences = np.asarray(moved[:size] - moved[size:]).T / (2 * e)
        np.testing.assert_allclose(found[t], differences, rtol=1e-7, atol=1e-9)


def test_the_state_of_an_lstm_is_c_and_h(float64):
    cell, params, seen = driven("lstm", peepholes=True, layer_norm=True)
    found = trajectory.step_jacobians(cell, params, seen, first=2, steps=2)
    assert found.shape == (2, 8, 8)
    step, s = vector_step(cell, params, seen, 2, 0)
    np.testing.assert_allclose(found[0], jax.jacrev(step)(s), rtol=1e-12, atol=1e-14)


def test_rows_of_a_jacobian_are_of_the_new_state(float64):
    a = matrix(3)
    found = trajectory.step_jacobians(*still(a, 2))
    np.testing.assert_array_equal(found, [a.T, a.T])


class Mixed(NamedTuple):
    count: Any  # int [B]
    h: Any  # [B, 2]
    wide: Any  # [B, 1, 3]


def test_a_state_of_any_parts_of_which_some_cannot_vary(float64):
    def step(params, carry, z):
        gain = carry.count[:, None].astype(z.dtype)
        h = params * carry.h * gain + z
        return Mixed(carry.count + 1, h, carry.wide + h[:, None, :1]), h

    def carry(batch, dtype=jnp.float32):
        zeros = jnp.zeros((batch, 2), dtype), jnp.zeros((batch, 1, 3), dtype)
        return Mixed(jnp.ones(batch, jnp.int32), *zeros)

    cell = linear(2)._replace(step=step, carry=carry)
    params = jnp.asarray(0.5, jnp.float64)
    states, carries = carry(2, jnp.float64), [carry(2, jnp.float64)]
    x = jax.random.normal(jax.random.key(0), (3, 2, 2), jnp.float64)
    for z in x:
        states, _ = step(params, states, z)
        carries.append(states)
    first, after = (
        jax.tree.map(lambda *a: jnp.stack(a), *part) for part in (carries[:-1], carries[1:])
    )
    seen = Seen(x, first, after)
    found = trajectory.step_jacobians(cell, params, seen, row=1)
    for t in range(3):
        gain = 0.5 * (t + 1)
        want = np.eye(5)
        want[:2, :2] *= gain
        want[2:, 0] = gain
        np.testing.assert_allclose(found[t], want, atol=1e-14)


def test_states_that_are_no_trajectory(float64):
    cell, params, seen = driven("rnn")
    flipped = seen._replace(states=jax.tree.map(lambda a: a[::-1], seen.states))
    for function in (trajectory.step_jacobians, jacobians.measure, lyapunov.measure):
        more = {} if function is trajectory.step_jacobians else {"rows": 3}
        more |= {"transient": 0} if function is lyapunov.measure else {}
        function(cell, params, seen, **more)
        with pytest.raises(UsageError, match="after step 0 is not what the cell makes"):
            function(cell, params, flipped, **more)
    broken = seen._replace(states=jax.tree.map(lambda a: a.at[3, 1].set(jnp.nan), seen.states))
    trajectory.step_jacobians(cell, params, broken)
    with pytest.raises(UsageError, match="after step 3"):
        trajectory.step_jacobians(cell, params, broken, row=1, first=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 4}, "rows must be from 1 to 3"),
        ({"rows": 0}, "rows must be from 1 to 3"),
        ({"rows": 1, "first": 6}, "first must be from 0 to 5"),
        ({"rows": 1, "first": 2, "steps": 5}, "steps must be from 1 to 4"),
        ({"rows": 1, "transient": 6}, "transient must be from 0 to 5"),
        ({"rows": 1, "transient": 0, "count": 5}, "count must be from 1 to 4"),
        ({"rows": 1, "every": 0}, "every must be at least 1"),
    ],
)
def test_numbers_out_of_range(options, said, float64):
    which = jacobians.measure if "every" in options else lyapunov.measure
    with pytest.raises(UsageError, match=said):
        which(*driven("rnn"), **options)
