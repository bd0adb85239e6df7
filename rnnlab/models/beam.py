"""Greedy and beam search over anything that gives the next symbol's log-probabilities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.types import Array


class Continuations(NamedTuple):
    """The K best continuations of each of N beginnings, best first."""

    tokens: Array  # int32 [N, K, T]; behind the end symbol stands the end symbol
    scores: Array  # [N, K], log-probabilities of the continuations; -inf is no continuation at all
    lengths: Array  # int32 [N, K], symbols, the end symbol included


def search(
    advance: Callable[[Any, Array], tuple[Any, Array]],
    state: Any,
    first: Array,
    *,
    length: int,
    width: int,
    end: int | None,
    penalty: float = 0.0,
) -> Continuations:
    """The most probable continuations that a beam of `width` finds; a width of 1 is greedy.

    advance: (state, token int [N K]) -> (state, log_probs [N K, V]). What does not change over time
        it holds itself, each row K times (`repeated`).
    state: a pytree of [N, ...], after all but the last symbol; first: int [N], the last.
    length: T, at most so many symbols are added. end: the symbol after which a continuation is done;
        None: there is none, and all are T long.
    penalty: continuations are ranked by score / ((5 + length) / 6)^penalty (Wu et al. 2016, eq. 14);
        0 ranks by the score, which favours short ones.

    With a width of V^(T - 1) or more and no penalty the result is exact.
    """
    rows = first.shape[0]
    state = repeated(state, width)
    token = repeated(first.astype(jnp.int32), width)
    shapes = jax.eval_shape(advance, state, token)
    size, dtype = shapes[1].shape[1], shapes[1].dtype
    # All beams of a row are the same at first: only one of them may be continued.
    scores = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf).astype(dtype)
    scores = jnp.broadcast_to(scores, (rows, width))
    still = jnp.where(jnp.arange(size) == end, 0.0, -jnp.inf).astype(dtype)  # of what is done
    here = jnp.arange(rows)[:, None]

    def ranks(scores: Array, lengths: Array) -> Array:
        return scores / ((5.0 + lengths) / 6.0).astype(dtype) ** penalty if penalty else scores

    def step(before: Any, _: Any) -> tuple[Any, tuple[Array, Array]]:
        state, token, scores, lengths, done = before
        state, log_probs = advance(state, token)
        log_probs = jnp.where(done[..., None], still, log_probs.reshape(rows, width, size))
        new = scores[..., None] + log_probs  # [N, K, V]
        longer = lengths + (~done).astype(lengths.dtype)
        keys = ranks(new, longer[..., None])
        _, best = lax.top_k(keys.reshape(rows, -1), width)  # [N, K]
        parent, chosen = best // size, (best % size).astype(jnp.int32)
        scores = new.reshape(rows, -1)[here, best]
        place = (here * width + parent).reshape(-1)
        state = jax.tree.map(lambda leaf: leaf[place], state)
        lengths, done = longer[here, parent], done[here, parent]
        if end is not None:
            done |= chosen == end
        return (state, chosen.reshape(-1), scores, lengths, done), (parent, chosen)

    begin = (
        state,
        token,
        scores,
        jnp.zeros((rows, width), jnp.int32),
        jnp.zeros((rows, width), bool),
    )
    (_, _, scores, lengths, _), (parents, tokens) = lax.scan(step, begin, None, length)

    def back(beam: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        parents, tokens = step
        return parents[here, beam], tokens[here, beam]

    last = jnp.broadcast_to(jnp.arange(width), (rows, width))
    _, texts = lax.scan(back, last, (parents, tokens), reverse=True)  # [T, N, K]
    return Continuations(jnp.moveaxis(texts, 0, -1), scores, lengths)


def repeated(tree: Any, width: int) -> Any:
    """Each row of a pytree of [N, ...] `width` times: [N K, ...]."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, width, axis=0), tree)
