"""The fast path against the plain one: float64, values and all gradients, whatever a cell can do."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.recurrence import bptt
from rnnlab.recurrence.unrolling import unroll
from rnnlab.types import Cell
from tests.cells.cases import CASES, Case, label
from tests.recurrence.problems import B, D, H, T, flags_of, random

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SEPARATE = [c for c in CASES if bptt.separate(cells.get(c.cell, hidden=H, **c.options))]


def inner(tree: Any, weights: Any) -> Any:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(weights), strict=True)
    return sum((a * w).sum() for a, w in pairs if jnp.issubdtype(a.dtype, jnp.inexact))


def gradients(cell: Cell, *, dtype: Any = np.float64, tokens: bool = False, flags="none", **how):
    """((final carry, y), gradients by params, x and carry) of a random weighted sum of both."""
    params = random(jax.eval_shape(lambda: cell.init(jax.random.key(0), D, dtype)), 1)
    carry = random(jax.eval_shape(lambda: cell.carry(B, dtype)), 2)
    x = random(jax.ShapeDtypeStruct((T, B, D), dtype), 3)
    if tokens:
        x = jnp.asarray(np.random.default_rng(3).integers(-1, D + 1, (T, B)), jnp.int32)
    given = flags_of(flags)

    def run(params, x, carry):
        return unroll(cell, params, x, carry, key=jax.random.key(5), **given, **how)

    weights = random(jax.eval_shape(run, params, x, carry), 4)

    def loss(params, x, carry):
        outputs = run(params, x, carry)
        return inner(outputs, weights), outputs

    by = (0, 2) if tokens else (0, 1, 2)
    by = by if all(jnp.issubdtype(a.dtype, jnp.inexact) for a in carry) else by[:-1]
    (_, outputs), found = jax.jit(jax.value_and_grad(loss, by, has_aux=True))(params, x, carry)
    return outputs, found


def close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=tolerance, atol=tolerance), a, b
    )


def check(cell: Cell, keep: str = "preactivations", **situation: Any) -> None:
    want = gradients(cell, path="plain", **situation)
    close(gradients(cell, path="auto", keep=keep, **situation), want)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(want[1]))


def representative(case: Case) -> bool:
    """Of every cell the plain one and the one with most options; an option alone of the LSTM."""
    return case.cell == "lstm" or case.label in ("plain", "everything")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if representative(c) else pytest.mark.slow, id=label(c))
        for c in SEPARATE
    ],
)
def test_every_cell_and_option(case, float64):
    check(cells.get(case.cell, hidden=H, **case.options))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if c.label == "everything" else pytest.mark.slow, id=label(c))
        for c in SEPARATE
        if c.label in ("dropout_state", "everything")
    ],
)
def test_every_cell_and_option_with_flags_in_reverse(case, float64):
    check(cells.get(case.cell, hidden=H, **case.options), "states", flags="all", reverse=True)


@pytest.mark.parametrize("flags", ["lengths", "mask", "reset", "all"])
@pytest.mark.parametrize("keep", bptt.KEEP)
def test_flags(flags, keep, float64):
    check(cells.get("lstm", hidden=H, zoneout=0.3), keep, flags=flags)


@pytest.mark.parametrize("keep", bptt.KEEP)
@pytest.mark.parametrize("chunk", [2, 4])
def test_chunks_and_tokens(keep, chunk, float64):
    check(cells.get("gru", hidden=H), keep, chunk=chunk, tokens=True, flags="all")


class Mixed(NamedTuple):
    h: Any  # float [B, H]
    count: Any  # int [B]


def own_cell(merge: Any = None) -> Cell:
    """A cell that owes nothing to rnnlab.cells.parts: z a dict with integers in it, r a tuple, a carry
    with a count, an operand that depends on z, a product that is not linear."""

    def project(params, x, noise=None):
        return {"a": x @ params["in"], "sign": (x[..., 0] > 0).astype(jnp.int32)}

    def operand(carry, z):
        return carry.h * (1 + z["sign"])[:, None].astype(carry.h.dtype)

    def product(params, h):
        return jnp.tanh(h @ params["out"]), h @ params["out"]

    def plain_merge(z, r):
        return z["a"] + r[0], r[1], z["sign"]

    def gates(params, carry, u):
        leak = jax.nn.sigmoid(params["leak"] + u[1])
        h = leak * carry.h + jnp.sin(u[0]) * u[2][:, None].astype(leak.dtype)
        return Mixed(h, carry.count + 1), h * params["gain"]

    used = merge or plain_merge

    def init(key, size, dtype=jnp.float32):
        shapes = {"in": (size, H), "out": (H, H), "leak": (1, H), "gain": (1, H), "unused": (2,)}
        return {name: jnp.ones(shape, dtype) for name, shape in shapes.items()}

    return Cell(
        name="own",
        hidden=H,
        init=init,
        carry=lambda batch, dtype=jnp.float32: Mixed(
            jnp.zeros((batch, H), dtype), jnp.zeros(batch, jnp.int32)
        ),
        noise=lambda key, time, batch: None,
        project=project,
        step=lambda params, carry, z: gates(
            params, carry, used(z, product(params, operand(carry, z)))
        ),
        operand=operand,
        product=product,
        merge=used,
        gates=gates,
    )


@pytest.mark.parametrize("keep", bptt.KEEP)
@pytest.mark.parametrize("flags", ["none", "all"])
def test_a_cell_of_ones_own(keep, flags, float64):
    check(own_cell(), keep, flags=flags)


def test_a_merge_that_is_not_linear_is_no_silent_error(float64):
    with pytest.raises(UsageError, match="cell 'own': merge must be linear"):
        gradients(own_cell(merge=lambda z, r: (z["a"] * r[0], r[1], z["sign"])))


def test_no_matrix_of_the_kernels_size_is_added_in_the_loop():
    """What makes it fast: the plain path's backward loop carries the kernel's gradient."""
    hidden = 37
    cell = cells.get("lstm", hidden=hidden)
    params = cell.init(jax.random.key(0), D)
    x = jnp.zeros((T, B, D))

    def carried(path):
        program = jax.make_jaxpr(jax.grad(lambda p: unroll(cell, p, x, path=path)[1].sum()))(params)
        loops = [e for e in program.jaxpr.eqns if e.primitive.name == "scan"]
        sizes = []
        for loop in loops:
            n = loop.params["num_carry"]
            sizes += [v.aval.shape for v in loop.outvars[:n]]
        return (hidden, 4 * hidden) in sizes

    assert carried("plain")
    assert not carried("auto")


def test_an_lstm_keeps_states_and_sums_alone():
    cell = cells.get("lstm", hidden=H)
    params = cell.init(jax.random.key(0), D)
    plan = bptt._plan(cell, params, cell.carry(B), cell.project(params, jnp.zeros((T, B, D))))
    start, _, u = plan.likes
    kept = [leaf for leaf, on in zip(jax.tree.leaves(u), plan.computed, strict=True) if on]
    assert [leaf.shape for leaf in kept] == [(B, 4 * H)]
    assert not any(plan.z)
    assert plan.start == (True, True)
    assert len(jax.tree.leaves(start)) == 2


def test_vmap_over_a_population(float64):
    """Gradients of many parameter sets in one program are the gradients one by one."""
    cell = cells.get("gru", hidden=H)
    members = [cell.init(jax.random.key(n), D, np.float64) for n in range(3)]
    x = random(jax.ShapeDtypeStruct((T, B, D), np.float64), 3)

    def loss(params):
        return (unroll(cell, params, x)[1] ** 2).sum()

    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    found = jax.jit(jax.vmap(jax.grad(loss)))(together)
    summed = jax.jit(jax.grad(lambda p: jax.vmap(loss)(p).sum()))(together)
    apart = [jax.jit(jax.grad(loss))(member) for member in members]
    close(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart))
    close(summed, found)


@pytest.mark.slow
def test_second_derivatives(float64):
    """The gradient of a gradient's norm, as a regulariser takes it."""
    cell = cells.get("lstm", hidden=3, layer_norm=True)
    params = cell.init(jax.random.key(0), D, np.float64)
    x = random(jax.ShapeDtypeStruct((4, 2, D), np.float64), 3)

    def norm(params, path):
        inside = jax.grad(lambda p: (unroll(cell, p, x, path=path)[1] ** 2).sum())(params)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(inside))

    found = [jax.jit(jax.grad(functools.partial(norm, path=p)))(params) for p in ("auto", "plain")]
    close(*found, tolerance=1e-10)


@pytest.mark.slow
def test_forward_mode_takes_the_plain_path(float64):
    """By itself: jvp, jacfwd, forward over reverse and reverse over forward, jitted or not."""
    cell = cells.get("lstm", hidden=H, layer_norm=True, recurrent_dropout=0.3)
    params = cell.init(jax.random.key(0), D, np.float64)
    x = random(jax.ShapeDtypeStruct((T, B, D), np.float64), 3)
    turn = random(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params), 4)

    def run(params, path="auto"):
        return unroll(cell, params, x, key=jax.random.key(1), path=path)

    def loss(params, path="auto"):
        return (run(params, path)[1] ** 2).sum()

    def directional(params, path="auto"):
        return jax.jvp(functools.partial(loss, path=path), (params,), (turn,))[1]

    def curvature(params, path="auto"):
        return jax.jvp(jax.grad(functools.partial(loss, path=path)), (params,), (turn,))[1]

    for function in (
        lambda path: jax.jvp(jax.jit(functools.partial(run, path=path)), (params,), (turn,)),
        lambda path: jax.jit(functools.partial(curvature, path=path))(params),
        lambda path: jax.jit(jax.grad(functools.partial(directional, path=path)))(params),
    ):
        close(function("auto"), function("plain"))
    forward = jax.jit(jax.jacfwd(lambda p: run(p)[1]))(params)
    backward = jax.jit(jax.jacrev(lambda p: run(p)[1]))(params)
    close(forward, backward)


@pytest.mark.slow
def test_real_sizes_in_float32():
    """As compiled in use, where a fault of the compiler would show; against float64, plain."""
    cell = cells.get("lstm", hidden=256)
    rng = np.random.default_rng(0)
    params = jax.tree.map(np.asarray, cell.init(jax.random.key(0), 64))
    x = rng.normal(size=(32, 64, 64)).astype(np.float32)
    weights = rng.normal(size=(32, 64, 256)).astype(np.float32)

    def loss(params, x, path):
        return (unroll(cell, params, x, path=path)[1] * weights.astype(x.dtype)).sum()

    fast = jax.jit(jax.grad(functools.partial(loss, path="auto"), (0, 1)))(params, x)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, np.float64), (params, x))
        exact = jax.jit(jax.grad(functools.partial(loss, path="plain"), (0, 1)))(*double)
        exact = jax.tree.map(np.asarray, exact)
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(exact), strict=True):
        assert np.linalg.norm(np.asarray(a) - b) <= 2e-5 * np.linalg.norm(b)


@pytest.mark.parametrize(("option", "value"), [("path", "fast"), ("keep", "everything")])
def test_unknown_paths_are_refused(option, value):
    cell = cells.get("rnn", hidden=2)
    params = cell.init(jax.random.key(0), 2)
    with pytest.raises(UsageError, match=f"{option} must be one of"):
        unroll(cell, params, jnp.zeros((1, 1, 2)), **{option: value})


def test_a_cell_without_four_parts_takes_the_plain_scan(float64):
    case = Case("gru", (("reset", "before"),), "plain")
    cell = cells.get("gru", hidden=H, **case.options)
    assert not bptt.separate(cell)
    close(gradients(cell, path="auto"), gradients(cell, path="plain"), 0)
