"""Text from a model: drawn with a temperature, top-k and nucleus, chosen greedily, or by beam search.

The generating loop is one compiled scan, called again for each piece of the text; temperature,
top_k, top_p and seed are values it receives, so that changing them compiles nothing. Evaluation
only: nothing here hands the model a PRNG key, so no dropout is on.

Text goes in and comes out as tokens.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.errors import UsageError
from rnnlab.models import beam
from rnnlab.types import Array, Carry, Model, Params

MOST_TEXTS = 2**20  # at once
MOST_CHARACTERS = 2**28  # of several texts


class Knobs(NamedTuple):
    """How a token is chosen from its logits; traced scalars."""

    temperature: Any  # 0 is greedy
    top_k: Any  # 0 is off
    top_p: Any  # 1 is off


class State(NamedTuple):
    """Where S texts have come to."""

    carry: Carry
    token: Array  # [S] the last one, which the model has not seen yet
    keys: Array  # [S] a key for each text; never advanced, each character folds its position in
    position: Array  # characters generated so far


def generate(
    model: Model,
    params: Params,
    prime: Any,
    *,
    length: int,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    chunk: int = 64,
) -> Iterator[np.ndarray]:
    """Continue a text, in pieces as they are made.

    prime: the tokens before the first generated one, int [P] for all texts or [P, count] with one
        column a text; P >= 1.
    length: characters to generate for each text; count: S, the number of texts.
    temperature: the logits are divided by it; 0 chooses the most probable token (the lowest of
        several equal ones) whatever the seed.
    top_k: keep the k most probable tokens; 0, or V and more, keeps all.
    top_p: keep the smallest set of most probable tokens whose probabilities sum to at least p
        (nucleus sampling, Holtzman et al. 2020); 1 keeps all. The most probable one always stays.
        Temperature comes first, then top-k, then top-p on what top-k has left, renormalised. Of
        equally probable tokens the lower ones come first.
    seed: the random number for character i of text n depends on (seed, n, i) alone.
    chunk: characters a piece.

    Returns an iterator of int32 [chunk, S], the last piece shorter; the prime is not repeated.
    The same arguments give the same text on one machine, in whatever pieces. Text n of 4 and text
    n of 8 use the same random numbers, but matrix products over another number of rows may differ
    in the last bits: where that tips a choice, the two texts part.

    Raises UsageError, before anything is generated, for values out of range and for a model that
    reads its text in both directions.
    """
    check_counts(length=length, count=count, chunk=chunk)
    _check_model(model)
    if not 0.0 <= temperature < math.inf:
        raise UsageError(f"temperature must be a finite number of at least 0, got {temperature}")
    if top_k < 0:
        raise UsageError(f"top_k must be at least 0 (0 keeps all), got {top_k}")
    if not 0.0 < top_p <= 1.0:
        raise UsageError(f"top_p must be above 0 and at most 1 (1 keeps all), got {top_p}")
    check_seed(seed)
    first = as_columns(prime, count)
    # The bounds are far beyond sense, and within float32 and int32.
    knobs = Knobs(
        np.float32(min(temperature, 1e30)), np.int32(min(top_k, 2**31 - 1)), np.float32(top_p)
    )
    steps = min(chunk, length)

    def pieces() -> Iterator[np.ndarray]:
        state = _start(model, params, first, np.uint32(seed))
        for begin in range(0, length, steps):
            state, tokens = _extend(model, params, state, knobs, steps=steps)
            yield np.asarray(tokens)[: length - begin]

    return pieces()


def beam_search(
    model: Model, params: Params, prime: Any, *, length: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable continuations that a beam of `width` finds.

    prime: int [P], P >= 1. After each character the `width` most probable texts so far are kept;
    with a width of V^(length - 1) or more the result is exact. All texts are equally long, so no
    length penalty is needed. The likeliest text is seldom a typical one: a wide beam repeats itself
    (Holtzman et al. 2020).

    Returns (tokens int32 [width, length], log_probs [width]), best first; log_probs are the natural
    logarithms of the probability of the whole continuation. There are fewer rows where fewer texts
    are possible.

    Raises UsageError for a length or width below 1 and for a model that reads its text in both
    directions.
    """
    check_counts(length=length, width=width)
    _check_model(model)
    first = as_columns(prime, 1)
    tokens, scores = _search(model, params, first, length=length, width=width)
    found = np.asarray(scores)
    possible = found > -np.inf
    return np.asarray(tokens)[possible], found[possible]


# Checks


def check_counts(**values: int) -> None:
    """Raises UsageError for counts, widths or lengths below 1, or more than fit into memory."""
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    # Each text has a key, a state and a column of its own. One text alone may be of any length: it is
    # written as it is made.
    several = values.get("count", values.get("width", 1))
    if several > MOST_TEXTS:
        name = "count" if "count" in values else "width"
        raise UsageError(f"{name} must be at most {MOST_TEXTS}, got {several}")
    if several > 1 and several * values.get("length", 1) > MOST_CHARACTERS:
        raise UsageError(
            f"{several} texts of length {values['length']} are more than fit into memory: lower one"
        )


def check_seed(seed: int) -> None:
    """Raises UsageError for a seed that no 32 bits hold."""
    # JAX would take 2^32 for 0.
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to {2**32 - 1}, got {seed}")


def _check_model(model: Model) -> None:
    if not model.causal:
        raise UsageError(
            "a bidirectional model cannot generate text: it reads each character's future; "
            "train one with model.bidirectional=False"
        )


def as_columns(prime: Any, count: int) -> np.ndarray:
    """`prime` [P] or [P, count] as int32 [P, count]. Raises UsageError if it is empty."""
    tokens = np.asarray(prime, np.int32)
    if not tokens.size:
        raise UsageError("the prime is empty: it must have at least one character")
    if tokens.ndim == 1:
        tokens = tokens[:, None]
    return np.ascontiguousarray(np.broadcast_to(tokens, (len(tokens), count)))


# The compiled parts. A model is a tuple of functions, hashed by identity: one compilation a model.


def _read(model: Model, params: Params, prime: Array) -> Carry:
    """The carry after all of `prime` [P, S] but its last row."""
    carry = model.carry(prime.shape[1], jax.tree.leaves(params)[0].dtype)
    if prime.shape[0] > 1:
        carry, _ = model.apply(params, carry, prime[:-1])
    return carry


def _next(model: Model, params: Params, carry: Carry, token: Array) -> tuple[Carry, Array]:
    """(carry, logits [S, V]) after one more token [S]; the logits in float32 at least."""
    carry, logits = model.apply(params, carry, token[None])
    return carry, logits[0].astype(jnp.float32) if logits.dtype.itemsize < 4 else logits[0]


@functools.partial(jax.jit, static_argnums=0)
def _start(model: Model, params: Params, prime: Array, seed: Array) -> State:
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return State(
        carry=_read(model, params, prime),
        token=prime[-1],
        keys=fold(jax.random.key(seed), jnp.arange(prime.shape[1])),
        position=jnp.zeros((), jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames="steps")
def _extend(
    model: Model, params: Params, state: State, knobs: Knobs, *, steps: int
) -> tuple[State, Array]:
    """The state `steps` characters later, and they, int32 [steps, S]."""

    def advance(state: State, _: None) -> tuple[State, Array]:
        carry, logits = _next(model, params, state.carry, state.token)
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.position)
        uniform = jax.vmap(functools.partial(jax.random.uniform, dtype=logits.dtype))(keys)
        token = _choose(logits, uniform, knobs)
        return State(carry, token, state.keys, state.position + 1), token

    return lax.scan(advance, state, None, length=steps)


def _choose(logits: Array, uniform: Array, knobs: Knobs) -> Array:
    """A token int32 [S] for each row of `logits` [S, V]; `uniform` [S] in [0, 1) decides."""
    size, smallest = logits.shape[1], jnp.finfo(logits.dtype).tiny
    temperature = jnp.asarray(knobs.temperature, logits.dtype)
    greedy = temperature < smallest
    divisor = jnp.maximum(temperature, smallest)

    def weigh(logits: Array) -> Array:
        # The largest becomes 0 before the division, so that no temperature makes an infinity of it.
        return jnp.exp((logits - logits.max(-1, keepdims=True)) / divisor)

    def all_of_them() -> tuple[Array, Array]:
        tokens = jnp.arange(size, dtype=jnp.int32)
        return weigh(logits), jnp.broadcast_to(tokens, logits.shape)

    def most_probable() -> tuple[Array, Array]:
        # top_k puts the lower of two equal ones first, as argmax does.
        ranked, tokens = lax.top_k(logits, size)
        return _restrict(weigh(ranked), knobs), tokens

    # A condition and no selection: without the filters there is no sorting to pay for.
    filtered = (knobs.top_k > 0) & (knobs.top_k < size) | (knobs.top_p < 1.0)
    weights, tokens = lax.cond(filtered, most_probable, all_of_them)
    # The sums are 0 where the weight is 0: rounding must not choose what has no probability.
    sums = jnp.where(weights > 0.0, jnp.cumsum(weights, axis=-1), 0.0)
    place = jnp.argmax(sums > uniform[:, None] * sums.max(-1, keepdims=True), axis=-1)
    drawn = jnp.take_along_axis(tokens, place[:, None], axis=-1)[:, 0]
    return jnp.where(greedy, jnp.argmax(logits, axis=-1).astype(jnp.int32), drawn)


def _restrict(weights: Array, knobs: Knobs) -> Array:
    """`weights` [S, V], the largest first, with zeros beyond top_k and top_p."""
    rank = jnp.arange(weights.shape[1], dtype=jnp.int32)
    weights = jnp.where((knobs.top_k == 0) | (rank < knobs.top_k), weights, 0.0)
    sums = jnp.cumsum(weights, axis=-1)
    before = jnp.pad(sums[:, :-1], ((0, 0), (1, 0)))
    enough = jnp.asarray(knobs.top_p, weights.dtype) * sums[:, -1:]
    return jnp.where(before < enough, weights, 0.0)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("length", "width"))
def _search(
    model: Model, params: Params, prime: Array, *, length: int, width: int
) -> tuple[Array, Array]:
    """(tokens int32 [K, length], scores [K]); a score of -inf is no text at all."""

    def advance(carry: Carry, token: Array) -> tuple[Carry, Array]:
        carry, logits = _next(model, params, carry, token)
        return carry, jax.nn.log_softmax(logits)

    found = beam.search(
        advance, _read(model, params, prime), prime[-1], length=length, width=width, end=None
    )
    return found.tokens[0], found.scores[0]
