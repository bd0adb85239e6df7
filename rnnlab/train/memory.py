"""How much memory a train step needs, before anything is compiled, and what to say when it ran out.

The estimate is what must be there at once: the state (parameters, their average, the optimiser's
moments, the carried state), a gradient, and what the forward pass leaves for the backward pass, as JAX
finds it by tracing the loss with shapes alone. Beside `memory_analysis()` of the compiled step it was
0.45 to 1.04 times XLA's figure in 23 runs: every cell, option and path of the model, remat, keep, B of
1 to 64, T of 16 to 4096, and the tasks adding, captions, actions, tracking and speech. A run is
refused only where the estimate divided by MARGIN is not there, which would not fit.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import OutOfMemoryError, UsageError, exhausted, out_of_memory
from rnnlab.run import machine
from rnnlab.train import optim
from rnnlab.train.state import TrainState, configured_state
from rnnlab.types import Config, Task

MARGIN = 1.25
FLOAT = 4  # bytes


class Need(NamedTuple):
    """Bytes of a train step."""

    state: int  # and a gradient; every device has them
    kept: int  # for the backward pass; devices share it


def _size(tree: Any) -> int:
    """Bytes; a key is none worth counting."""
    leaves = jax.tree.leaves(tree)
    known = [x for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    return sum(x.size * x.dtype.itemsize for x in known)


def _state(config: Config, task: Task, optimiser: optim.Optimiser) -> TrainState:
    return jax.eval_shape(lambda: configured_state(config, task, optimiser))


def estimate(config: Config, task: Task, optimiser: optim.Optimiser) -> Need:
    """What a train step of the whole batch needs. Nothing is computed but the batch of step 0."""
    state = _state(config, task, optimiser)
    return Need(_size(state) + _size(state.params), _kept(task, state, task.batch(0)))


def _kept(task: Task, state: TrainState, batch: Any) -> int:
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), batch)

    def backward(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        def objective(params: Any) -> Any:
            total, count = task.loss(params, carry, batch, key)[1]["loss"]
            return total / count

        return jax.vjp(objective, params)[1]  # a tree, with what it has kept for its leaves

    found = jax.eval_shape(backward, state.params, state.carry, batch, state.key)
    own = {leaf.shape for leaf in jax.tree.leaves(state.params)}  # those are there already
    return _size([leaf for leaf in jax.tree.leaves(found) if leaf.shape not in own])


def available(devices: Sequence[Any]) -> int:
    """Bytes that may be taken: of each of these devices, or of all together if they are a CPU's."""
    if not devices or devices[0].platform == "cpu":
        return machine.available_memory()
    stats = [device.memory_stats() or {} for device in devices]
    free = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if "bytes_limit" in s]
    return min(free, default=2**62)


def check_rows(config: Config) -> None:
    """Raise UsageError if the outputs of one layer at all time steps, or of all layers at one, do not
    fit the memory of the machine or its devices, before such a batch is drawn."""
    most = max(config.train.window, config.model.layers)
    rows = FLOAT * config.train.batch_size * config.model.hidden * most
    devices = jax.local_devices()
    there = available(devices) * (1 if devices[0].platform == "cpu" else jax.device_count())
    _refuse(config, Need(0, rows), there)


def check(
    config: Config, task: Task, optimiser: optim.Optimiser, devices: Sequence[Any] = ()
) -> None:
    """Raise UsageError if a train step on these devices cannot fit: what it needs, what there is, and
    the fields to lower, largest need first. None: the default device.

    A step that is far from the limit is not traced.
    """
    devices = list(devices) or jax.local_devices()[:1]
    there, shares = available(devices), 1 if devices[0].platform == "cpu" else len(devices)
    state = _state(config, task, optimiser)
    held = _size(state) + _size(state.params)
    _refuse(config, Need(held, 0), there)
    try:
        batch = task.batch(0)
    except MemoryError as error:
        raise UsageError(advice(error, config)) from error
    widths = sum(leaf.shape[-1] for leaf in jax.tree.leaves(state.params) if leaf.ndim)
    most = 8 * FLOAT * widths * max((np.size(x) for x in jax.tree.leaves(batch)), default=0)
    if 2 * held + most > there // 2:
        _refuse(config, Need(held, _kept(task, state, batch) // shares), there)


def _refuse(config: Config, need: Need, there: int) -> None:
    if sum(need) / MARGIN <= there:
        return
    told = " and ".join(
        f"{_gib(size)} for {what} (lower {fields})"
        for size, what, fields in _parts(config, need)
        if size > 0.1 * sum(need)
    )
    raise UsageError(
        f"a train step needs {_gib(sum(need))} of memory or more, and {_gib(there)} are there: {told}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _parts(config: Config, need: Need) -> list[tuple[int, str, str]]:
    """(bytes, what for, the fields to lower), the largest first."""
    model = config.model
    rows = ["train.batch_size", "train.window", "model.hidden"]
    if model.get("remat") is False:
        rows.append("or set model.remat=True")
    widths = ["model.hidden", "model.layers"]
    if model.get("embedding_size"):
        widths.append("model.embedding_size")
    batch = f"what the backward pass needs of {config.train.batch_size} rows"
    parts = [
        (need.kept, batch, ", ".join(rows)),
        (need.state, "parameters, gradients and optimiser", ", ".join(widths)),
    ]
    return sorted(parts, reverse=True)


def advice(error: BaseException, config: Config) -> str:
    """What to say of an error that is `exhausted`; config: of the run that trained."""
    fields = _parts(config, Need(0, 1))[0][2]
    return out_of_memory(error, f"lower {fields}")


@contextlib.contextmanager
def explained(config: Config) -> Iterator[None]:
    """Raises OutOfMemoryError, with the fields to lower, where memory runs out inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not exhausted(error):
            raise
        kept = "; what was saved is kept"
        raise OutOfMemoryError(advice(error, config) + kept) from error
