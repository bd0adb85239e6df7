"""A small stack of layers with a loss, and the same in Python loops, to differentiate by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.models import stack
from rnnlab.types import Probe

T, B, D, H, V = 6, 3, 4, 5, 2
LENGTHS = np.array([6, 4, 5])


def probed(cell="lstm", layers=2, lengths=None, **options):
    net = stack.stack_cells(
        input_size=D,
        output_size=V,
        cell=cell,
        hidden=H,
        layers=layers,
        input="dense",
        **options,
    )
    rng = np.random.default_rng(0)
    weights = np.ones((T, B)) if lengths is None else np.arange(T)[:, None] < lengths

    def losses(outputs, batch):
        return ((outputs - batch["targets"]) ** 2).sum(-1), jnp.asarray(weights, outputs.dtype)

    more = {} if lengths is None else {"lengths": jnp.asarray(lengths)}
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.3 * rng.normal(size=p.shape)),
        net.init(jax.random.key(0), jnp.float64),
    )
    batch = {
        "x": jnp.asarray(rng.normal(size=(T, B, D))),
        "targets": jnp.asarray(rng.normal(size=(T, B, V))),
    }
    return Probe(net, lambda batch: {"x": batch["x"], **more}, losses), params, batch


def stack_by_hand(net, params, batch, bump, lengths=None, scored=None):
    """The mean loss, in Python loops, with `bump` added to chosen states: {(layer, t): carry}."""
    carries = [net.cell.carry(B, jnp.float64) for _ in params["layers"]]
    total, count = 0.0, 0.0
    for t in range(T):
        x = batch["x"][t]
        alive = jnp.ones(B, bool) if lengths is None else t < jnp.asarray(lengths)
        for index, layer in enumerate(params["layers"]):
            z = jax.tree.map(lambda a: a[0], net.cell.project(layer, x[None], None))
            new, _ = net.cell.step(layer, carries[index], z)
            if (index, t) in bump:
                new = jax.tree.map(jnp.add, new, bump[index, t])
            keep = alive[:, None]
            carries[index] = jax.tree.map(
                lambda a, b, keep=keep: jnp.where(keep, a, b), new, carries[index]
            )
            x = jnp.where(keep, new.h, 0.0)
        out = x @ params["readout"]["kernel"] + params["readout"]["bias"]
        weight = alive.astype(jnp.float64) if scored is None else (scored == t).astype(jnp.float64)
        total = total + (((out - batch["targets"][t]) ** 2).sum(-1) * weight).sum()
        count = count + weight.sum()
    return total / count


def net_of(size, **options):
    options = {"cell": "lstm", "hidden": 6, "layers": 1} | options
    made = stack.stack_cells(input_size=size, output_size=size, **options)
    shapes, random = jax.eval_shape(made.init, jax.random.key(0)), np.random.default_rng(1)
    return made, jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape), s.dtype), shapes)
