"""The network of a translation: an encoder that reads the source, a decoder that says the target."""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.data import words
from rnnlab.models import beam, configured, decoder
from rnnlab.tasks.metrics import tokens
from rnnlab.types import Array, Config, Params


class Translator:
    """The network of a config: the encoder, the decoder, and what is made of them."""

    def __init__(self, config: Config, sizes: tuple[int, int], values: dict[str, Any]):
        own = {f"model.{key}": config.encoder[key] for key in ("layers", "hidden", "bidirectional")}
        own |= {"model.input": "embedding", "model.embedding_size": config.encoder.embedding}
        self.smoothing, self.sampled = config.decoder.smoothing, config.decoder.sampled
        self.reader = configured.model_of(
            config,
            input_size=sizes[0],
            output_size=config.encoder.size,
            future=True,
            values={**values, **own},
        )
        top = jax.eval_shape(lambda: self.reader.carry(1))[-1]
        options = {key: config.decoder[key] for key in ("attention", "size", "embedding", "tied")}
        self.writer = decoder.make_decoder(
            config,
            vocabulary=sizes[1],
            summary=sum(leaf.shape[-1] for leaf in jax.tree.leaves(top)),
            memory=config.encoder.size,
            values=values,
            **options,
        )

    def init(self, key: Array, dtype: Any = jnp.float32) -> Params:
        """The parameters of both."""
        first, second = jax.random.split(key)
        return {
            "encoder": self.reader.init(first, dtype),
            "decoder": self.writer.init(second, dtype),
        }

    def begun(self, params: Params, batch: Any, key: Array | None) -> tuple[Any, Any]:
        """(memory, state) of the decoder once the source is read."""
        source, dtype = batch["source"], params["decoder"]["embedding"].dtype
        carry, memory = self.reader.apply(
            params["encoder"],
            self.reader.carry(source.shape[1], dtype),
            source,
            lengths=batch["lengths"],
            key=key,
        )
        summary = jnp.concatenate(jax.tree.leaves(carry[-1]), axis=-1)
        there = jnp.arange(source.shape[0])[:, None] < batch["lengths"]
        return self.writer.start(params["decoder"], summary, memory, there)

    def logits(self, params: Params, batch: Any, key: Array | None = None) -> tuple[Array, Any]:
        """(logits [T, B, V], weights of attention [T, B, S]) given the true symbols before each."""
        one, two = (None, None) if key is None else jax.random.split(key)
        own = batch["own"] if self.sampled and key is not None else None
        return self.writer.teach(
            params["decoder"], *self.begun(params, batch, one), batch["inputs"], two, own
        )

    def loss(self, params: Params, batch: Any, key: Array | None) -> tokens.Sums:
        """See `examples.Network`; in training with label smoothing (Szegedy et al. 2016)."""
        logits, _ = self.logits(params, batch, key)
        weights = batch["weights"] & batch["there"]
        names = ("loss",) if key is not None else ("loss", "accuracy")
        found = tokens.sums(names, logits, batch["targets"], weights)
        if key is not None and self.smoothing:
            even = -jax.nn.log_softmax(logits).mean(-1)
            total, count = found["loss"]
            even = jnp.where(weights, even, jnp.zeros_like(even)).sum()
            found["loss"] = ((1 - self.smoothing) * total + self.smoothing * even, count)
        return found

    def answers(
        self, params: Params, batch: Any, *, width: int, length: int, penalty: float
    ) -> beam.Continuations:
        """What a beam finds, see `beam.search`."""
        memory, state = self.begun(params, batch, None)
        memory = beam.repeated(memory, width)

        def advance(state: Any, token: Array) -> tuple[Any, Array]:
            state, logits, _ = self.writer.advance(params["decoder"], memory, state, token)
            return state, jax.nn.log_softmax(logits)

        first = jnp.full(batch["source"].shape[1], words.BEGIN)
        return beam.search(
            advance, state, first, length=length, width=width, end=words.END, penalty=penalty
        )
