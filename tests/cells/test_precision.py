"""The products of each precision against NumPy, and their gradients: values, dtypes, transformations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rnnlab import cells
from rnnlab.cells.parts import precision
from rnnlab.errors import UsageError
from rnnlab.recurrence.unrolling import unroll

pytestmark = pytest.mark.usefixtures("strict_dtypes")

T, B, D, H = 5, 7, 8, 3
every_precision = pytest.mark.parametrize("name", precision.NAMES)


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def rounded(array):
    """The nearest bfloat16 values, as float32."""
    return np.asarray(array).astype(jnp.bfloat16).astype(np.float32)


# What a product is


def test_products_of_bfloat16_are_summed_in_float32():
    dot = precision.matmul("bf16")
    ones = jnp.ones((1, 1001))
    product = dot(ones, ones.T)
    assert product.dtype == jnp.float32
    assert float(product[0, 0]) == 1001.0  # 1000 or 1004 in bfloat16
    third = dot(jnp.full((1, 1), 1 / 3), jnp.ones((1, 1)))
    assert float(third[0, 0]) == float(jnp.bfloat16(1 / 3)) != float(jnp.float32(1 / 3))
    x, w = draw(T, B, D), draw(D, H, seed=1)
    np.testing.assert_allclose(dot(x, w), rounded(x) @ rounded(w), rtol=0, atol=1e-5)


@every_precision
def test_all_three_products_have_the_precision(name):
    """Forward and both backward, of x and of h, as the compiler for a GPU is told them."""
    cell = cells.get("gru", hidden=H, precision=name)
    params = cell.init(jax.random.key(0), D)
    assert cell.precision == name

    def loss(params, x):
        return unroll(cell, params, x)[1].sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(params, draw(T, B, D))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 6
    wanted = {"float32": "HIGHEST", "tf32": "HIGH", "bf16": "DEFAULT"}[name]
    for line in products:
        assert f"precision = [{wanted}, {wanted}]" in line
        operands, result = line.rpartition(" : ")[2].split(" -> ")
        assert operands.count("xbf16>" if name == "bf16" else "xf32>") == 2, line
        assert result.endswith("xf32>"), line


# The gradients


def test_gradients_of_bfloat16_are_sums_of_float32():
    x, w, g = draw(T, B, D), draw(D, H, seed=1), draw(T, B, H, seed=2)
    _, pullback = jax.vjp(precision.matmul("bf16"), x, w)
    of_x, of_w = pullback(g)
    assert of_x.dtype == of_w.dtype == jnp.float32
    np.testing.assert_allclose(of_x, rounded(g) @ rounded(w).T, rtol=0, atol=1e-5)
    wanted = np.einsum("tbd,tbh->dh", rounded(x), rounded(g))
    np.testing.assert_allclose(of_w, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", cells.names())
def test_kernel_gradients_at_bfloat16_have_more_than_its_bits(name):
    hidden, time, batch = 32, 20, 8
    x = draw(time, batch, D)

    def gradient(precision):
        cell = cells.get(name, hidden=hidden, precision=precision)
        params = cell.init(jax.random.key(0), D)
        weights = draw(time, batch, hidden, seed=1)

        def loss(params):
            return (unroll(cell, params, x)[1] * weights).sum()

        return jax.jit(jax.grad(loss))(params)

    exact, near = gradient("float32"), gradient("bf16")
    for kernel in ("kernel_x", "kernel_h"):
        a, b = np.asarray(exact[kernel]), np.asarray(near[kernel])
        assert b.dtype == np.float32
        assert (rounded(b) == b).mean() < 0.05  # an entry in 2^16 would be so by chance, or a zero
        assert 0 < np.linalg.norm(b - a) < 0.01 * np.linalg.norm(a)


# Under the transformations


AXES = [(0, None), (None, 0), (0, 0), (1, 1), (2, 1), (None, 1)]


@pytest.mark.parametrize("name", ["float32", "bf16"])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_vmap_is_a_loop(axes, name):
    dot, count = precision.matmul(name), 4

    def mapped(shape, axis, seed):
        return (
            draw(*shape, seed=seed)
            if axis is None
            else draw(*shape[:axis], count, *shape[axis:], seed=seed)
        )

    operands = [mapped((T, D), axes[0], 0), mapped((D, H), axes[1], 1)]
    weights = draw(T, H, seed=2)

    def gradient(x, w):
        return jax.grad(lambda x, w: (jnp.sin(dot(x, w)) * weights).sum(), (0, 1))(x, w)

    def of(index):
        pairs = zip(operands, axes, strict=True)
        return [a if axis is None else np.take(a, index, axis) for a, axis in pairs]

    for function in (dot, gradient):
        found = jax.jit(jax.vmap(function, axes))(*operands)
        loop = [function(*of(index)) for index in range(count)]
        wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), found, wanted
        )

    # The other order: the gradient of the mapped product.
    def total(x, w):
        return (jnp.sin(jax.vmap(dot, axes)(x, w)) * weights).sum()

    for found, parts, axis in zip(
        jax.grad(total, (0, 1))(*operands),
        zip(*(gradient(*of(index)) for index in range(count)), strict=True),
        axes,
        strict=True,
    ):
        wanted = sum(parts) if axis is None else jnp.stack(parts, axis)
        rounding = {"float32": 1e-5, "bf16": 0.02}[name]  # of bf16 the sums are rounded elsewhere
        np.testing.assert_allclose(found, wanted, rtol=0, atol=rounding)


def test_two_mapped_axes():
    dot = precision.matmul("bf16")
    x, w = draw(2, 3, T, D), draw(3, 2, D, H, seed=1)
    found = jax.vmap(jax.vmap(dot), (0, 1))(x, w)
    wanted = np.einsum("abtd,badh->abth", rounded(x), rounded(w))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@every_precision
def test_every_order_of_gradient_in_both_modes(name):
    """Of small integers, which bfloat16 holds exactly: the product is bilinear to the last bit."""
    dot = precision.matmul(name)
    rng = np.random.default_rng(0)
    x, w, dx, dw = (rng.integers(-4, 5, s).astype(np.float32) for s in ((T, D), (D, H)) * 2)
    value, tangent = jax.jvp(dot, (x, w), (dx, dw))
    np.testing.assert_array_equal(value, x @ w)
    np.testing.assert_array_equal(tangent, dx @ w + x @ dw)
    for outer, inner in itertools.product((jax.jacfwd, jax.jacrev), repeat=2):
        mixed = outer(inner(lambda x, w: dot(x, w).sum(), 0), 1)(x, w)
        wanted = np.broadcast_to(np.eye(D)[None, :, :, None], (T, D, D, H))
        np.testing.assert_array_equal(mixed, wanted)


# Rows [..., D] and columns H of products that a CPU computes in each of its arrangements.
ARRANGED = [((128,), 512, 512), ((129,), 512, 512), ((8,), 3, 5), ((7, 4), 3, 5), ((2, 7, 4), 3, 5)]


@pytest.mark.parametrize(("rows", "size", "width"), ARRANGED, ids=str)
def test_every_arrangement_is_the_product(rows, size, width, float64):
    """Value, both gradients, and the same inside a scan, against NumPy's."""
    dot = precision.matmul("float32")
    x, w = draw(*rows, size, dtype=np.float64), draw(size, width, seed=1, dtype=np.float64)
    g = draw(*rows, width, seed=2, dtype=np.float64)

    def looped(x, w):
        return jax.lax.scan(lambda total, _: (total + dot(x, w), None), jnp.zeros(g.shape), None, 3)

    for function, times in ((dot, 1), (lambda x, w: looped(x, w)[0], 3)):
        value, pull = jax.jit(lambda x, w, f=function: jax.vjp(f, x, w))(x, w)
        of_x, of_w = jax.jit(lambda pull, g: pull(g))(pull, g)
        np.testing.assert_allclose(value, times * (x @ w), rtol=0, atol=1e-11)
        np.testing.assert_allclose(of_x, times * (g @ w.T), rtol=0, atol=1e-11)
        flat = x.reshape(-1, size).T @ g.reshape(-1, width)
        np.testing.assert_allclose(of_w, times * flat, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_float64_stays_float64(name, float64):
    x, w = draw(T, D, dtype=np.float64), draw(D, H, seed=1, dtype=np.float64)
    dot = precision.matmul(name)
    np.testing.assert_allclose(dot(x, w), x @ w, rtol=0, atol=1e-14)
    check_grads(dot, (x, w), order=2, atol=1e-6, rtol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("bfloat16", "did you mean 'bf16'? there are float32, tf32, bf16"),
        ("BF16", "did you mean 'bf16'?"),
        ("fp32", "did you mean 'tf32'?"),
        ("float23", "did you mean 'float32'?"),
        ("highest", "did you mean 'float32'?"),
        ("int8", "unknown precision 'int8': there are float32, tf32, bf16"),
        (None, "unknown precision None"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, near):
    with pytest.raises(UsageError) as caught:
        precision.matmul(name)
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)
