"""Data parallelism: the batch of one train step over several devices, in one of two ways.

Over the devices of a GPU or TPU host, and over hosts, a mesh: the very same step under jit, the
state on every device, batch and carried state split along B; XLA inserts the all-reduce.

Over the devices that JAX makes of one host's CPU cores, no collective: an all-reduce there waits in
threads that the other device's matrix products need, and can hang for good. The gradient program is
dispatched once for each device, one program on the first device adds the gradients up and updates,
and the parameters go out anew with the next step. The state lives on the first device.

How a batch is cut along B is in `rnnlab.types.Task`. With dropout each CPU device draws masks of
its own, so another number of devices means other draws; the mathematics is the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnlab.errors import UsageError
from rnnlab.run.machine import cores
from rnnlab.types import Array

AXIS = "data"
ROWS_EACH = 16  # the fewest rows of a batch for which a CPU core is a device of its own


class Split(NamedTuple):
    """Over what the batch of a step is split."""

    devices: tuple[Any, ...] = ()  # jax.Device; one at most: no split
    mesh: Mesh | None = None  # None: no collective
    processes: int = 1

    @property
    def name(self) -> str:
        """What a checkpoint and run.json record: equal names promise equal bits."""
        count = max(len(self.devices), 1)
        how = f"{count} device{'s' * (count > 1)}"
        if self.mesh is not None:
            how += " in a mesh"
        return how + (f" of {self.processes} processes" if self.processes > 1 else "")


SINGLE = Split()


# ---- which devices


def host_devices(*, requested: int, batch: int, whole: bool = False) -> int:
    """How many devices to make of the CPU, before JAX starts: `requested`, or for 0 the most that
    divide the batch and have ROWS_EACH rows of it or more, but 1 if the step needs the `whole` batch
    at once. A pure function of its arguments and of `cores()`."""
    if requested or whole:
        return requested or 1
    most = min(cores(), batch // ROWS_EACH)
    return next((count for count in range(most, 1, -1) if batch % count == 0), 1)


def choose_split(*, requested: int, batch: int, whole: bool = False) -> Split:
    """The split of a run; it starts JAX's backend.

    requested: how many devices; 0 for what suits the machine, 1 for no split. Over several
        processes a step always takes all devices of each, of a CPU one each.
    whole: the step is no sum over rows. A mesh does not mind, CPU devices without one do.

    Raises UsageError if there are fewer, or if they do not divide the batch.
    """
    processes, cpu = jax.process_count(), jax.default_backend() == "cpu"
    if processes > 1:
        first = {d.process_index: d for d in reversed(jax.devices())}
        there = tuple(d for d in jax.devices() if not cpu or d == first[d.process_index])
        count = len(there)
        if requested not in (0, count):
            raise UsageError(
                f"parallel.devices is {requested}: {processes} processes use their {count} devices, "
                "leave it at 0"
            )
    elif cpu:
        there = tuple(jax.local_devices())[: cores()]
        count = host_devices(requested=requested, batch=batch, whole=whole)
        if not requested and count > len(there):  # JAX was running before it could be told
            count = 1
    else:
        there = tuple(jax.local_devices())
        count = requested or max(n for n in range(1, len(there) + 1) if batch % n == 0)
    if count > len(there):
        raise UsageError(f"parallel.devices is {count}, and there are {len(there)}")
    if batch % count:
        raise UsageError(f"train.batch_size {batch} cannot be split over {count} devices")
    if count == 1:
        return SINGLE
    devices = there[:count]
    mesh = None
    if processes > 1 or not cpu:
        mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return Split(devices, mesh, processes)


# ---- where the state is


def place_state(split: Split, state: Any) -> Any:
    """The train state where its steps take it."""
    if split.mesh is None:
        return jax.device_put(state, split.devices[0]) if split.devices else state
    return jax.tree.map(_put, state, _places(split.mesh, state))


def gather_state(split: Split, state: Any) -> Any:
    """The state as arrays of this process alone; every process must call it."""
    if split.mesh is None:
        return state
    everywhere = jax.jit(lambda tree: tree, out_shardings=NamedSharding(split.mesh, P()))
    return local_copy(split, everywhere(state))


def local_copy(split: Split, tree: Any) -> Any:
    """What every device has a copy of, as the first of this process has it."""
    if split.mesh is None:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _places(mesh: Mesh, state: Any) -> Any:
    """The sharding of each leaf of the train state: the carry along B, the rest everywhere."""
    alike, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    places = jax.tree.map(lambda _: alike, state)
    return places.replace(carry=jax.tree.map(lambda _: cut, state.carry))


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """`leaf`, which every process has, over the devices of them all."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


# ---- the step


def step_on_mesh(
    split: Split, step: Callable[..., Any], *, grouped: bool, signal: Callable[[], int | None]
) -> Callable[..., Any]:
    """`step`, a function (state, batch, *rest) -> (state, report), jitted over the mesh.

    grouped: batches are stacked along a new first axis.
    signal: asked before each step; the report's "signal" is the highest answer of all processes,
        so that they stop after the same step. No process waits for it.
    """
    mesh, first = split.mesh, int(grouped)
    assert mesh is not None

    def cut(leaf: Any) -> Array:
        rank = leaf.ndim - first
        axes = {0: (), 1: (AXIS,)}.get(rank, (None, AXIS))
        return _put(leaf, NamedSharding(mesh, P(*[None] * first, *axes)))

    def told(state: Any, batch: Any, signals: Array, *rest: Any) -> Any:
        state, report = step(state, batch, *rest)
        return state, report | {"signal": signals.max()}

    compiled = None

    def run(state: Any, batch: Any, *rest: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            places = (_places(mesh, state), NamedSharding(mesh, P()))
            compiled = jax.jit(told, donate_argnums=0, out_shardings=places)
        signals = np.full(len(split.devices), signal() or 0, np.int32)
        signals = _put(signals, NamedSharding(mesh, P(AXIS)))
        return compiled(state, jax.tree.map(cut, batch), signals, *rest)

    return run


def step_in_shares(
    split: Split, gradient: Callable[..., Any], update: Callable[..., Any]
) -> Callable[..., Any]:
    """The step without a collective: (state, batch) -> (state, report).

    gradient: (params, carry, batch, key, step) -> (grads, carry, *sums) of a share of the batch,
        the gradient that of the sum over the share.
    update: (state, grads, carry, *sums) -> (state, report); it gets what the shares add up to, and
        their carries one after the other. The state is donated.
    """
    count, home = len(split.devices), split.devices[0]
    given = made = None  # the shapes of what goes out to the devices, and of what comes back

    def share(sent: Any, batch: Any, index: Any, key_type: Any) -> Any:
        def own_rows(leaf: Array) -> Array:
            rows = leaf.shape[0] // count
            return jax.lax.dynamic_slice_in_dim(leaf, index * rows, rows)

        nonlocal made
        params, carry, key, step = _unpacked(sent, given)
        key = jax.random.wrap_key_data(key, impl=key_type)
        key = jnp.where(index == 0, key, jax.random.fold_in(key, index))
        result = gradient(params, jax.tree.map(own_rows, carry), batch, key, step)
        made = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), result)
        return _packed(result)

    def together(state: Any, shares: Sequence[Any]) -> Any:
        # In a fixed order: the bits do not depend on which device was done first.
        grads, carries, *sums = zip(*(_unpacked(each, made) for each in shares), strict=True)
        carry = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *carries)
        return update(state, _added(grads), carry, *map(_added, sums))

    send = jax.jit(lambda state: _packed(_outgoing(state)))
    one_share = jax.jit(share, static_argnums=3)
    together = jax.jit(together, donate_argnums=0)
    indices = [jax.device_put(np.int32(i), device) for i, device in enumerate(split.devices)]

    def run(state: Any, batch: Any) -> Any:
        nonlocal given
        if given is None:
            given = jax.eval_shape(_outgoing, state)
        sent, key_type = send(state), jax.random.key_impl(state.key)
        # All is on its way before a device begins: from then on the host competes for the cores.
        parts = [jax.tree.map(lambda x, i=i: _rows(x, i, count), batch) for i in range(count)]
        ready = [jax.device_put((sent, p), d) for p, d in zip(parts, split.devices, strict=True)]
        shares = [one_share(s, p, i, key_type) for (s, p), i in zip(ready, indices, strict=True)]
        return together(state, jax.device_put(shares, home))

    return run


def _outgoing(state: Any) -> Any:
    return state.params, state.carry, jax.random.key_data(state.key), state.step


def _packed(tree: Any) -> dict[str, Array]:
    """All leaves of one dtype in one vector, which moves between devices as one."""
    vectors = {}
    for leaf in jax.tree.leaves(tree):
        vectors.setdefault(str(leaf.dtype), []).append(leaf.ravel())
    return {dtype: jnp.concatenate(parts) for dtype, parts in vectors.items()}


def _unpacked(vectors: dict[str, Array], like: Any) -> Any:
    """The tree again; `like` has its shapes and dtypes."""
    begun = dict.fromkeys(vectors, 0)

    def leaf(shape: Any) -> Array:
        start = begun[str(shape.dtype)]
        begun[str(shape.dtype)] += shape.size
        return vectors[str(shape.dtype)][start : start + shape.size].reshape(shape.shape)

    return jax.tree.map(leaf, like)


def _added(trees: Sequence[Any]) -> Any:
    total, *rest = trees
    for tree in rest:
        total = jax.tree.map(jnp.add, total, tree)
    return total


def _rows(leaf: np.ndarray, index: int, count: int) -> np.ndarray:
    """The rows of one device: of [T, B, ...] along B, of [B] along B, of a scalar itself."""
    if np.ndim(leaf) == 0:
        return leaf
    axis = min(leaf.ndim - 1, 1)
    rows = leaf.shape[axis] // count
    return leaf[:, index * rows : (index + 1) * rows] if axis else leaf[index * rows :][:rows]


# ---- processes


def broadcast(value: float) -> float:
    """The value of process 0, in every process; all of them must call it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    # As integers: JAX would round it to float32.
    words = np.array([value], np.float64).view(np.int32)
    return float(np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.float64)[0])
