"""The semantics of `unroll`: against a loop over one sequence and one step at a time, for every cell.

That a step computes what it should is shown in test_cells.py; here it is taken as given.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax

from rnnlab import cells
from rnnlab.recurrence.unrolling import sqrt_chunk, unroll
from rnnlab.types import Cell

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("strict_dtypes")]

D, H = 3, 4
every_cell = pytest.mark.parametrize("name", cells.names())
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


class Problem(NamedTuple):
    cell: Cell
    params: Any
    x: Any
    carry: Any


@functools.cache
def cell_of(name: str, hidden: int = H, **options: Any) -> Cell:
    return cells.get(name, hidden=hidden, **options)


def problem(
    name, time, batch, size=D, hidden=H, dtype: Any = np.float64, seed=0, **options
) -> Problem:
    cell = cell_of(name, hidden, **options)
    rng = np.random.default_rng(seed)

    def random(tree):
        scale = 2.0 / math.sqrt(hidden)
        return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), dtype), tree)

    params = random(jax.eval_shape(lambda: cell.init(jax.random.key(0), size, dtype)))
    carry = random(jax.eval_shape(lambda: cell.carry(batch, dtype)))
    x = jnp.asarray(rng.normal(size=(time, batch, size)), dtype)
    return Problem(cell, params, x, carry)


def weights_like(tree: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def inner(tree: Any, weights: Any) -> Any:
    return sum(jax.tree.leaves(jax.tree.map(lambda a, w: (a * w).sum(), tree, weights)))


def same(a: Any, b: Any) -> None:
    """Equal to the bit, NaN included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(np.asarray(u), np.asarray(v)), a, b)


def close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=tolerance), a, b)


# The reference: one sequence and one step at a time.


def one_step(cell, params, x, carry):
    return cell.step(params, carry, jax.tree.map(lambda a: a[0], cell.project(params, x)))


compiled_step = jax.jit(one_step, static_argnums=0)


def loop(at: Problem, lengths=None, mask=None, reset=None, reverse=False):
    """What the docstring of `unroll` says, word by word."""
    time, batch = at.x.shape[:2]
    exists = np.ones((time, batch), bool) if mask is None else np.array(mask)
    begins = np.zeros((time, batch), bool) if reset is None else np.asarray(reset)
    if lengths is not None:
        for b, length in enumerate(lengths):
            exists[length:, b] = False
    y, finals = np.zeros((time, batch, at.cell.hidden)), []
    for b in range(batch):
        carry = jax.tree.map(lambda a, b=b: a[b : b + 1], at.carry)
        zero = jax.tree.map(jnp.zeros_like, carry)
        left = False  # reverse: the sequence on the right has been left
        for t in reversed(range(time)) if reverse else range(time):
            if not exists[t, b]:
                continue
            if left or (begins[t, b] and not reverse):
                carry = zero
            carry, out = compiled_step(at.cell, at.params, at.x[t : t + 1, b : b + 1], carry)
            y[t, b] = out[0]
            left = reverse and begins[t, b]
        finals.append(carry)
    return jax.tree.map(lambda *rows: np.concatenate(rows), *finals), y


@functools.partial(jax.jit, static_argnums=(0, 7))
def run(cell, params, x, carry, lengths, mask, reset, reverse):
    return unroll(cell, params, x, carry, lengths=lengths, mask=mask, reset=reset, reverse=reverse)


@st.composite
def situations(draw):
    """A cell, and which steps of a batch exist and which begin a sequence."""
    name = draw(st.sampled_from(cells.names()))
    time, batch = draw(st.sampled_from([(6, 3), (1, 1)]))  # few shapes: each is compiled
    lengths = draw(st.lists(st.integers(0, time + 1), min_size=batch, max_size=batch))
    mask = draw(hnp.arrays(bool, (time, batch)) | st.just(np.ones((time, batch), bool)))
    reset = draw(hnp.arrays(bool, (time, batch)) | st.just(np.zeros((time, batch), bool)))
    at = (name, time, batch, draw(st.integers(0, 9)))
    return at, np.array(lengths), mask, reset, draw(st.booleans())


@settings(max_examples=100)
@given(situations())
def test_it_is_the_loop_over_existing_steps(situation):
    (name, time, batch, seed), lengths, mask, reset, reverse = situation
    with jax.enable_x64(True):
        at = problem(name, time, batch, seed=seed)
        got = run(*at, lengths, mask, reset, reverse)
        close(got, loop(at, lengths, mask, reset, reverse))


@settings(max_examples=50)
@given(situations(), st.randoms(use_true_random=False))
def test_a_permuted_batch_gives_the_permuted_result(situation, random):
    (name, time, batch, seed), lengths, mask, reset, reverse = situation
    order = np.array(random.sample(range(batch), batch))
    with jax.enable_x64(True):
        at = problem(name, time, batch, seed=seed)
        carry, y = run(*at, lengths, mask, reset, reverse)
        moved = at._replace(x=at.x[:, order], carry=jax.tree.map(lambda a: a[order], at.carry))
        flags = (lengths[order], mask[:, order], reset[:, order])
        got = run(*moved, *flags, reverse)
        close(got, (jax.tree.map(lambda a: a[order], carry), y[:, order]))


@settings(max_examples=30)
@given(situations())
def test_a_batch_is_its_sequences_run_apart(situation):
    (_, time, batch, seed), lengths, mask, reset, reverse = situation
    with jax.enable_x64(True):
        at = problem("lstm", time, batch, seed=seed)
        apart = []
        for row in np.arange(batch)[:, None]:
            start = jax.tree.map(lambda a, row=row: a[row], at.carry)
            alone = at._replace(x=at.x[:, row], carry=start)
            apart.append(run(*alone, lengths[row], mask[:, row], reset[:, row], reverse))
        rows = jax.tree.map(lambda *a: jnp.concatenate(a), *(carry for carry, _ in apart))
        y = jnp.concatenate([y for _, y in apart], axis=1)
        close(run(*at, lengths, mask, reset, reverse), (rows, y))


@both_directions
def test_each_flag_alone(reverse, float64):
    at = problem("lstm", 5, 3)
    rng = np.random.default_rng(2)
    flags = {
        "lengths": np.array([5, 0, 2]),
        "mask": rng.random((5, 3)) < 0.6,
        "reset": rng.random((5, 3)) < 0.4,
    }
    for given_flags in ({}, *({name: flag} for name, flag in flags.items())):
        got = jax.jit(functools.partial(unroll, at.cell, reverse=reverse))(
            at.params, at.x, at.carry, **given_flags
        )
        close(got, loop(at, reverse=reverse, **given_flags))


@every_cell
@both_directions
def test_an_empty_sequence_keeps_its_carry(name, reverse):
    at = problem(name, 1, 2, dtype=np.float32)
    carry, y = unroll(*at, lengths=jnp.array([0, 1]), reverse=reverse)
    same(jax.tree.map(lambda a: a[0], carry), jax.tree.map(lambda a: a[0], at.carry))
    assert not y[0, 0].any()
    assert y[0, 1].all()
    assert np.any(carry[0][1] != at.carry[0][1])


def test_no_carry_means_zeros():
    at = problem("lstm", 2, 2, dtype=np.float32)
    zero = at.cell.carry(2)
    same(unroll(at.cell, at.params, at.x), unroll(at.cell, at.params, at.x, zero))


@both_directions
def test_reset_flags_are_separate_sequences(reverse, float64):
    """Packed: 3 + 1 + 3 steps of one row against three runs from a zero state."""
    at = problem("gru", 7, 1)
    reset = np.zeros((7, 1), bool)
    reset[[0, 3, 4]] = True
    carry, y = unroll(*at._replace(carry=None), reset=jnp.asarray(reset), reverse=reverse)
    pieces = [
        unroll(at.cell, at.params, at.x[piece], reverse=reverse)
        for piece in (slice(0, 3), slice(3, 4), slice(4, 7))
    ]
    close(y, jnp.concatenate([y for _, y in pieces]))
    close(carry, pieces[0 if reverse else -1][0])


def test_reverse_resets_across_a_gap(float64):
    """A sequence that ends in padding is left, though no valid step lies beside the next one."""
    at = problem("gru", 5, 1)
    mask = jnp.array([[1], [1], [0], [1], [1]], bool)
    reset = jnp.array([[1], [0], [0], [1], [0]], bool)
    _, y = unroll(*at, mask=mask, reset=reset, reverse=True)
    _, first = unroll(at.cell, at.params, at.x[:2], reverse=True)
    close(y[:2], first)


# Padding


@every_cell
@pytest.mark.parametrize("tokens", [False, True], ids=["vectors", "tokens"])
def test_what_padding_holds_reaches_nothing(name, tokens):
    """Neither an output, nor the loss, nor any gradient changes by a bit; both directions."""
    time, batch = 5, 4
    at = problem(name, time, batch, dtype=np.float32, layer_norm=not tokens)
    lengths, mask = np.array([5, 2, 0, 4]), np.ones((time, batch), bool)
    mask[1, 3] = False
    reset = np.zeros((time, batch), bool)
    reset[[1, 3], [0, 3]] = True
    padding = ~(mask & (np.arange(time)[:, None] < lengths))
    rng = np.random.default_rng(3)
    x = rng.integers(0, D, (time, batch)).astype(np.int32) if tokens else np.asarray(at.x)
    outputs = jax.eval_shape(lambda: unroll(*at))
    weights = weights_like((outputs, outputs))

    def loss(params, x, carry):
        flags = {"lengths": lengths, "mask": mask, "reset": reset}
        both = tuple(unroll(at.cell, params, x, carry, **flags, reverse=r) for r in (False, True))
        return inner(both, weights), both

    with_respect_to = (0, 2) if tokens else (0, 1, 2)
    gradient = jax.jit(jax.value_and_grad(loss, with_respect_to, has_aux=True))
    wanted = gradient(at.params, x, at.carry)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    if not tokens:
        by_x = np.asarray(wanted[1][1])
        assert not by_x[padding].any()
        assert by_x[~padding].all()
    wild: tuple[Any, ...] = (np.nan, np.inf, -np.inf, 3e38)
    if tokens:
        wild = (D, -1, 2**31 - 1, -(2**31))
    for content in wild:
        poisoned = np.where(padding[..., None] if x.ndim == 3 else padding, content, x)
        same(gradient(at.params, poisoned.astype(x.dtype), at.carry), wanted)


# Time


@every_cell
@both_directions
def test_causality(name, reverse, float64):
    """y[t] depends on x[s] for every s on its side of t and in its sequence, and on no other."""
    time = 5
    at = problem(name, time, 1)

    @jax.jit
    def influence(reset):
        def outputs(x):
            return unroll(at.cell, at.params, x, at.carry, reset=reset, reverse=reverse)[1]

        jacobian = jax.jacrev(outputs)(at.x)  # [T, 1, H, T, 1, D]
        return jnp.abs(jacobian).max((1, 2, 4, 5))

    before = np.tril(np.ones((time, time), bool))
    reaches = before.T if reverse else before
    np.testing.assert_array_equal(influence(np.zeros((time, 1), bool)) != 0, reaches)
    reset = np.array([[0], [0], [1], [0], [0]], bool)
    number = np.cumsum(reset)
    reaches &= number[:, None] == number[None, :]
    np.testing.assert_array_equal(influence(reset) != 0, reaches)


@pytest.mark.parametrize(
    ("tokens", "hidden", "batch", "time", "window"),
    [(True, 4, 3, 6, 2), (True, 128, 16, 64, 16), (False, 32, 32, 6, 2), (False, 128, 16, 64, 16)],
)
@every_cell
def test_windows_with_a_carried_state_are_the_whole(name, tokens, hidden, batch, time, window):
    """To the bit, in float32, compiled as it is in use.

    For vectors this needs windows of 64 rows (T B) or more: below, the projection's GEMM may sum in
    another order. A GPU's library chooses by size as well, so there the promise is for tokens only.
    """
    at = problem(name, time, batch, size=hidden, hidden=hidden, dtype=np.float32)
    x = at.x
    if tokens:
        x = jnp.asarray(np.random.default_rng(4).integers(0, hidden, (time, batch)), jnp.int32)
    forward = jax.jit(functools.partial(unroll, at.cell))
    carry, ys = at.carry, []
    for start in range(0, time, window):
        carry, y = forward(at.params, x[start : start + window], carry)
        ys.append(y)
    exact = tokens or jax.default_backend() == "cpu"
    equal = same if exact else functools.partial(close, tolerance=1e-5)
    equal((carry, jnp.concatenate(ys)), forward(at.params, x, at.carry))


@every_cell
def test_truncated_backpropagation(name, float64):
    """Windows whose carry is a constant, as in training, against one graph with the carry stopped
    there; windows of T or more steps against the full gradient."""
    time = 6
    at = problem(name, time, 2)
    weights = weights_like(jax.eval_shape(lambda: unroll(*at)[1]))

    @jax.jit
    def reference(params, stopped):
        def loss(params):
            carry, total = at.carry, 0.0
            for t in range(time):
                held = lax.stop_gradient(carry)
                carry = jax.tree.map(lambda a, b, t=t: jnp.where(stopped[t], a, b), held, carry)
                carry, y = one_step(at.cell, params, at.x[t : t + 1], carry)
                total += (y * weights[t]).sum()
            return total

        return jax.value_and_grad(loss)(params)

    @jax.jit
    def window_gradient(params, x, weights, carry):
        def loss(params):
            new, y = unroll(at.cell, params, x, lax.stop_gradient(carry))
            return (y * weights).sum(), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    full = reference(at.params, np.zeros(time, bool))
    for window in (2, 4, time, time + 2):
        carry, parts = at.carry, []
        for start in range(0, time, window):
            piece = slice(start, start + window)
            (loss, carry), gradient = window_gradient(at.params, at.x[piece], weights[piece], carry)
            parts.append((loss, gradient))
        got = jax.tree.map(lambda *a: sum(a), *parts)
        close(got, reference(at.params, np.arange(time) % window == 0))
        difference = np.abs(got[1]["kernel_h"] - full[1]["kernel_h"]).max()
        assert difference <= 1e-12 if window >= time else difference > 1e-3


# Chunks

NOISY = {"recurrent_dropout": 0.3, "recurrent_dropout_on": "state", "zoneout": 0.2}


@functools.cache
def chunked(name: str, chunk: int, reverse: bool):
    """Outputs and all gradients of a noisy cell with lengths and resets."""
    time, batch = 7, 3
    at = problem(name, time, batch, hidden=3, **NOISY)
    reset = np.zeros((time, batch), bool)
    reset[[2, 4], [0, 1]] = True
    weights = weights_like(jax.eval_shape(lambda: unroll(*at)))

    def loss(params, x, carry, key):
        flags = {"lengths": np.array([7, 5, 0]), "reset": reset, "reverse": reverse, "key": key}
        outputs = unroll(at.cell, params, x, carry, **flags, chunk=chunk)
        return inner(outputs, weights), outputs

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    return gradient(at.params, at.x, at.carry, jax.random.key(5))


@both_directions
@pytest.mark.parametrize("chunk", [1, 2, 3, 6, 7, 12])
def test_chunks_are_the_whole(chunk, reverse, float64):
    close(chunked("rnn", chunk, reverse), chunked("rnn", 0, reverse))


@pytest.mark.parametrize("name", [name for name in cells.names() if name != "rnn"])
def test_chunks_of_every_cell(name, float64):
    close(chunked(name, 3, True), chunked(name, 0, True))


def test_sqrt_chunk():
    for time in range(1, 200):
        assert sqrt_chunk(time) == math.ceil(math.sqrt(time))
    assert sqrt_chunk(0) == 1


@pytest.mark.slow
def test_memory_grows_with_the_root_of_time():
    """Four times the steps: twice the memory in chunks, four times without."""

    def kept(time: int, chunk: int) -> int:
        at = jax.eval_shape(lambda: problem("lstm", time, 8, hidden=16, dtype=np.float32)[1:])

        def loss(params, x, carry):
            final, _ = unroll(cell_of("lstm", 16), params, x, carry, chunk=chunk)
            return final.h.sum()

        memory = jax.jit(jax.grad(loss)).lower(*at).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    short, long = (kept(time, sqrt_chunk(time)) for time in (1024, 4096))
    short_plain, long_plain = (kept(time, 0) for time in (1024, 4096))
    assert long <= 2.5 * short
    assert long_plain >= 3.5 * short_plain
    assert 5 * long <= long_plain


# A cell that owes nothing to rnnlab.cells.parts


class Tally(NamedTuple):
    memory: dict[str, Any]  # sum [B, H], outer [B, H, H]
    count: Any  # int [B]


def tally_cell(hidden: int) -> Cell:
    """A leaky sum with a carry of mixed ranks and types."""

    def carry(batch, dtype=jnp.float32):
        memory = {
            "sum": jnp.zeros((batch, hidden), dtype),
            "outer": jnp.zeros((batch, hidden, hidden), dtype),
        }
        return Tally(memory, jnp.zeros((batch,), jnp.int32))

    def step(params, carry, z):
        leak = jnp.expand_dims(params["leak"], 0)
        total = leak * carry.memory["sum"] + z
        outer = carry.memory["outer"] + total[:, :, None] * total[:, None, :]
        count = carry.count + 1
        y = total + outer.sum(-1) + count[:, None].astype(total.dtype)
        return Tally({"sum": total, "outer": outer}, count), y

    return Cell(
        name="tally",
        hidden=hidden,
        init=lambda key, input_size, dtype=jnp.float32: {"leak": jnp.full(hidden, 0.5, dtype)},
        carry=carry,
        noise=lambda key, time, batch: None,
        project=lambda params, x, noise=None: 2.0 * x,
        step=step,
    )


@both_directions
@pytest.mark.parametrize("chunk", [0, 3])
def test_a_cell_of_ones_own(reverse, chunk):
    """`unroll` asks for no more than the contract; it broadcasts nothing by accident."""
    cell = tally_cell(2)
    time, batch = 7, 3
    x = jnp.asarray(np.random.default_rng(6).normal(size=(time, batch, 2)), jnp.float32)
    params = cell.init(jax.random.key(0), 2)
    start = jax.tree.map(lambda a: a + jnp.ones((), a.dtype), cell.carry(batch))
    lengths = jnp.array([7, 4, 0])
    reset = jnp.zeros((time, batch), bool).at[2].set(True)
    with jax.numpy_rank_promotion("raise"):
        got = unroll(
            cell, params, x, start, lengths=lengths, reset=reset, reverse=reverse, chunk=chunk
        )
    close(got, loop(Problem(cell, params, x, start), lengths, None, reset, reverse), 1e-4)
    # Steps since the state was zeroed; the empty row keeps the 1 it started with.
    assert got[0].count.tolist() == ([2, 2, 1] if reverse else [5, 2, 1])
