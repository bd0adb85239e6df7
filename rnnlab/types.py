"""The contracts between the parts, and the legend of shape letters.

Legend, used in every shape comment:

    B batch    T time    D input size    H hidden size    G gates fused in one kernel
    L layers   V vocabulary    K parallel streams or beams    S samples
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Config = Any  # an ml_collections.ConfigDict, whose attributes no type checker knows
Params = Any  # a dict pytree of arrays
Carry = Any  # a NamedTuple of arrays [B, H], the state a cell hands to its next time step


class Cell(NamedTuple):
    """A recurrent cell: pure functions and nothing else.

    The plain scan over `project` then `step`, differentiated by JAX, is the definition of a cell's
    computation and of its gradient. Four further fields state the same step in four parts, so that
    its one recurrent product stands by itself (`rnnlab.recurrence.bptt` makes the fast gradient of them):

        r = product(params, operand(carry, z))
        step(params, carry, z) == gates(params, carry, merge(z, r))

    They are None where no such form exists (reset-before GRU, say); the plain scan serves then.
    """

    name: str
    hidden: int  # H, the size of the output y
    # (key, input_size, dtype) -> params: a dict with every gate fused in one matrix for x, one for h
    init: Callable[..., Params]
    # (batch, dtype) -> carry: the zero state
    carry: Callable[..., Carry]
    # (key, T, B) -> noise: the random draws of a window (dropout masks ...), with a leading time axis
    noise: Callable[..., Any]
    # (params, x [T, B, D] float or [T, B] int, noise) -> z: all that depends on the input alone, with
    # a leading time axis; one GEMM, hoisted out of the scan. An integer x means one-hot rows,
    # gathered and never materialised; a token >= D is a row of zeros. A noise of None: evaluation.
    project: Callable[..., Any]
    # (params, carry, z at one t) -> (carry, y [B, H]): what is sequential, and nothing else
    step: Callable[..., tuple[Carry, Array]]
    operand: Any = None  # (carry, z) -> [B, H], what the product multiplies
    # (params, operand [..., H]) -> r: the recurrent matrix product, and a bias that is added to it
    product: Any = None
    # (z, r) -> u: what `gates` needs of the two, linear in both; the less it is, the less is kept
    merge: Any = None
    gates: Any = None  # (params, carry, u) -> (carry, y)
    precision: str = "float32"  # of its matrix products, a name of `rnnlab.cells.parts.precision`


class Model(NamedTuple):
    """A stack of cells between an input layer and a readout; pure functions of dict pytrees."""

    init: Callable[..., Params]  # (key, dtype) -> params
    # (batch, dtype) -> carry, the zero state: for each layer a tuple with a carry for each direction
    carry: Callable[..., Carry]
    # (params, carry, x, *, key, lengths, mask, reset, taps, outer) -> (carry, outputs [T, B, V]).
    # x: int [T, B], or float [T, B, D]; lengths [B], mask and reset [T, B] as for `unroll`; a key of
    # None means evaluation. taps has a `Taps` (of rnnlab.recurrence.taps) or None for each unroll, in
    # the order of `names`; outer those of the "readout" and the "embedding", of which there may be
    # shares.
    apply: Callable[..., tuple[Carry, Array]]
    causal: bool  # no output depends on a later input; only such a model can generate
    layers: tuple[tuple[str, str], ...]  # (layer, shape) rows, for the table printed at the start
    # What a `Probe` needs: `apply`, but -> (carry, outputs, seen) with a `Seen` (of
    # rnnlab.recurrence.taps) for each unroll
    watch: Any = None
    cell: Any = None  # the Cell of every layer
    names: tuple[str, ...] = ()  # of the unrolls: "layer 1" ..., or "layer 1 forward" ...


class Probe(NamedTuple):
    """The recurrent model of a task laid open, for `rnnlab.diagnose`."""

    net: Model
    # batch -> the named arguments of net.apply: x, and lengths, mask, reset where there are any
    inputs: Callable[[Any], dict[str, Any]]
    # (outputs [T, B, V], batch) -> (values [T, B], weights [T, B]); their weighted mean is the loss
    losses: Callable[[Array, Any], tuple[Array, Array]]
    # batch -> bool [B], the rows that a window starts from a zero state, whatever the carry; None: none
    fresh: Callable[[Any], Array] | None = None
    # of a model of text: () -> (its Vocabulary, the held-out tokens [N])
    text: Callable[[], tuple[Any, Any]] | None = None

    def begin(self, carry: Carry, batch: Any, dtype: Any) -> Carry:
        """The state that a window starts from, every leaf [B, H]: zero where the task carries none
        over (carry = ()), and for the rows of the batch that begin afresh."""
        zero = self.net.carry(self.inputs(batch)["x"].shape[1], dtype)
        if not jax.tree.leaves(carry):
            return zero
        if self.fresh is None:
            return carry
        fresh = self.fresh(batch)

        def pick(new: Array, old: Array) -> Array:
            return jnp.where(fresh.reshape(fresh.shape + (1,) * (old.ndim - 1)), new, old)

        return jax.tree.map(pick, zero, carry)


class About(NamedTuple):
    """What `launch.py tasks` says of a task: the constant ABOUT of its module."""

    mapping: str  # one of MAPPINGS
    data: str  # built in, and read or downloaded
    metric: str  # the field's own
    experiment: str  # a file of experiments/ to begin with


MAPPINGS = (
    "one-to-one",
    "one-to-many",
    "many-to-one",
    "many-to-many",
    "many-to-many in step",
)


class Task(NamedTuple):
    """What is learned: the batches, the loss and the pictures. One file of rnnlab/tasks makes one.

    Several devices share the rows B of a batch (`rnnlab.train.parallel`): a leaf of a batch is [T, B, ...],
    [B], or a scalar that all of them get; a leaf of the carry is [B, ...]. No row knows of another.
    """

    init: Callable[..., Params]  # (key) -> params
    carry: Callable[[], Carry]  # the state carried from window to window, () if there is none
    batch: Callable[[int], Any]  # step -> a pytree of NumPy arrays; a pure function of the step
    # (params, carry, batch, key) -> (carry, sums): sums maps a metric to (sum, count); 'loss' is
    # the one minimised. A key of None means evaluation. With a `probe` it takes the `taps` of
    # `Model.apply` too.
    loss: Callable[..., tuple[Carry, dict[str, tuple[Array, Array]]]]
    evaluate: Callable[[Params], dict[str, float]]  # params -> metrics of the held-out split
    finish: Callable[[Params], dict[str, float]]  # what is measured once, at the end
    show: Callable[[Params, int], str]  # (params, step) -> what the model does now, for a person
    layers: tuple[tuple[str, str], ...]  # (layer, shape) rows of the model
    keep: Callable[[Path], None]  # writes into a run's folder what evaluating it needs
    facts: Callable[[], dict[str, Any]]  # what run.json records of the data: sizes, hashes
    fingerprint: dict[str, Any]  # what a checkpoint must agree with: model shapes and vocabulary
    unit: str  # what is counted in the rate: "char", "frame" ...
    # For many runs in one program (`rnnlab.sweep.population`), whose batches may differ by the seed, but by
    # none of these. Config keys that touch `init` alone:
    initial: tuple[str, ...] = ()
    # config keys of rates whose value may be a JAX scalar, unless it is 0,
    rates: tuple[str, ...] = ()
    # and the `loss` with such values: (key -> scalar) -> loss
    loss_of: Any = None
    probe: Probe | None = None  # None where the model is no stack of cells
    measure: str = "nats"  # what the loss counts, a `unit`
    baseline: tuple[str, float] | None = None  # (who needs no memory, its loss)
    # flags of the verb sample to begin with, quoted for a shell; only if the task's module has
    # `write_samples` for it
    writes: str = ""
    # (params, folder) -> the pictures and pages that it has written there, for the verb show
    draw: Callable[[Params, Path], list[Path]] | None = None
    shapes: int = 1  # how many shapes the batches have; each is compiled
    # For weights of another run (`rnnlab.train.start`): vocabulary -> its symbols, by place; and
    # (vocabulary -> size) -> the `init` of that task with so many symbols
    symbols: Any = None
    resized: Any = None
