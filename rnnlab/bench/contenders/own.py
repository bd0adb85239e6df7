"""rnnlab in the benchmark: its own train step and sampling; and the reference of all contenders."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.bench.contenders.contender import (
    CLIP,
    LEARNING_RATE,
    TEMPERATURE,
    Case,
    Contender,
    draw_tokens,
)
from rnnlab.models import interop, sample, stack
from rnnlab.tasks.metrics.tokens import cross_entropy, sums
from rnnlab.train import optim, parallel
from rnnlab.train.state import initial_state
from rnnlab.train.step import make_train_step
from rnnlab.types import Model, Params, Probe, Task

# The biases are no zeros: a gate out of place would hide behind them.
DRAWN = {
    "kernel_x_init": "inverse_sqrt_hidden",
    "kernel_h_init": "inverse_sqrt_hidden",
    "bias_init": "uniform:0.1",
}


def make_model(case: Case, path: str, **cell_options: Any) -> Model:
    """The model of a case. path: "auto" (the fast backward pass where there is one) or "plain"."""
    return stack.stack_cells(
        path=path,
        input_size=case.vocabulary,
        output_size=case.vocabulary,
        cell=case.cell,
        hidden=case.hidden,
        layers=case.layers,
        remat=case.remat,
        cell_options=cell_options,
    )


def make_task(case: Case, net: Model, weights: Params) -> Task:
    """The task: one batch again and again, from a zero state each time, from these weights."""
    inputs, targets = draw_tokens(case)

    def loss(params: Params, carry: Any, batch: Any, key: Any, taps: Any = None) -> tuple[Any, Any]:
        inputs = batch["inputs"]  # of a share of the rows, where the step is split
        _, logits = net.apply(params, net.carry(inputs.shape[1]), inputs, key=key, taps=taps)
        return carry, sums(("loss",), logits, batch["targets"])

    return Task(
        init=lambda key: jax.tree.map(jnp.array, weights),
        carry=lambda: (),
        batch=lambda number: {"inputs": inputs, "targets": targets},
        loss=loss,
        evaluate=lambda params: {},
        finish=lambda params: {},
        show=lambda params, number: "",
        layers=net.layers,
        keep=lambda folder: None,
        facts=dict,
        fingerprint={},
        unit="char",
        probe=Probe(net, lambda batch: {"x": batch["inputs"]}, token_losses),
    )


def token_losses(logits: Any, batch: Any) -> tuple[Any, Any]:
    """See `rnnlab.types.Probe`."""
    values = cross_entropy(logits, batch["targets"])
    return values, jnp.ones_like(values)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """A nested dict or list as {"layers.0.kernel_h": array}."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(a) for p, a in found}


def relative_difference(found: Any, wanted: Any) -> float:
    """|found - wanted| / |wanted|, in float64; inf for another shape."""
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


class Own(Contender):
    """rnnlab. With the path "plain" it is the plain scan differentiated by JAX, against which all
    others are compared: `reference`, `exported` and `compare` are asked of that worker."""

    ahead = True

    def __init__(self, *, threads: int, path: str, watch: str = ""):
        del threads  # the environment has told XLA
        self.path, self.watch = path, watch

    # The reference

    def reference(self, *, case: Case) -> None:
        """Draw the weights of a case and compute what every contender must find at them.

        They are drawn as PyTorch draws them, but for the biases.
        The cell has the second bias that PyTorch has, at zero, so that Flax and rnnlab, which have
        one, compute the same function, and PyTorch's gradient of it is compared too.
        """
        net = make_model(case, "plain", **DRAWN, hidden_bias=True)
        params = net.init(jax.random.key(0))
        for layer in params["layers"]:
            layer["bias_h"] = jnp.zeros_like(layer["bias_h"])
        self.case = case
        self.weights = jax.tree.map(np.asarray, params)
        self.wanted = evaluate(case, net, self.weights)

    def exported(self, *, library: str) -> Any:
        """The weights of the reference, as `setup` of that library takes them."""
        cell, readout = self.case.cell, self.weights["readout"]
        if library.startswith("torch"):
            layers = interop.to_torch(self.weights["layers"], cell=cell)
            return {"layers": layers, "readout": readout}
        layers = [
            {name: leaf for name, leaf in layer.items() if name != "bias_h"}
            for layer in self.weights["layers"]
        ]
        if library == "flax":
            layers = [interop.to_flax(layer, cell=cell, optimized=True) for layer in layers]
            layers = jax.tree.map(np.asarray, layers)
        return {"layers": layers, "readout": readout}

    def compare(self, *, library: str, found: dict[str, Any]) -> dict[str, float]:
        """What `check` or `trained` of that library found against the reference: name ->
        `relative_difference`.

        The names are those of the arrays and, with their tree's, those of its leaves: "logits",
        "grads.layers.0.kernel_h". A leaf that the library should have and lacks counts as inf.
        """
        wanted = {"loss": self.wanted["loss"], "logits": self.wanted["logits"]}
        wanted |= self._one_step(two_biases=library.startswith("torch"))
        trees = {name: tree for name, tree in found.items() if isinstance(tree, dict)}
        given = found | {
            name: tree | {"layers": self._imported(library, tree["layers"])}
            for name, tree in trees.items()
        }
        given = flatten(given)
        names = flatten({name: wanted[name] for name in found})
        return {
            name: relative_difference(given.get(name, np.nan), leaf) for name, leaf in names.items()
        }

    def _imported(self, library: str, layers: Any) -> Any:
        if library.startswith("torch"):
            return interop.from_torch(layers, cell=self.case.cell)
        if library == "flax":
            return [interop.from_flax(layer, cell=self.case.cell) for layer in layers]
        return layers

    def _one_step(self, *, two_biases: bool) -> dict[str, Any]:
        """The gradient, and weights and moment after optax's own clip and Adam: without the
        second bias where a library has none, whose norm is then another."""

        def shared(tree: Any) -> Any:
            layers = [
                {name: leaf for name, leaf in layer.items() if two_biases or name != "bias_h"}
                for layer in tree["layers"]
            ]
            return {"layers": layers, "readout": tree["readout"]}

        weights, grads = shared(self.weights), shared(self.wanted["grads"])
        rule = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LEARNING_RATE))
        updates, state = rule.update(grads, rule.init(weights), weights)
        return {
            "grads": grads,
            "weights": optax.apply_updates(weights, updates),
            "moment": optax.tree.get(state, "mu"),
        }

    # The contender

    def setup(self, *, case: Case, weights: Any) -> None:
        """See `Contender`. Weights of None: drawn afresh, for a case that nothing is compared at."""
        self.case, self.net = case, make_model(case, self.path)
        if weights is None:
            weights = make_model(case, "plain", **DRAWN).init(jax.random.key(0))
        self.given = jax.device_put(weights)
        self.task = make_task(case, self.net, weights)
        self._start(parallel.choose_split(requested=0, batch=case.batch))

    def _start(self, split: parallel.Split) -> None:
        optimiser = optim.make_optimiser(
            name="adam",
            clip="global_norm",
            clip_norm=CLIP,
            momentum=0.0,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            rms_decay=0.0,
            weight_decay=0.0,
            schedule=optax.constant_schedule(LEARNING_RATE),
        )
        self.train_step: Any = make_train_step(
            self.task,
            optimiser,
            average_decay=0.0,
            reduction="mean",
            log_every=50,
            watch=self.watch,
            split=split,
        )
        self.state = parallel.place_state(
            split, initial_state(self.task, optimiser, seed=0, average=False)
        )
        self.batch, self.report = self.task.batch(0), None

    def step(self) -> None:
        """See `Contender`."""
        before = self.report
        self.state, self.report = self.train_step(self.state, self.batch)
        jax.block_until_ready(before)

    def settle(self) -> None:
        """See `Contender`."""
        jax.block_until_ready(self.state)

    def check(self) -> dict[str, Any]:
        """See `Contender`."""
        return evaluate(self.case, self.net, self.given)

    def trained(self) -> dict[str, Any]:
        """See `Contender`."""
        moment = optax.tree.get(self.state.optimiser, "mu")
        return jax.tree.map(np.asarray, {"weights": self.state.params, "moment": moment})

    def needs(self) -> int:
        """Bytes that XLA plans for one step beside what the process holds by now; it compiles.

        For a step on one device: one that is split is several programs.
        """
        self._start(parallel.SINGLE)
        self.train_step = self.train_step.lower(self.state, self.batch).compile()
        return self.train_step.memory_analysis().temp_size_in_bytes

    def product(self, size: int) -> Callable[[], None]:
        """See `Contender`."""
        a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
        dot = jax.jit(jnp.matmul)

        def run() -> None:
            jax.block_until_ready(dot(a, a))

        return run

    def text(self, *, length: int, count: int) -> np.ndarray:
        """See `Contender`: the pieces of `sample.generate`, as a user gets them."""
        pieces = sample.generate(
            self.net,
            self.given,
            np.zeros(1, np.int32),
            length=length,
            count=count,
            temperature=TEMPERATURE,
        )
        return np.concatenate(list(pieces))


def evaluate(case: Case, net: Model, weights: Params) -> dict[str, Any]:
    """logits, loss and gradients, by JAX's own differentiation of the task's loss."""
    task = make_task(case, net, weights)

    @jax.jit
    def run(params: Params, batch: Any) -> tuple[Any, Any]:
        def mean(params: Params) -> Any:
            total, count = task.loss(params, (), batch, None)[1]["loss"]
            return total / count

        _, logits = net.apply(params, net.carry(case.batch), batch["inputs"])
        return logits, jax.value_and_grad(mean)(params)

    logits, (loss, grads) = run(weights, task.batch(0))
    found = {"logits": logits, "loss": loss, "grads": grads}
    return jax.tree.map(np.asarray, found)
