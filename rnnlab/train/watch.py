"""What a train step can see of its own gradients: their flow over time, and saturation.

It is part of the jitted step: the flow is read off the very backward pass that trains.

    flow       for each layer and part of the state |dL/ds_t| at every step t, the mean over the rows
    saturated  for each layer and activation the share beyond 0.95, of the batch's first rows

The flow alone makes a step 4 to 8% longer, both 16 to 35% (`bench step`, rnnlab-flow and
rnnlab-watched).
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.recurrence import activations, taps
from rnnlab.recurrence.unrolling import valid_steps
from rnnlab.types import Array, Config, Params, Probe

WATCHES = ("", "flow", "all")
ROWS = 8  # of the batch whose activations are looked at: they take a forward pass of their own


def wanted(diagnose: Config) -> str:
    """What `config.diagnose` asks for, of WATCHES."""
    if not diagnose.every:
        return ""
    return "all" if diagnose.saturation else "flow"


def slots_of(probe: Probe, params: Params, batch: Any) -> list[taps.Taps]:
    """The taps whose gradient `sums_over_rows` takes."""
    time, rows = probe.inputs(batch)["x"].shape[:2]
    dtype = jax.tree.leaves(params)[0].dtype
    return [taps.nudge(probe.net.cell, time, rows, dtype) for _ in probe.net.names]


def sums_over_rows(
    probe: Probe, params: Params, carry: Any, batch: Any, slots: Any, watch: str
) -> dict[str, Any]:
    """What a share of the batch shows, as sums over its rows: see `means_over_rows`.

    slots: the gradient by the taps of `slots_of`. carry: before the window. watch: "flow" or "all".
    """
    net, inputs = probe.net, probe.inputs(batch)
    flow = [
        jnp.stack([leaf.sum(axis=1) for leaf in jax.tree.leaves(taps.norms(each.nudge))])  # [P, T]
        for each in slots
    ]
    rows = inputs["x"].shape[1]
    count = jnp.asarray(rows, jnp.float32)
    if watch == "flow":
        return {"flow": flow, "saturated": [{} for _ in net.names], "rows": count}
    few = min(rows, ROWS)
    start = probe.begin(carry, batch, flow[0].dtype)
    start = jax.tree.map(lambda leaf: leaf[:few], start)
    given = {name: array for name, array in inputs.items() if array is not None}
    shown = {k: v[:few] if v.ndim == 1 else v[:, :few] for k, v in given.items()}
    _, _, seen = net.watch(params, start, **shown)
    valid = valid_steps(inputs["x"].shape[0], shown.get("lengths"), shown.get("mask"))
    shares = [
        activations.share(net.cell, layer, each, valid)
        for layer, each in zip(taps.units(params), seen, strict=True)
    ]
    return {
        "flow": flow,
        "saturated": jax.tree.map(lambda value: count * value.astype(jnp.float32), shares),
        "rows": count,
    }


def means_over_rows(sums: dict[str, Any]) -> dict[str, Any]:
    """The means over all rows, of the sums over all shares of the batch."""
    rows = sums["rows"]
    return jax.tree.map(
        lambda value: value / rows.astype(value.dtype),
        {name: sums[name] for name in ("flow", "saturated")},
    )


def diagnosis_row(probe: Probe, parts: tuple[str, ...], seen: dict[str, Any]) -> dict[str, Any]:
    """What diagnosis.jsonl says of it: layer -> part -> [T], and layer -> activation -> share."""

    def numbers(array: Array) -> list[float]:
        return [float(value) for value in array]

    flow, saturated = seen["flow"], seen["saturated"]
    return {
        "flow": {
            name: dict(zip(parts, map(numbers, norms), strict=True))
            for name, norms in zip(probe.net.names, flow, strict=True)
        },
        "saturated": {
            name: {key: float(value) for key, value in shares.items()}
            for name, shares in zip(probe.net.names, saturated, strict=True)
        },
    }
