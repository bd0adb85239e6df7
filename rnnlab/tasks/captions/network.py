"""The network of a caption: an encoder of the picture, a decoder that says the words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells import parts
from rnnlab.errors import UsageError
from rnnlab.models import beam, decoder, encoders
from rnnlab.tasks.captions import scenes
from rnnlab.tasks.captions.data import UNKNOWN, Data
from rnnlab.tasks.kinds.examples import Batch
from rnnlab.tasks.metrics import tokens
from rnnlab.types import Array, Config, Params

_PAD, _BEGIN, _END = (scenes.SYMBOLS.index(name) for name in (scenes.PAD, scenes.BEGIN, scenes.END))


class Captioner:
    """The network of a config, for the symbols and pictures of its data.

    values: what takes the place of the config's own, by dotted key. Raises UsageError for options that
    do not fit together.
    """

    def __init__(self, config: Config, data: Data, values: dict[str, Any]):
        how = {"features": config.encoder.features, "precision": config.model.precision}
        if len(data.shape) == 1:
            self.encoder = encoders.dense(inputs=data.shape[0], **how)
        else:
            channels = tuple(config.encoder.channels)
            self.encoder = encoders.conv(shape=data.shape, channels=channels, **how)
        self.looks = config.decoder.attention != "none"  # at the places of the encoder's map
        options = dict(config.decoder)
        self.word_dropout = options.pop("word_dropout")
        if not 0.0 <= self.word_dropout < 1.0:
            raise UsageError(f"decoder.word_dropout must be in [0, 1), got {self.word_dropout}")
        if self.looks and not self.encoder.places:
            raise UsageError(
                f"decoder.attention is '{config.decoder.attention}', and the encoder gives one vector of a "
                "picture: with encoder.features 0 it gives one of each place; features computed beforehand "
                "have no places"
            )
        # Captions never have these in them, and what is asked for is a caption.
        self.never = np.isin(data.symbols, [scenes.PAD, scenes.BEGIN, UNKNOWN])
        self.decoder = decoder.make_decoder(
            config,
            vocabulary=len(data.symbols),
            summary=self.encoder.size * max(self.encoder.places, 1),
            memory=self.encoder.size if self.looks else 0,
            values=values,
            **options,
        )

    def init(self, key: Array, dtype: Any = jnp.float32) -> Params:
        """The parameters of both, and a vector for each place that the decoder looks at."""
        keys = jax.random.split(key, 3)
        params = {
            "encoder": self.encoder.init(keys[0], dtype),
            "decoder": self.decoder.init(keys[1], dtype),
        }
        if self.looks:
            shape = (self.encoder.places, self.encoder.size)
            params["places"] = 0.1 * jax.random.normal(keys[2], shape, dtype)
        return params

    def start(self, params: Params, batch: Batch, repeat: int) -> tuple[Any, Any]:
        """(memory, state) of the decoder for each picture, `repeat` times."""
        x = self.encoder.apply(params["encoder"], batch["picture"][0])  # [B, E] or [B, S, E]
        summary = jax.nn.standardize(x.reshape(x.shape[0], -1), epsilon=1e-5)
        memory = jnp.swapaxes(x + params["places"], 0, 1) if self.looks else None  # [S, B, E]
        return beam.repeated(self.decoder.start(params["decoder"], summary, memory), repeat)

    def loss(self, params: Params, batch: Batch, key: Array | None) -> tokens.Sums:
        """See `examples.Network`, of the R captions of each picture, words int [T, B, R]."""
        targets = jnp.asarray(batch["words"])
        length, rows, captions = targets.shape
        there = (targets != _PAD) & batch["there"][:, None]
        targets = targets.reshape(length, rows * captions)
        first = jnp.full((1, rows * captions), _BEGIN, targets.dtype)
        inputs = jnp.concatenate([first, targets[:-1]])
        if key is not None and self.word_dropout:
            key, key_words = jax.random.split(key)
            kept = parts.bernoulli(key_words, 1 - self.word_dropout, inputs.shape)
            inputs = jnp.where(kept, inputs, _PAD)
        memory, state = self.start(params, batch, captions)
        logits, _ = self.decoder.teach(params["decoder"], memory, state, inputs, key)
        return tokens.sums(("loss",), logits, targets, there.reshape(targets.shape))

    def answers(
        self, params: Params, batch: Batch, *, width: int, length: int, penalty: float
    ) -> Array:
        """int [B, T]: the best caption of each picture that a beam of `width` finds, of up to `length`
        symbols."""
        memory, state = self.start(params, batch, 1)
        wide = beam.repeated(memory, width)

        def advance(state: Any, token: Array) -> tuple[Any, Array]:
            state, logits, _ = self.decoder.advance(params["decoder"], wide, state, token)
            return state, jax.nn.log_softmax(jnp.where(self.never, -jnp.inf, logits))

        begin = jnp.full(batch["picture"].shape[1], _BEGIN, jnp.int32)
        found = beam.search(
            advance, state, begin, length=length, width=width, end=_END, penalty=penalty
        )
        return found.tokens[:, 0]
