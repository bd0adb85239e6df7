"""What users of JAX debug and ship programs with: it works on `unroll` as on any function of theirs."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from rnnlab import cells
from rnnlab.models.stack import stack_cells
from rnnlab.recurrence.unrolling import unroll

T, B, D, H = 4, 2, 3, 4
X = np.random.default_rng(0).normal(size=(T, B, D)).astype(np.float32)
FLAGS = {
    "lengths": np.array([4, 2], np.int32),
    "mask": np.array([[1, 1], [0, 1], [1, 1], [1, 1]], bool),
    "reset": np.array([[0, 0], [0, 1], [1, 0], [0, 0]], bool),
}
# The cell, and how it is run: every path, and every arrangement of the product.
WAYS = {
    "fast": ("lstm", {}, {}),
    "states": ("gru", {}, {"keep": "states"}),
    "plain": ("gru", {"layer_norm": True}, {"path": "plain", "reverse": True}),
    "chunks": ("rnn", {"precision": "bf16"}, {"chunk": 3}),
    "two products": ("gru", {"reset": "before"}, {}),
    "noise": ("ugrnn", {"zoneout": 0.2, "recurrent_dropout": 0.3}, {"key": jax.random.key(1)}),
}


def ways(*quick):
    """All of them, of which those that are not `quick` to compile wait for the slow tests."""
    return pytest.mark.parametrize(
        "way", [way if way in quick else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
    )


def loss(cell, how):
    """(params, x, flags) -> a number that every output takes part in, with its gradient."""

    def of(params, x, flags):
        return sum(jnp.sum(a**2) for a in jax.tree.leaves(unroll(cell, params, x, **flags, **how)))

    return jax.value_and_grad(of, (0, 1))


def same(found, wanted, tolerance=2e-6):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), found, wanted)


def made(way):
    name, options, how = WAYS[way]
    cell = cells.get(name, hidden=H, **options)
    return cell, cell.init(jax.random.key(0), D), how


@ways("fast", "chunks")
def test_without_compilation(way):
    """`jax.disable_jit`, by which users step through a program: the same numbers."""
    cell, params, how = made(way)
    wanted = jax.jit(loss(cell, how))(params, X, FLAGS)
    with jax.disable_jit():
        same(loss(cell, how)(params, jnp.asarray(X), FLAGS), wanted)


def test_without_compilation_forward_mode_and_populations():
    cell, params, _ = made("fast")

    def outputs(params):
        return unroll(cell, params, jnp.asarray(X))[1]

    def moved(params):
        return jax.jvp(outputs, (params,), (params,))

    pair = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
    wanted = jax.jit(jax.vmap(moved))(pair)
    with jax.disable_jit():
        same(jax.vmap(moved)(pair), wanted)


@ways("fast", "two products")
def test_under_the_checks_of_jax(way):
    """NaN and leak checks find nothing to complain of, padding that holds NaN included."""
    cell, params, how = made(way)
    run = jax.jit(loss(cell, how))
    wanted = run(params, X, FLAGS)
    poisoned = np.where(FLAGS["mask"][..., None], X, np.nan)
    with jax.debug_nans(True), jax.debug_infs(True):
        same(jax.jit(loss(cell, how))(params, poisoned, FLAGS), wanted)
    with jax.checking_leaks():
        same(jax.jit(loss(cell, how))(params, X, FLAGS), wanted)


def test_a_nan_is_found_where_it_is_made():
    cell, params, _ = made("fast")
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        jax.jit(loss(cell, {}))(params, np.full_like(X, np.inf), FLAGS)


@ways(*WAYS)
def test_as_a_jaxpr(way):
    cell, params, how = made(way)
    program = jax.make_jaxpr(loss(cell, how))(params, X, FLAGS)
    outputs = jax.core.eval_jaxpr(
        program.jaxpr, program.consts, *jax.tree.leaves((params, X, FLAGS))
    )
    same(outputs, jax.tree.leaves(jax.jit(loss(cell, how))(params, X, FLAGS)))


def shipped(function, *arguments):
    """The function, exported for these shapes and, where it can be, written and read again."""
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    program = export.export(jax.jit(function))(*like)
    if importlib.util.find_spec("flatbuffers"):  # JAX writes by it, and does not install it
        program = export.deserialize(program.serialize())
    return program.call


def symbolic(*names):
    """The flags and an x whose sizes are left open."""
    t, b = export.symbolic_shape(", ".join(names))
    flags = {
        "lengths": jax.ShapeDtypeStruct((b,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((t, b), jnp.bool_),
        "reset": jax.ShapeDtypeStruct((t, b), jnp.bool_),
    }
    return jax.ShapeDtypeStruct((t, b, D), jnp.float32), flags


@ways("fast", "two products")
def test_exported_for_any_batch_and_time(way):
    """Outputs and gradients of one exported program, of two shapes."""
    cell, params, how = made(way)
    x, flags = symbolic("t", "b")

    def whole(params, x, flags):
        return loss(cell, how)(params, x, flags), unroll(cell, params, x, **flags, **how)

    call = shipped(whole, params, x, flags)
    for time, rows in ((T, B), (3, 1)):
        part = {name: flag[..., :rows] for name, flag in FLAGS.items()}
        part = {name: flag if flag.ndim == 1 else flag[:time] for name, flag in part.items()}
        given = params, X[:time, :rows], part
        same(call(*given), jax.jit(whole)(*given), 1e-5)


def test_a_model_exported_for_any_batch_and_time():
    """Its state too: the class of a cell's state is found again by its name."""
    net = stack_cells(
        input_size=D, output_size=5, cell="lstm", hidden=H, layers=2, bidirectional=True,
        input="embedding", embedding_size=3, remat=True,
    )  # fmt: skip
    params = net.init(jax.random.key(0))
    t, b = export.symbolic_shape("t, b")
    tokens = jax.ShapeDtypeStruct((t, b), jnp.int32)
    carry = jax.eval_shape(lambda: net.carry(b))
    call = shipped(net.apply, params, carry, tokens)
    x = np.array([[0, 1], [2, 0], [1, 1]], np.int32)
    same(call(params, net.carry(2), x), jax.jit(net.apply)(params, net.carry(2), x), 1e-5)
