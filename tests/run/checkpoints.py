"""The states and the calls that the tests of checkpoints share."""

import random
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.run import checkpoint

FINGERPRINT = {"model": {"hidden": 4, "layers": [4, 4]}, "vocabulary": "abc"}


class Carry(NamedTuple):
    c: Any
    h: Any


@flax.struct.dataclass
class State:
    params: Any
    optimiser: Any
    carry: Any
    key: Any
    step: Any
    nothing: Any = None
    name: str = flax.struct.field(pytree_node=False, default="static")


def save(root, step, state=None, *, metric=None, keep=10, **kw):
    state = small(step) if state is None else state
    kw = {"extra": {}, "fingerprint": FINGERPRINT} | kw
    return checkpoint.save(root, step, state, metric=metric, keep=keep, **kw)


def restore(root, template=None, *, step: Any = None, fingerprint=FINGERPRINT):
    """Returns (state, meta, warnings)."""
    template = small(0) if template is None else template
    warnings = []
    got = checkpoint.restore(
        root, template, step=step, fingerprint=fingerprint, warn=warnings.append
    )
    assert got is not None
    return *got, warnings


def small(step):
    return {"w": np.full((3, 2), step, np.float32), "step": np.array(step, np.int32)}


def train_state():
    params = {
        "cell": {"kernel": jax.random.normal(jax.random.key(1), (5, 8)), "bias": jnp.zeros(8)},
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    }
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    carry = (Carry(jnp.ones((2, 4)), jnp.full((2, 4), jnp.nan)), ())
    return State(params, optimiser, carry, jax.random.key(7), jnp.int32(3))


def assert_identical(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(a) is type(b)
        if isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            assert a.dtype == b.dtype
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def flip_a_bit(path, at):
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(b"\0")
        return
    position = min(int(at * len(content)), len(content) - 1)
    content[position] ^= 1 << random.Random(at).randrange(8)
    path.write_bytes(content)
