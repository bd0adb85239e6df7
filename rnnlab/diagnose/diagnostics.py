"""What the gradients of a model do over time: how they flow, what truncation and clipping change.

Everything is measured on a task's own batch and loss, by `rnnlab.recurrence.taps` and ordinary backward
passes, for any cell and stack. Inside one layer see `dynamics` and `rnnlab.recurrence.saturation`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.train import optim
from rnnlab.types import Array, Carry, Model, Params, Probe

FADED = 0.01  # of its first value: how small a gradient counts as gone


def _each(net: Model, make: Callable[[], taps.Taps]) -> list[taps.Taps]:
    return [make() for _ in net.names]


def _loss(probe: Probe, carry: Carry, batch: Any) -> Callable[..., Array]:
    """(params, taps, outer) -> the mean loss of a batch, without noise; see `Model.apply`."""

    def loss(params: Params, seen: Any = None, outer: Any = None) -> Array:
        dtype = _sizes(probe, params, batch)[2]
        start = probe.begin(carry, batch, dtype)
        how = {"taps": seen, "outer": outer, **probe.inputs(batch)}
        _, outputs = probe.net.apply(params, start, **how)
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum()

    return loss


class Flow(NamedTuple):
    """How the gradient of a loss flows back through one layer."""

    layer: str
    parts: tuple[str, ...]  # of the state, P
    norms: np.ndarray  # [P, T, B], |dL/ds_t| of each row
    last: np.ndarray  # int [B], the step whose loss it is the gradient of; -1: of all of them

    def by_lag(self) -> np.ndarray:
        """[P, K]: the norm k steps before the last one, the geometric mean over the rows in which it is
        not 0; 0 where it is 0 in most of them.

        As many lags as the row with the fewest steps has.

        Raises UsageError for the gradient of all steps' losses, which has no lag.
        """
        if (self.last < 0).any():
            raise UsageError(
                "a lag is counted back from the loss of the last scored step: last=True"
            )
        count = int(self.last.min()) + 1
        rows = np.arange(self.norms.shape[2])
        steps = self.last[None, :] - np.arange(count)[:, None]  # [K, B]
        norms = self.norms[:, steps, rows[None, :]].astype(np.float64)  # [P, K, B]
        there = norms > 0
        total = np.log(np.where(there, norms, 1)).sum(-1)
        number = there.sum(-1)
        return np.where(2 * number > len(rows), np.exp(total / np.maximum(number, 1)), 0)

    def reach(self, share: float = FADED) -> list[int | None]:
        """For each part the first lag at which the gradient has fallen to `share` of where it begins;
        None if it does not within the window."""
        found: list[int | None] = []
        for curve in self.by_lag():
            first = begins(curve)
            below = np.nonzero(curve[first:] <= share * curve[first])[0]
            found.append(int(below[0]) + first if len(below) and curve[first] > 0 else None)
        return found


def begins(curve: np.ndarray) -> int:
    """The first lag with a gradient: 0, or 1 for an inner state, which the next step reads first."""
    return int(np.argmax(curve > 0))


def flow(
    probe: Probe, params: Params, carry: Carry, batch: Any, *, last: bool = False
) -> list[Flow]:
    """|dL/ds_t| for every layer (and direction), part of the state, step and row: dL/dh_t, dL/dc_t.

    Pascanu et al. 2013, eq. 3-5, by one backward pass. L is the mean loss of the batch; with `last`
    the mean over the rows of the loss at each row's last scored step alone, whose gradient shows how
    far back one error is felt.
    """

    time, rows, dtype = _sizes(probe, params, batch)
    cell, start = probe.net.cell, probe.begin(carry, batch, dtype)

    def objective(seen: Any) -> tuple[Array, Array]:
        _, outputs = probe.net.apply(params, start, **probe.inputs(batch), taps=seen)
        values, weights = probe.losses(outputs, batch)
        steps = jnp.arange(values.shape[0])[:, None]
        final = jnp.where(weights > 0, steps, -1).max(axis=0)  # [B]
        if last:
            weights = jnp.where(steps == final, weights, 0)
        else:
            final = jnp.full_like(final, -1)
        return (values * weights).sum() / weights.sum(), final

    seen = _each(probe.net, lambda: taps.nudge(cell, time, rows, dtype))
    found, final = jax.jit(jax.grad(objective, has_aux=True))(seen)
    return [
        Flow(
            layer,
            taps.part_names(cell),
            np.stack([np.asarray(leaf) for leaf in jax.tree.leaves(taps.norms(each.nudge))]),
            np.asarray(final),
        )
        for layer, each in zip(probe.net.names, found, strict=True)
    ]


def _sizes(probe: Probe, params: Params, batch: Any) -> tuple[int, int, Any]:
    time, rows = probe.inputs(batch)["x"].shape[:2]
    return time, rows, jax.tree.leaves(params)[0].dtype


class Share(NamedTuple):
    """What each time step adds to the gradient of the parameters of a layer, or of either end."""

    layer: str  # or "readout", "embedding"
    norms: dict[str, np.ndarray]  # parameter -> [T], the norm of what step t adds
    parts: dict[str, np.ndarray]  # parameter -> [T], <g_t, g> / |g|^2; it adds up to 1


def shares(probe: Probe, params: Params, carry: Carry, batch: Any) -> list[Share]:
    """g = sum_t g_t for every parameter: |g_t| and the share <g_t, g> / |g|^2, of every layer, of the
    readout, and of the embedding where there is one.

    g_t is the gradient of the loss by the copy of the parameter that step t uses, were it not shared
    over time (Pascanu et al. 2013, eq. 4). A share may be negative: such a step pulls the other way.
    By the plain path. Of a table that is the readout's kernel too neither use is told apart, and it is
    left out.

    Raises UsageError for a bidirectional model.
    """
    if not probe.net.causal:
        raise UsageError("the share of a step in the gradient needs a model of one direction")
    loss = _loss(probe, carry, batch)
    time, _, dtype = _sizes(probe, params, batch)
    ends = ["readout"]
    if "embedding" in params and "kernel" in params["readout"]:
        ends.append("embedding")

    def slots(whole: Params) -> taps.Taps:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((time, 2), dtype), whole)
        return taps.Taps(shares=zeros, whole=whole)

    @jax.jit
    def found(params: Params) -> Any:
        whole = jax.grad(loss)(params)
        given = [slots(layer) for layer in whole["layers"]], {e: slots(whole[e]) for e in ends}
        layers, outer = jax.grad(loss, argnums=(1, 2))(params, *given)
        sizes = jax.tree.map(lambda g: jnp.sum(g**2), whole)
        return (
            [each.shares for each in (*layers, *outer.values())],
            [*sizes["layers"], *(sizes[end] for end in outer)],
        )

    result = []
    for layer, pairs, sizes in zip((*probe.net.names, *sorted(ends)), *found(params), strict=True):
        if not isinstance(pairs, dict):  # the embedding is a table by itself
            pairs, sizes = {"table": pairs}, {"table": sizes}
        norms = {name: np.asarray(pair[:, 0]) for name, pair in pairs.items()}
        parts = {
            name: np.asarray(pair[:, 1]) / max(float(sizes[name]), np.finfo(np.float32).tiny)
            for name, pair in pairs.items()
        }
        result.append(Share(layer, norms, parts))
    return result


class Truncation(NamedTuple):
    """The gradient of truncated BPTT beside that of the whole window, by window length."""

    windows: np.ndarray  # int [W]
    cosine: np.ndarray  # [W], between the two, over all parameters
    bias: np.ndarray  # [W], |g_w - g| / |g|
    ratio: np.ndarray  # [W], |g_w| / |g|
    recurrent: np.ndarray  # [W], the cosine over the layers' parameters that a step multiplies by


def truncation(
    probe: Probe, params: Params, carry: Carry, batch: Any, *, windows: Sequence[int]
) -> Truncation:
    """Bias and direction of the truncated gradient (Williams and Peng 1990; Tallec and Ollivier 2018).

    windows: lengths w; the state is handed on at steps w, 2w ..., and no gradient passes there, as in
        training by windows of w. The weights stay the same throughout. The reference is full BPTT
        over the batch's window.

    Raises UsageError for a window below 1, or a model that is bidirectional.
    """
    if min(windows) < 1:
        raise UsageError(f"a window has at least 1 step, got {min(windows)}")
    if not probe.net.causal:
        raise UsageError("truncation needs a model of one direction")
    loss = _loss(probe, carry, batch)
    time, rows, _ = _sizes(probe, params, batch)

    @jax.jit
    def gradient(params: Params, length: Array) -> Params:
        steps = jnp.arange(time)[:, None]
        cut = jnp.broadcast_to((steps > 0) & (steps % length == 0), (time, rows))
        return jax.grad(loss)(params, _each(probe.net, lambda: taps.Taps(cut=cut)))

    def compared(part: Params, whole: Params) -> tuple[float, ...]:
        g_w, g = (
            np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
            for tree in (part, whole)
        )
        size, other = np.linalg.norm(g), np.linalg.norm(g_w)
        if not size > 0 or not other > 0:
            return np.nan, np.nan, np.nan
        apart = np.linalg.norm(g_w - g)
        return float(g @ g_w / (size * other)), float(apart / size), float(other / size)

    def recurrent(tree: Params) -> Any:
        return [layer.get("kernel_h", layer) for layer in tree["layers"]]

    whole = gradient(params, jnp.asarray(time))
    found = [gradient(params, jnp.asarray(w)) for w in windows]
    rows_of = np.array([compared(g, whole) for g in found])
    inner = np.array([compared(recurrent(g), recurrent(whole))[0] for g in found])
    cosine, bias, ratio = rows_of.T
    return Truncation(np.array(windows), cosine, bias, ratio, inner)


class Clipping(NamedTuple):
    """What a clip does to the gradients of several batches."""

    kind: str
    threshold: float
    norms: np.ndarray  # [N], before the clip
    factor: np.ndarray  # [N], |clipped| / |g|: what is left of the learning rate
    cosine: np.ndarray  # [N], between the two: 1 where the direction is kept


def gradients(
    loss: Callable[..., Any],
    params: Params,
    carry: Carry,
    batches: Sequence[Any],
    *,
    scale: float = 1.0,
) -> tuple[list[Params], Carry]:
    """The gradient of each batch in turn, of `scale` times its mean loss, and the carry after them.

    loss: `Task.loss`. The state goes from batch to batch as in training; the weights stay.
    """

    @jax.jit
    def gradient(params: Params, carry: Carry, batch: Any) -> tuple[Params, Carry]:
        def mean(params: Params) -> tuple[Array, Carry]:
            after, sums = loss(params, carry, batch, None)
            total, count = sums["loss"]
            return scale * total / count, after

        return jax.grad(mean, has_aux=True)(params)

    found = []
    for batch in batches:
        grads, carry = gradient(params, carry, batch)
        found.append(grads)
    return found, carry


def clipping(grads: Sequence[Params], params: Params, *, kind: str, threshold: float) -> Clipping:
    """What `optim.clip(kind, threshold)` does to these gradients.

    Raises UsageError for another kind or a threshold that is not > 0.
    """
    rule = optim.clip(kind, threshold)

    @jax.jit
    def one(g: Params) -> tuple[Array, Array, Array]:
        clipped, _ = rule.update(g, rule.init(params), params)
        norm, left = optim.global_norm(g), optim.global_norm(clipped)
        safe, other = jnp.where(norm > 0, norm, 1), jnp.where(left > 0, left, 1)
        inner = sum(
            jnp.sum((a / safe) * (b / other))
            for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(clipped), strict=True)
        )
        return norm, left / safe, jnp.where((norm > 0) & (left > 0), inner, 1.0)

    found = np.array([[float(v) for v in one(g)] for g in grads])
    return Clipping(kind, threshold, *found.T)
