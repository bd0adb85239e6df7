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


def over_time(cell: Cell, seen: Seen) -> Callable[[Params], list[tuple[Activation, Array]]]:
    """params -> the activations of every step in the order of `traced`, [T, B, H] each.

    seen: what the layer did, of `Model.watch`. Without noise inside the cell.
    """
    time, rows = seen.x.shape[:2]

    def run(params: Params) -> list[tuple[Activation, Array]]:
        z = cell.project(params, seen.x, None)
        found = traced(cell, params, *together((seen.before, z)))
        return [(which, value.reshape(time, rows, -1)) for which, value in found]

    return run


def share(cell: Cell, params: Params, seen: Seen, valid: Array | None = None) -> dict[str, Array]:
    """activation -> the share of its values that is saturated; for use inside a jitted step.

    params: of that layer; seen: of `Model.watch`. Without noise inside the cell.
    valid: bool [T, B], the steps that exist; None: all do.
    """
    there = jnp.ones(seen.x.shape[:2], bool) if valid is None else valid
    count = jnp.maximum(there.sum(), 1)

    def mean(saturated: Array) -> Array:
        return (saturated & there[..., None]).sum() / (count * saturated.shape[-1])

    return {one.name: mean(beyond(one, v)) for one, v in over_time(cell, seen)(params)}
