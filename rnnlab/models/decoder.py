"""A recurrent decoder: symbols out of a summary, with or without attention over a memory.

    params = {"embedding": [V, E], "bridge": {...}, "stack": {...}, "keys"?: ..., "combine": {...},
              "readout": {"kernel": [C, V]?, "bias": [V]}}

The stack of cells is a `Model` whose outputs are the queries q_t. Two kinds of attention:

    luong     score(q_t, m_s) = q_t . (W m_s), after the stack (Luong et al. 2015, "general", without
              input feeding). All steps of a known text run at once, by the fast path.
    bahdanau  score(s_{t-1}, m_s) = v . tanh(U s_{t-1} + W m_s), before the stack, which reads the
              context beside the symbol (Bahdanau et al. 2015). One step after the other.

Either way the next symbol is read from tanh(C [context; q_t]) (Luong, eq. 5).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.cells.parts import initialisers
from rnnlab.cells.parts.precision import matmul
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.types import Array, Config, Params

ATTENTIONS = ("none", "luong", "bahdanau")


class Memory(NamedTuple):
    """What a decoder attends over; () without attention. Every leaf is [B, ...]."""

    values: Any  # [B, S, M]
    keys: Any  # [B, S, A]
    there: Any  # bool [B, S], which places exist


class Decoder(NamedTuple):
    """Pure functions of a dict pytree."""

    init: Callable[..., Params]  # (key, dtype) -> params
    # (params, summary [B, W], memory [S, B, M] | None, there bool [S, B] | None) -> (memory, state)
    start: Callable[..., tuple[Any, Any]]
    # (params, memory, state, tokens int [T, B], key, own) -> (logits [T, B, V], weights). own: the
    # probability that a step reads a draw from the decoder's own prediction instead of its token
    # (scheduled sampling, Bengio et al. 2015); None for 0. weights [T, B, S] of attention, or None.
    teach: Callable[..., tuple[Array, Any]]
    # (params, memory, state, token int [B]) -> (state, logits [B, V], weights [B, S] or None)
    advance: Callable[..., tuple[Any, Array, Any]]


def make_decoder(
    config: Config,
    *,
    vocabulary: int,
    summary: int,
    memory: int = 0,
    values: dict[str, Any] | None = None,
    attention: str,
    size: int,
    embedding: int,
    tied: bool,
) -> Decoder:
    """The decoder of `config.model`.

    vocabulary: V; summary: W, the width of what the first state is made of, by a dense layer and a
        tanh for each of its parts; memory: M, the width of what is attended over.
    values: take the place of the config's own, by dotted key; see `model.from_config`.
    attention: of ATTENTIONS. size: A and C, of queries, keys and of what the readout sees.
    embedding: E; tied: the readout's kernel is the embedding table (then `size` must be E).

    Raises UsageError for values that do not fit together.
    """
    if attention not in ATTENTIONS:
        raise UsageError(
            f"decoder.attention must be one of {', '.join(ATTENTIONS)}, got '{attention}'"
        )
    if attention != "none" and not memory:
        raise UsageError(f"decoder.attention is '{attention}', and there is nothing to attend over")
    if min(size, embedding) < 1:
        raise UsageError("decoder.size and decoder.embedding must be at least 1")
    if tied and size != embedding:
        raise UsageError(
            f"decoder.tied needs decoder.size to be decoder.embedding, {embedding}, and not {size}"
        )
    feeds = attention == "bahdanau"
    looks = attention != "none"
    net = stack.from_config(
        config,
        input_size=embedding + memory * feeds,
        output_size=size,
        real=True,
        values=values,
    )
    precision = (values or {}).get("model.precision", config.model.precision)
    rate = (values or {}).get("model.output_dropout", config.model.output_dropout)
    dot = matmul(precision)
    exact = jax.lax.Precision.HIGHEST if precision == "float32" else jax.lax.Precision.DEFAULT
    einsum = functools.partial(jnp.einsum, precision=exact)
    # The state before any step, to know its parts.
    blank = jax.eval_shape(lambda: net.carry(1))
    widths = [leaf.shape[-1] for leaf in jax.tree.leaves(blank)]
    top = sum(leaf.shape[-1] for leaf in jax.tree.leaves(blank[-1]))

    def init(key: Array, dtype: Any = jnp.float32) -> Params:
        keys = iter(jax.random.split(key, 8 + len(widths)))
        glorot = initialisers.from_spec("glorot_uniform")

        def dense(inputs: int, outputs: int) -> dict[str, Array]:
            kernel = glorot(next(keys), (inputs, outputs), dtype)
            return {"kernel": kernel, "bias": jnp.zeros(outputs, dtype)}

        params: dict[str, Any] = {
            "embedding": jax.random.normal(next(keys), (vocabulary, embedding), dtype)
            * embedding**-0.5,
            "stack": net.init(next(keys), dtype),
            "bridge": [dense(summary, width) for width in widths],
            "combine": dense(size + memory * looks, size),
            "readout": {"bias": jnp.zeros(vocabulary, dtype)},
        }
        if looks:
            params["keys"] = dense(memory, size)
        if feeds:
            params["query"] = dense(top, size)
            params["score"] = glorot(next(keys), (size, 1), dtype)[:, 0]
        if not tied:
            params["readout"]["kernel"] = glorot(next(keys), (size, vocabulary), dtype)
        return params

    def through(layer: dict[str, Array], x: Array) -> Array:
        return dot(x, layer["kernel"]) + layer["bias"]

    def start(
        params: Params, summary: Array, memory: Array | None = None, there: Array | None = None
    ) -> tuple[Any, Any]:
        shape = jax.eval_shape(lambda: net.carry(summary.shape[0], summary.dtype))
        leaves = [jnp.tanh(through(layer, summary)) for layer in params["bridge"]]
        state = jax.tree.unflatten(jax.tree.structure(shape), leaves)
        if not looks:
            return (), state
        assert memory is not None
        kept = jnp.swapaxes(memory, 0, 1)  # [B, S, M]
        exists = jnp.ones(kept.shape[:2], bool) if there is None else jnp.swapaxes(there, 0, 1)
        return Memory(kept, through(params["keys"], kept), exists), state

    def weigh(scores: Array, there: Array) -> Array:
        scores = jnp.where(there, scores, jnp.finfo(scores.dtype).min)
        return jax.nn.softmax(scores, axis=-1)

    def drop(key: Array | None, x: Array) -> Array:
        if key is None or not (isinstance(rate, jax.Array) or rate > 0):
            return x
        return jnp.where(parts.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)

    def read(params: Params, context: Any, query: Array, key: Array | None) -> Array:
        both = query if context is None else jnp.concatenate([context, query], axis=-1)
        combined = drop(key, jnp.tanh(through(params["combine"], both)))
        kernel = params["embedding"].T if tied else params["readout"]["kernel"]
        return dot(combined, kernel) + params["readout"]["bias"]

    def embed(params: Params, tokens: Array) -> Array:
        return jnp.take(params["embedding"], tokens, axis=0, mode="clip")

    def split(key: Array | None) -> tuple[Any, Any]:
        return (None, None) if key is None else tuple(jax.random.split(key))

    def one(
        params: Params, memory: Any, state: Any, token: Array, key: Array | None
    ) -> tuple[Any, Array, Any]:
        """One step, token [B]."""
        x = embed(params, token)
        key_stack, key_read = split(key)
        context = weights = None
        if feeds:
            before = jnp.concatenate(jax.tree.leaves(state[-1]), axis=-1)
            hidden = jnp.tanh(through(params["query"], before)[:, None] + memory.keys)
            weights = weigh(einsum("bsa,a->bs", hidden, params["score"]), memory.there)
            context = einsum("bs,bsm->bm", weights, memory.values)
            x = jnp.concatenate([x, context], axis=-1)
        state, query = net.apply(params["stack"], state, x[None], key=key_stack)
        query = query[0]
        if looks and not feeds:
            weights = weigh(einsum("ba,bsa->bs", query, memory.keys), memory.there)
            context = einsum("bs,bsm->bm", weights, memory.values)
        return state, read(params, context, query, key_read), weights

    def advance(params: Params, memory: Any, state: Any, token: Array) -> tuple[Any, Array, Any]:
        return one(params, memory, state, token, None)

    def stepwise(
        params: Params, memory: Any, state: Any, tokens: Array, key: Any, own: Any
    ) -> tuple[Array, Any]:
        def step(before: Any, given: tuple[Array, Array]) -> Any:
            state, drawn = before
            token, number = given
            if own is None:
                at = None if key is None else jax.random.fold_in(key, number)
                state, logits, weights = one(params, memory, state, token, at)
                return (state, drawn), (logits, weights)
            at, key_coin, key_draw = jax.random.split(jax.random.fold_in(key, number), 3)
            coin = jax.random.uniform(key_coin, token.shape) < own
            token = jnp.where(coin & (number > 0), drawn, token)
            state, logits, weights = one(params, memory, state, token, at)
            drawn = jax.random.categorical(key_draw, jax.lax.stop_gradient(logits))
            return (state, drawn.astype(token.dtype)), (logits, weights)

        numbers = jnp.arange(len(tokens))
        return jax.lax.scan(step, (state, tokens[0]), (tokens, numbers))[1]

    def teach(
        params: Params,
        memory: Any,
        state: Any,
        tokens: Array,
        key: Array | None = None,
        own: Any = None,
    ) -> tuple[Array, Any]:
        if feeds or own is not None:
            return stepwise(params, memory, state, tokens, key, own)
        key_stack, key_read = split(key)
        _, query = net.apply(params["stack"], state, embed(params, tokens), key=key_stack)
        context = weights = None
        if looks:
            scores = einsum("tba,bsa->tbs", query, memory.keys)
            weights = weigh(scores, memory.there)
            context = einsum("tbs,bsm->tbm", weights, memory.values)
        return read(params, context, query, key_read), weights

    return Decoder(init, start, teach, advance)
