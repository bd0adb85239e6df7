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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.cells import parts
from rnnlab.cells.parts import initialisers
from rnnlab.cells.parts.precision import matmul
from rnnlab.errors import UsageError
from rnnlab.models import configured
from rnnlab.types import Array, Config, Model, Params

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
    values: take the place of the config's own, by dotted key; see `configured.model_of`.
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
    net = configured.model_of(
        config,
        input_size=embedding + memory * (attention == "bahdanau"),
        output_size=size,
        real=True,
        values=values,
    )
    made = RecurrentDecoder(
        net=net,
        vocabulary=vocabulary,
        summary=summary,
        memory=memory,
        attention=attention,
        size=size,
        embedding=embedding,
        tied=tied,
        precision=(values or {}).get("model.precision", config.model.precision),
        output_dropout=(values or {}).get("model.output_dropout", config.model.output_dropout),
    )
    return Decoder(made.init, made.start, made.teach, made.advance)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecurrentDecoder:
    """What `make_decoder` was asked for; the methods are the functions of the `Decoder`, all pure."""

    net: Model  # the stack of cells; its outputs are the queries
    vocabulary: int  # V
    summary: int  # W
    memory: int  # M
    attention: str
    size: int  # A and C
    embedding: int  # E
    tied: bool
    precision: str
    output_dropout: float | Array

    @property
    def looks(self) -> bool:
        """Whether there is attention."""
        return self.attention != "none"

    @property
    def feeds(self) -> bool:
        """Whether the stack reads the context, so that one step must follow the other."""
        return self.attention == "bahdanau"

    def init(self, key: Array, dtype: Any = jnp.float32) -> Params:
        """The parameters, as the head of this file says."""
        size, embedding = self.size, self.embedding
        blank = jax.eval_shape(lambda: self.net.carry(1))  # to know the parts of the state
        widths = [leaf.shape[-1] for leaf in jax.tree.leaves(blank)]
        top = sum(leaf.shape[-1] for leaf in jax.tree.leaves(blank[-1]))
        keys = iter(jax.random.split(key, 8 + len(widths)))
        glorot = initialisers.from_spec("glorot_uniform")

        def dense(inputs: int, outputs: int) -> dict[str, Array]:
            kernel = glorot(next(keys), (inputs, outputs), dtype)
            return {"kernel": kernel, "bias": jnp.zeros(outputs, dtype)}

        params: dict[str, Any] = {
            "embedding": jax.random.normal(next(keys), (self.vocabulary, embedding), dtype)
            * embedding**-0.5,
            "stack": self.net.init(next(keys), dtype),
            "bridge": [dense(self.summary, width) for width in widths],
            "combine": dense(size + self.memory * self.looks, size),
            "readout": {"bias": jnp.zeros(self.vocabulary, dtype)},
        }
        if self.looks:
            params["keys"] = dense(self.memory, size)
        if self.feeds:
            params["query"] = dense(top, size)
            params["score"] = glorot(next(keys), (size, 1), dtype)[:, 0]
        if not self.tied:
            params["readout"]["kernel"] = glorot(next(keys), (size, self.vocabulary), dtype)
        return params

    def start(
        self,
        params: Params,
        summary: Array,
        memory: Array | None = None,
        there: Array | None = None,
    ) -> tuple[Any, Any]:
        """(what is attended over, the state before the first step); see `Decoder`."""
        shape = jax.eval_shape(lambda: self.net.carry(summary.shape[0], summary.dtype))
        leaves = [jnp.tanh(self.dense(layer, summary)) for layer in params["bridge"]]
        state = jax.tree.unflatten(jax.tree.structure(shape), leaves)
        if not self.looks:
            return (), state
        assert memory is not None
        kept = jnp.swapaxes(memory, 0, 1)  # [B, S, M]
        exists = jnp.ones(kept.shape[:2], bool) if there is None else jnp.swapaxes(there, 0, 1)
        return Memory(kept, self.dense(params["keys"], kept), exists), state

    def teach(
        self,
        params: Params,
        memory: Any,
        state: Any,
        tokens: Array,
        key: Array | None = None,
        own: Any = None,
    ) -> tuple[Array, Any]:
        """(logits [T, B, V], weights [T, B, S] or None) over a known text; see `Decoder`."""
        if self.feeds or own is not None:
            return self.step_by_step(params, memory, state, tokens, key, own)
        key_stack, key_read = _split(key)
        x = self.embedded(params, tokens)
        _, query = self.net.apply(params["stack"], state, x, key=key_stack)
        context = weights = None
        if self.looks:
            scores = self.einsum("tba,bsa->tbs", query, memory.keys)
            weights = _attention_weights(scores, memory.there)
            context = self.einsum("tbs,bsm->tbm", weights, memory.values)
        return self.read(params, context, query, key_read), weights

    def step_by_step(
        self, params: Params, memory: Any, state: Any, tokens: Array, key: Any, own: Any
    ) -> tuple[Array, Any]:
        """`teach` where a step needs the one before it: for its context, or for its own draw."""

        def step(before: Any, given: tuple[Array, Array]) -> Any:
            state, drawn = before
            token, number = given
            if own is None:
                at = None if key is None else jax.random.fold_in(key, number)
                state, logits, weights = self.step(params, memory, state, token, at)
                return (state, drawn), (logits, weights)
            at, key_coin, key_draw = jax.random.split(jax.random.fold_in(key, number), 3)
            coin = jax.random.uniform(key_coin, token.shape) < own
            token = jnp.where(coin & (number > 0), drawn, token)
            state, logits, weights = self.step(params, memory, state, token, at)
            drawn = jax.random.categorical(key_draw, jax.lax.stop_gradient(logits))
            return (state, drawn.astype(token.dtype)), (logits, weights)

        numbers = jnp.arange(len(tokens))
        return jax.lax.scan(step, (state, tokens[0]), (tokens, numbers))[1]

    def advance(
        self, params: Params, memory: Any, state: Any, token: Array
    ) -> tuple[Any, Array, Any]:
        """(state, logits [B, V], weights [B, S] or None) after one more token [B], in evaluation."""
        return self.step(params, memory, state, token, None)

    def step(
        self, params: Params, memory: Any, state: Any, token: Array, key: Array | None
    ) -> tuple[Any, Array, Any]:
        """`advance`, with dropout if there is a key."""
        x = self.embedded(params, token)
        key_stack, key_read = _split(key)
        context = weights = None
        if self.feeds:
            before = jnp.concatenate(jax.tree.leaves(state[-1]), axis=-1)
            hidden = jnp.tanh(self.dense(params["query"], before)[:, None] + memory.keys)
            scores = self.einsum("bsa,a->bs", hidden, params["score"])
            weights = _attention_weights(scores, memory.there)
            context = self.einsum("bs,bsm->bm", weights, memory.values)
            x = jnp.concatenate([x, context], axis=-1)
        state, query = self.net.apply(params["stack"], state, x[None], key=key_stack)
        query = query[0]
        if self.looks and not self.feeds:
            scores = self.einsum("ba,bsa->bs", query, memory.keys)
            weights = _attention_weights(scores, memory.there)
            context = self.einsum("bs,bsm->bm", weights, memory.values)
        return state, self.read(params, context, query, key_read), weights

    def embedded(self, params: Params, tokens: Array) -> Array:
        """[..., E] of tokens [...]."""
        return jnp.take(params["embedding"], tokens, axis=0, mode="clip")

    def read(self, params: Params, context: Any, query: Array, key: Array | None) -> Array:
        """Logits [..., V] of a context [..., M] or None, and a query [..., A]."""
        both = query if context is None else jnp.concatenate([context, query], axis=-1)
        combined = self.dropped(key, jnp.tanh(self.dense(params["combine"], both)))
        kernel = params["embedding"].T if self.tied else params["readout"]["kernel"]
        return matmul(self.precision)(combined, kernel) + params["readout"]["bias"]

    def dropped(self, key: Array | None, x: Array) -> Array:
        """x after dropout, rescaled; x itself without a key or a rate."""
        rate = self.output_dropout
        if key is None or not (isinstance(rate, jax.Array) or rate > 0):
            return x
        return jnp.where(parts.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)

    def dense(self, layer: dict[str, Array], x: Array) -> Array:
        """x W + b."""
        return matmul(self.precision)(x, layer["kernel"]) + layer["bias"]

    def einsum(self, subscripts: str, *operands: Array) -> Array:
        """`jnp.einsum`, strict in float32."""
        strict = self.precision == "float32"
        exact = jax.lax.Precision.HIGHEST if strict else jax.lax.Precision.DEFAULT
        return jnp.einsum(subscripts, *operands, precision=exact)


def _attention_weights(scores: Array, there: Array) -> Array:
    """The softmax of scores [..., S] over the places that exist."""
    scores = jnp.where(there, scores, jnp.finfo(scores.dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def _split(key: Array | None) -> tuple[Any, Any]:
    return (None, None) if key is None else tuple(jax.random.split(key))
