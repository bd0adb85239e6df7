"""Flax in the benchmark: nnx.RNN of its own cells, trained as its documentation shows it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rnnlab.bench.contenders.contender import CLIP, LEARNING_RATE, Case, Contender, draw_tokens

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}


class CharacterModel(nnx.Module):
    """One-hot -> a stack of nnx.RNN -> nnx.Linear. Time leads: that saves Flax two transpositions
    a layer."""

    def __init__(self, case: Case, rngs: nnx.Rngs):
        sizes = [case.vocabulary] + [case.hidden] * case.layers
        cell = CELLS[case.cell]
        self.layers = nnx.List(
            [
                nnx.RNN(cell(before, case.hidden, rngs=rngs), time_major=True)
                for before in sizes[:-1]
            ]
        )
        self.readout = nnx.Linear(case.hidden, case.vocabulary, rngs=rngs)
        self.vocabulary = case.vocabulary

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """int [T, B] -> logits [T, B, V]."""
        x: Any = jax.nn.one_hot(inputs, self.vocabulary)
        for layer in self.layers:
            x = layer(x)
        return self.readout(x)


def objective(model: Any, batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """(mean cross-entropy, logits)."""
    logits = model(batch["inputs"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    return losses.mean(), logits


gradient = nnx.value_and_grad(objective, has_aux=True)


@nnx.jit(donate_argnames=("model", "optimizer"))
def train_step(model: Any, optimizer: Any, batch: dict[str, Any]) -> jax.Array:
    """One update in place; the loss."""
    (loss, _), grads = gradient(model, batch)
    optimizer.update(model, grads)
    return loss


class Flax(Contender):
    """Flax's nnx."""

    ahead = True

    def __init__(self, *, threads: int):
        del threads  # the environment has told XLA

    def setup(self, *, case: Case, weights: Any) -> None:
        """See `Contender`."""
        self.model = CharacterModel(case, nnx.Rngs(0))
        for layer, given in zip(self.model.layers, weights["layers"], strict=True):
            nnx.update(layer.cell, given)
        nnx.update(self.model.readout, weights["readout"])
        rule = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LEARNING_RATE))
        self.optimizer = nnx.Optimizer(self.model, rule, wrt=nnx.Param)
        inputs, targets = draw_tokens(case)
        self.batch = {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}
        self.loss = None

    def step(self) -> None:
        """See `Contender`."""
        before, self.loss = self.loss, train_step(self.model, self.optimizer, self.batch)
        jax.block_until_ready(before)

    def settle(self) -> None:
        """See `Contender`."""
        jax.block_until_ready(nnx.state(self.model, nnx.Param))

    def check(self) -> dict[str, Any]:
        """See `Contender`."""
        (loss, logits), grads = nnx.jit(gradient)(self.model, self.batch)
        found = {"logits": logits, "loss": loss, "grads": self._tree(grads)}
        return jax.tree.map(np.asarray, found)

    def trained(self) -> dict[str, Any]:
        """See `Contender`."""
        weights = nnx.state(self.model, nnx.Param)
        moment = optax.tree.get(self.optimizer.opt_state, "mu")
        found = {"weights": self._tree(weights), "moment": self._tree(nnx.state(moment))}
        return jax.tree.map(np.asarray, found)

    def _tree(self, state: Any) -> dict[str, Any]:
        pure = nnx.as_pure(state)
        layers = [pure["layers"][k]["cell"] for k in range(len(self.model.layers))]
        return {"layers": layers, "readout": pure["readout"]}
