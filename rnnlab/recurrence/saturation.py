"""The activations inside a cell, and how many of them are saturated: for any cell, without its help.

A cell's step is traced, and every tanh, logistic and relu in it is an activation: their values are
read off while the step is evaluated. A cell names them with `parts.named`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.recurrence.taps import Seen, together
from rnnlab.types import Array, Cell, Params

BEYOND = 0.95  # of an activation's range: |tanh| above it, a gate above it or below 1 - it
BINS = 40


class Activation(NamedTuple):
    """One activation of a cell: what it is called, and "tanh", "logistic" or "relu"."""

    name: str
    kind: str

    @property
    def range(self) -> tuple[float, float]:
        """Between which values it lies; a relu's upper end is open."""
        return {"tanh": (-1.0, 1.0), "logistic": (0.0, 1.0), "relu": (0.0, np.inf)}[self.kind]


def traced(cell: Cell, params: Params, carry: Any, z: Any) -> list[tuple[Activation, Array]]:
    """The activations of one step, in the order in which it computes them.

    params, carry, z: of `cell.step`. What is inside a loop or a branch is not seen.
    """
    jaxpr = jax.make_jaxpr(cell.step)(params, carry, z)
    found: list[tuple[str, Any, Any]] = []
    names: dict[int, str] = {}
    _evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves((params, carry, z)), found, names)
    count: dict[str, int] = {}
    result = []
    for kind, value, identity in found:
        count[kind] = count.get(kind, 0) + 1
        result.append((Activation(names.get(identity, f"{kind} {count[kind]}"), kind), value))
    return result


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], found: Any, names: Any
) -> list[Any]:
    """The jaxpr's results; its activations are added to `found`, by the id of their values."""
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for variable, value in zip(
        (*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True
    ):
        values[variable] = value
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        primitive, inner = equation.primitive.name, _inner(equation)
        is_relu = equation.params.get("name") == "relu"
        if primitive == "name":
            names[id(inputs[0])] = equation.params["name"]
            outputs = inputs
        elif inner is not None:
            closed, constants = inner
            deeper = [] if is_relu else found
            outputs = _evaluate(closed, constants, inputs, deeper, names)
        else:
            options = equation.primitive.get_bind_params(equation.params)
            if isinstance(options, tuple):  # older versions of JAX
                inputs, options = [*options[0], *inputs], options[1]
            outputs = equation.primitive.bind(*inputs, **options)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        if is_relu and inner is not None:
            found.append(("relu", outputs[0], id(outputs[0])))
        elif primitive in ("tanh", "logistic"):
            found.append((primitive, outputs[0], id(outputs[0])))
        for variable, value in zip(equation.outvars, outputs, strict=True):
            values[variable] = value
    return [read(atom) for atom in jaxpr.outvars]


def _inner(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """(jaxpr, consts) of a call that only groups what is inside it."""
    if equation.primitive.name not in (
        "jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2",
        "custom_jvp_call", "custom_vjp_call",
    ):  # fmt: skip
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in equation.params:
            closed = equation.params[key]
            return (closed.jaxpr, closed.consts) if hasattr(closed, "jaxpr") else (closed, ())
    return None


def beyond(activation: Activation, values: Array) -> Array:
    """bool: which values are saturated. tanh: |a| > 0.95; a gate: a > 0.95 or a < 0.05, nearly open
    or shut; a relu: a = 0, where no gradient passes."""
    if activation.kind == "tanh":
        return jnp.abs(values) > BEYOND
    if activation.kind == "relu":
        return values <= 0
    return (values > BEYOND) | (values < 1 - BEYOND)


class Saturation(NamedTuple):
    """One activation of one layer over a window."""

    layer: str
    activation: Activation
    share: np.ndarray  # [T], of values that are saturated, over rows and units
    units: np.ndarray  # [H], of values that are saturated, over rows and steps
    histogram: np.ndarray  # [T, BINS], shares; a relu's lie between 0 and its largest value
    edges: np.ndarray  # [BINS + 1]


def _over_time(cell: Cell, seen: Seen) -> Callable[[Params], list[tuple[Activation, Array]]]:
    """params -> the activations of every step, [T, B, H] each."""
    time, rows = seen.x.shape[:2]

    def run(params: Params) -> list[tuple[Activation, Array]]:
        z = cell.project(params, seen.x, None)
        found = traced(cell, params, *together((seen.before, z)))
        return [(which, value.reshape(time, rows, -1)) for which, value in found]

    return run


def measure(
    cell: Cell, params: Params, seen: Seen, *, layer: str, valid: Array | None = None
) -> list[Saturation]:
    """The activations of a layer over a window: shares that are saturated, and histograms.

    params: of that layer; seen: of `Model.watch`. Without noise inside the cell.
    valid: bool [T, B], the steps that exist; None: all do.
    """
    which: list[Activation] = []
    there = jnp.ones(seen.x.shape[:2], bool) if valid is None else jnp.asarray(valid)

    def mean(values: Array, axes: tuple[int, ...]) -> Array:  # of [T, B, H], over what exists
        weights = jnp.broadcast_to(there[..., None], values.shape)
        return (values * weights).sum(axes) / jnp.maximum(weights.sum(axes), 1)

    @jax.jit
    def found(params: Params) -> Any:
        activations = _over_time(cell, seen)(params)
        which[:] = [one for one, _ in activations]
        rows = []
        for one, values in activations:
            low, high = one.range
            high = jnp.where(jnp.isinf(high), values.max(), high)
            width = jnp.where(high > low, high - low, 1.0)
            place = jnp.clip(((values - low) / width * BINS).astype(jnp.int32), 0, BINS - 1)
            bins = jnp.arange(BINS)
            counts = jax.lax.map(
                lambda b, place=place: mean(place == b, (1, 2)), bins
            ).T  # [T, BINS]
            saturated = beyond(one, values)
            edges = low + (high - low) * jnp.arange(BINS + 1) / BINS
            rows.append((mean(saturated, (1, 2)), mean(saturated, (0, 1)), counts, edges))
        return rows

    rows = jax.tree.map(np.asarray, found(params))
    return [Saturation(layer, one, *row) for one, row in zip(which, rows, strict=True)]


def share(cell: Cell, params: Params, seen: Seen, valid: Array | None = None) -> dict[str, Array]:
    """activation -> the share of its values that is saturated; for use inside a jitted step.

    valid: as for `measure`.
    """
    there = jnp.ones(seen.x.shape[:2], bool) if valid is None else valid
    count = jnp.maximum(there.sum(), 1)

    def mean(saturated: Array) -> Array:
        return (saturated & there[..., None]).sum() / (count * saturated.shape[-1])

    return {one.name: mean(beyond(one, v)) for one, v in _over_time(cell, seen)(params)}
