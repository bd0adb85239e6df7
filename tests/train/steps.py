"""A small task and its train step, for the tests of what a step does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.train import optim
from rnnlab.train.state import initial_state
from rnnlab.train.step import make_train_step
from rnnlab.types import Task

T, B, D = 8, 2, 3
SETTINGS = {
    "name": "adam",
    "clip": "global_norm",
    "clip_norm": 0.05,
    "momentum": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-8,
    "rms_decay": 0.9,
    "weight_decay": 0.0,
}


def never(*_):
    raise AssertionError("a step has no use for this")


def loss(params, carry, batch, key):
    """A tanh network follows a target; what a batch adds to it makes the loss go wrong."""
    noise = batch["noise"] * jax.random.normal(key, (B, D))

    def advance(h, x):
        h = jnp.tanh(h @ params["kernel"] + params["bias"] + x)
        return h, h

    h, outputs = jax.lax.scan(advance, carry["h"], batch["inputs"])
    total = jnp.sum((outputs + noise - batch["targets"]) ** 2) * batch["factor"]
    # At root = 0 this is 0, and its gradient is NaN.
    total += jnp.sqrt(jnp.sum((batch["root"] * params["kernel"]) ** 2))
    return {"h": h * batch["blow"]}, {"loss": (total, jnp.asarray(T * B, total.dtype))}


def task(dtype=np.float32):
    def init(key):
        return {"bias": jnp.zeros(D, dtype), "kernel": 0.5 * jax.random.normal(key, (D, D), dtype)}

    return Task(
        init=init,
        carry=lambda: {"h": jnp.zeros((B, D), dtype)},
        batch=never,
        loss=loss,
        evaluate=never,
        finish=never,
        show=never,
        layers=(),
        keep=never,
        facts=never,
        fingerprint={},
        unit="step",
    )


def batch(seed=0, dtype=np.float32, **odd):
    """As of a task: time-major arrays, and what has no time axis and sorts before them."""
    rng = np.random.default_rng(seed)
    scalars = {"blow": 1.0, "factor": 1.0, "noise": 0.0, "root": 1e-3} | odd
    return {name: dtype(value) for name, value in scalars.items()} | {
        "fresh": np.zeros(B, bool),
        "inputs": rng.normal(size=(T, B, D)).astype(dtype),
        "targets": rng.normal(size=(T, B, D)).astype(dtype) / 2,
    }


def optimiser(rate=0.01, **changes):
    return optim.make_optimiser(schedule=lambda count: rate, **SETTINGS | changes)


@functools.cache
def machinery(*, reduction="mean", ema=0.9, log_every=3, dtype=np.float32, skip=0, **changes):
    """(seed -> state, the train step): compiled once for all tests that use it."""
    made = optimiser(**changes)

    def start(seed=0):
        return initial_state(task(dtype), made, seed=seed, average=ema > 0)

    return start, make_train_step(
        task(dtype),
        made,
        average_decay=ema,
        reduction=reduction,
        log_every=log_every,
        skip=skip,
    )


def plain_sgd(**changes):
    """The parameters move by minus the gradient."""
    return machinery(name="sgd", rate=1.0, clip_norm=float("inf"), ema=0.0, **changes)


def snapshot(tree):
    """A copy on the host, which outlives a donation."""

    def copy(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(copy, tree)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def norm(tree):
    return np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))


mean_gradient = jax.jit(
    jax.value_and_grad(lambda p, c, b, k: jnp.divide(*loss(p, c, b, k)[1]["loss"]))
)
