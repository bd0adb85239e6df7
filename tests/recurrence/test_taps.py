"""The gradient at every state, against explicit differentiation in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell
from tests.cells.cases import CASES, Case, label
from tests.recurrence.problems import B, D, H, T, flags_of, random

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("strict_dtypes", "float64")]

PLAIN = [c for c in CASES if not c.options or set(c.options) & {"layer_norm", "peepholes", "reset"}]

QUICK = (("lengths", True), ("all", False))


def setting(cell: Cell, flags: str = "none") -> Any:
    """(params, carry, x, weights of y and of the final carry, flags)."""
    params = random(jax.eval_shape(lambda: cell.init(jax.random.key(0), D, np.float64)), 1)
    carry = random(jax.eval_shape(lambda: cell.carry(B, np.float64)), 2)
    x = random(jax.ShapeDtypeStruct((T, B, D), np.float64), 3)
    weights = random(jax.ShapeDtypeStruct((T, B, H), np.float64), 4)
    return params, carry, x, weights, flags_of(flags)


def loss_with(cell: Cell, setting: Any, **how: Any):
    params, carry, x, weights, flags = setting

    def loss(params, seen):
        final, y = unroll(cell, params, x, carry, taps=seen, **flags, **how)
        return (weights * y).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(final))

    return functools.partial(loss, params), functools.partial(loss)


def brute_force(cell: Cell, setting: Any) -> Any:
    """dL/ds_t of every t, each by a Python loop of its own from that state on."""
    params, carry, x, weights, _ = setting
    z = cell.project(params, x, None)
    states = [carry]
    for t in range(T):
        states.append(cell.step(params, states[-1], jax.tree.map(lambda a, t=t: a[t], z))[0])

    def rest(state, t):
        # `y_t` is the state's h here, for all the cells of this test.
        total = (weights[t] * state.h).sum()
        for k in range(t + 1, T):
            state, y = cell.step(params, state, jax.tree.map(lambda a, k=k: a[k], z))
            total = total + (weights[k] * y).sum()
        return total + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    found = [jax.grad(rest)(states[t + 1], t) for t in range(T)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


@functools.cache
def by_brute_force(case: Case) -> Any:
    cell = cells.get(case.cell, hidden=H, **case.options)
    return jax.jit(lambda: brute_force(cell, setting(cell)))()


@pytest.mark.parametrize(
    ("case", "how"),
    [
        pytest.param(
            case,
            how,
            # Of every cell the plain one and the one with most options.
            marks=pytest.mark.slow if case.label == "layer_norm" and case.cell != "lstm" else (),
            id=f"{label(case)}-{how}",
        )
        for case in PLAIN
        for how in ([{}] if case.options else [{}, {"chunk": 4}, {"path": "plain"}])
    ],
)
def test_norms_and_gradients_are_those_of_each_state(case: Case, how):
    cell = cells.get(case.cell, hidden=H, **case.options)
    given = setting(cell)
    expected = by_brute_force(case)
    loss, _ = loss_with(cell, given, **how)
    nudged = jax.jit(jax.grad(loss))(taps.nudge(cell, T, B, jnp.float64))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
        nudged.nudge,
        expected,
    )
    norms = taps.norms(nudged.nudge)
    for found, whole in zip(jax.tree.leaves(norms), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, np.linalg.norm(whole, axis=-1), rtol=1e-10)


@pytest.mark.parametrize(
    ("flags", "reverse"),
    [
        pytest.param(flags, reverse, marks=() if (flags, reverse) in QUICK else pytest.mark.slow)
        for flags in ("lengths", "mask", "reset", "all")
        for reverse in (False, True)
    ],
)
def test_a_tap_changes_no_value_and_both_paths_agree(flags, reverse):
    cell = cells.get("lstm", hidden=H)
    given = setting(cell, flags)
    found = []
    for path in ("auto", "plain"):
        loss, bare = loss_with(cell, given, path=path, reverse=reverse)
        seen = taps.nudge(cell, T, B, jnp.float64)
        assert jax.jit(loss)(seen) == jax.jit(loss)(None)
        found.append(jax.jit(jax.grad(bare, argnums=(0, 1)))(given[0], seen))
        whole = jax.jit(jax.grad(bare))(given[0], None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found[-1][0], whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), *found)


def test_a_step_that_does_not_exist_has_no_gradient():
    cell = cells.get("gru", hidden=H)
    loss, _ = loss_with(cell, setting(cell, "lengths"))
    norms = jax.grad(loss)(taps.nudge(cell, T, B, jnp.float64)).nudge
    norms = taps.norms(norms).h
    assert (norms[:, 0] > 0).all()  # of length 6
    assert (norms[:2, 1] > 0).all()
    assert (norms[2:, 1] == 0).all()
    assert (norms[:, 2] == 0).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_norm_neither_underflows_nor_overflows(size):
    with jax.enable_x64(False):
        found = taps.norms(jnp.full((2, 1, 3), size, jnp.float32))
        np.testing.assert_allclose(found, size * np.sqrt(3), rtol=1e-6)
        assert (taps.norms(jnp.zeros((2, 1, 3))) == 0).all()


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_a_cut_is_the_sum_of_the_windows_gradients(path):
    """No gradient passes a border: what is left is that of each window by itself."""
    cell = cells.get("lstm", hidden=H)
    params, carry, x, weights, _ = setting(cell)
    border = 4
    cut = jnp.broadcast_to((jnp.arange(T) == border)[:, None], (T, B))

    def whole(params):
        _, y = unroll(cell, params, x, carry, taps=taps.Taps(cut=cut), path=path)
        return (weights * y).sum()

    middle, _ = unroll(cell, params, x[:border], carry)

    def windows(params):
        _, first = unroll(cell, params, x[:border], carry)
        _, second = unroll(cell, params, x[border:], middle)
        return (weights[:border] * first).sum() + (weights[border:] * second).sum()

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        jax.jit(jax.grad(whole))(params),
        jax.jit(jax.grad(windows))(params),
    )


@pytest.mark.parametrize("name", cells.names())
def test_the_shares_of_the_steps_are_those_of_weights_that_are_not_shared(name):
    cell = cells.get(name, hidden=H)
    given = setting(cell)
    params, carry, x, weights, _ = given
    loss, bare = loss_with(cell, given)
    whole = jax.grad(bare)(params, None)
    slots = jax.tree.map(lambda leaf: jnp.zeros((T, 2), leaf.dtype), params)
    found = jax.jit(jax.grad(loss, allow_int=True))(taps.Taps(shares=slots, whole=whole)).shares

    def untied(copies):
        state, total = carry, 0.0
        for t in range(T):
            own = jax.tree.map(lambda leaf, t=t: leaf[t], copies)
            z = jax.tree.map(lambda a: a[0], cell.project(own, x[t : t + 1], None))
            state, y = cell.step(own, state, z)
            total = total + (weights[t] * y).sum()
        return total + sum((leaf**2).sum() for leaf in jax.tree.leaves(state))

    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (T, *leaf.shape)), params)
    parts = jax.jit(jax.grad(untied))(copies)
    for key, part in parts.items():
        flat = part.reshape(T, -1)
        np.testing.assert_allclose(found[key][:, 0], np.linalg.norm(flat, axis=1), rtol=1e-10)
        inner = flat @ whole[key].ravel()
        np.testing.assert_allclose(found[key][:, 1], inner, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", cells.names())
def test_what_is_recorded_is_the_output_and_every_state(name):
    cell = cells.get(name, hidden=H)
    params, carry, x, _, _ = setting(cell)
    final, y = unroll(cell, params, x, carry)
    again, joined = unroll(cell, params, x, carry, record=True)
    found, (_, _, states) = taps.parted(cell, x, joined)
    assert (found == y).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), again, final)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[-1], b), states, final)


def test_cudnn_is_refused():
    cell = cells.get("lstm", hidden=H)
    params, carry, x, _, _ = setting(cell)
    with pytest.raises(UsageError, match="cuDNN shows nothing"):
        unroll(cell, params, x, carry, taps=taps.nudge(cell, T, B), path="cudnn")


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize("name", cells.names())
def test_recording_changes_no_gradient(name, path):
    """The output beside the recorded states is the tapped one, and so has its gradient."""
    cell = cells.get(name, hidden=H)
    params, carry, x, weights, _ = setting(cell)

    def loss(seen, record):
        _, y = unroll(cell, params, x, carry, taps=seen, record=record, path=path)
        y = taps.parted(cell, x, y)[0] if record else y
        return (weights * y).sum()

    slots = taps.nudge(cell, T, B, jnp.float64)
    found = [jax.jit(jax.grad(lambda s, r=r: loss(s, r)))(slots).nudge for r in (False, True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), *found)


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_state_before_a_step_is_the_one_it_started_from(path, reverse):
    """Whatever came between: the direction, a reset, steps that do not exist."""
    cell = cells.get("lstm", hidden=H)
    params, carry, x, _, flags = setting(cell, "all")
    _, joined = unroll(cell, params, x, carry, record=True, path=path, reverse=reverse, **flags)
    y, seen = taps.parted(cell, x, joined)
    new, again = cell.step(
        params, taps.together(seen.before), taps.together(cell.project(params, x, None))
    )
    there = np.asarray(y).any(-1)
    assert there.sum() > T
    for found, expected in ((again, y), (new.c, seen.states.c), (new.h, seen.states.h)):
        found = np.asarray(found).reshape(T, B, H)[there]
        np.testing.assert_allclose(found, np.asarray(expected)[there], rtol=1e-12)
