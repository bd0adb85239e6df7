"""A stack of cells between an input layer and a readout, as pure functions of one dict pytree.

    params = {"embedding": [V, E]?, "layers": [...], "readout": {"kernel": [W, V]?, "bias": [V]}}

A layer is a cell's parameters, or {"forward": ..., "backward": ...} where bidirectional.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab import cells
from rnnlab.cells import parts
from rnnlab.cells.parts import initialisers
from rnnlab.cells.parts.precision import matmul
from rnnlab.errors import UsageError
from rnnlab.models.encoders import Encoder
from rnnlab.recurrence.bptt import KEEP
from rnnlab.recurrence.taps import Seen, Taps, parted, untied
from rnnlab.recurrence.unrolling import PATHS, sqrt_chunk, unroll
from rnnlab.types import Array, Cell, Model, Params

MOST_LAYERS = 256  # each is traced by itself: more take minutes before the first step
NO_TOKEN = jnp.iinfo(jnp.int32).max  # a token that no vocabulary has: its one-hot row is all zeros


def stack_cells(
    *,
    input_size: int,
    output_size: int,
    cell: str | Cell,
    hidden: int | None = None,
    layers: int = 1,
    input: str = "one_hot",
    embedding_size: int = 0,
    bidirectional: bool = False,
    residual: bool = False,
    skip: bool = False,
    dropout: float | Array = 0.0,
    input_dropout: float | Array = 0.0,
    output_dropout: float | Array = 0.0,
    dropout_shared: bool = False,
    tied: bool = False,
    readout_init: str = "glorot_uniform",
    remat: bool = False,
    path: str = "auto",
    keep: str = "preactivations",
    precision: str = "float32",
    preset: str | None = None,
    cell_options: dict[str, Any] | None = None,
) -> Model:
    """A model from token inputs [T, B] (or real vectors [T, B, D]) to outputs [T, B, output_size].

    cell: the name of one, for `cells.get` with `hidden`, `precision`, `preset` and `cell_options`; or
        a `Cell`, which has all of these already.
    input: "one_hot" (gathered, never materialised), "embedding" (a trained table of
        `embedding_size` columns), or "dense" (x is [T, B, input_size] and goes to the cell as it is).
    residual: a layer's output is added to its input, from the second layer on (He et al. 2016).
    skip: the readout sees the outputs of all layers, side by side (Graves 2013).
    dropout: rate between layers; input_dropout: rate on the input (one-hot: whole characters are
        blanked, without rescaling); output_dropout: rate before the readout. `dropout_shared`:
        one mask for all time steps (Gal and Ghahramani 2016) instead of one a step
        (Zaremba et al. 2014).
    tied: the readout's kernel is the embedding table (Press and Wolf 2017), so the readout must see
        `embedding_size` values.
    remat: keep every sqrt(T)-th carry alone for the backward pass; see `unroll`.
    path, keep: how the cells run over time, as for `unroll`.
    precision: of every matrix product, in the cells and the readout: see `rnnlab.cells.parts.precision`.

    Raises UsageError for values that do not fit together.
    """
    rates = {"dropout": dropout, "input_dropout": input_dropout, "output_dropout": output_dropout}
    _check(layers, input, embedding_size, rates, path, keep, readout_init)
    if isinstance(cell, str):
        unit = _named_cell(cell, hidden, precision, preset, cell_options or {})
    else:
        unit = _given_cell(cell, hidden, precision, preset, cell_options)
    made = Stack(
        unit=unit,
        input_size=input_size,
        output_size=output_size,
        layers=layers,
        input=input,
        embedding_size=embedding_size,
        bidirectional=bidirectional,
        residual=residual,
        skip=skip,
        dropout=dropout,
        input_dropout=input_dropout,
        output_dropout=output_dropout,
        dropout_shared=dropout_shared,
        tied=tied,
        readout_init=readout_init,
        remat=remat,
        path=path,
        keep=keep,
    )
    if tied and (input != "embedding" or made.readout_width != embedding_size):
        raise UsageError(
            f"model.tied needs model.input 'embedding' with model.embedding_size {made.readout_width}, "
            f"the width of the readout's input; it is '{input}' with {embedding_size}"
        )
    return Model(
        init=made.init,
        carry=made.carry,
        apply=made.apply,
        watch=made.watch,
        cell=unit,
        names=made.names,
        causal=not bidirectional,
        layers=parameter_rows(made.init),
    )


def _check(
    layers: int,
    input: str,
    embedding_size: int,
    rates: dict[str, float | Array],
    path: str,
    keep: str,
    readout_init: str,
) -> None:
    if not 1 <= layers <= MOST_LAYERS:
        raise UsageError(f"model.layers must be in [1, {MOST_LAYERS}], got {layers}")
    if embedding_size < 0:
        raise UsageError(f"model.embedding_size must be at least 0, got {embedding_size}")
    if input not in ("one_hot", "embedding", "dense"):
        raise UsageError(f"model.input must be 'one_hot', 'embedding' or 'dense', got '{input}'")
    if input == "embedding" and embedding_size < 1:
        raise UsageError("model.input is 'embedding': set model.embedding_size to at least 1")
    for name, rate in rates.items():
        if not isinstance(rate, jax.Array) and not 0.0 <= rate < 1.0:
            raise UsageError(f"model.{name} must be in [0, 1), got {rate}")
    for name, value, known in (("path", path, PATHS), ("keep", keep, KEEP)):
        if value not in known:
            raise UsageError(f"model.{name} must be one of {', '.join(known)}, got '{value}'")
    initialisers.check("model.readout_init", readout_init)


def _named_cell(
    name: str, hidden: int | None, precision: str, preset: str | None, own: dict[str, Any]
) -> Cell:
    options: dict[str, Any] = {"precision": precision}
    if hidden is not None:
        options["hidden"] = hidden
    for option in ("hidden", "precision"):
        if option in own:
            raise UsageError(f"set model.{option}: it is no option of the cell alone")
    return cells.get(name, preset=preset, **options, **own)


def _given_cell(
    cell: Cell, hidden: int | None, precision: str, preset: str | None, own: dict[str, Any] | None
) -> Cell:
    if preset or own or hidden not in (None, cell.hidden):
        raise UsageError(
            f"the cell '{cell.name}' is made already, with {cell.hidden} units: hidden, preset and "
            "cell_options go with the name of a cell"
        )
    if precision not in ("float32", cell.precision):
        raise UsageError(
            f"the cell '{cell.name}' is made already, in precision '{cell.precision}', not '{precision}'"
        )
    return cell


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack:
    """What `stack_cells` was asked for; the methods are the functions of the `Model`, all of them pure."""

    unit: Cell
    input_size: int
    output_size: int
    layers: int
    input: str
    embedding_size: int
    bidirectional: bool
    residual: bool
    skip: bool
    dropout: float | Array
    input_dropout: float | Array
    output_dropout: float | Array
    dropout_shared: bool
    tied: bool
    readout_init: str
    remat: bool
    path: str
    keep: str

    @property
    def directions(self) -> tuple[str, ...]:
        """The unrolls of a layer."""
        return ("forward", "backward") if self.bidirectional else ("forward",)

    @property
    def layer_width(self) -> int:
        """The width of what a layer puts out."""
        return self.unit.hidden * len(self.directions)

    @property
    def readout_width(self) -> int:
        """The width of what the readout sees."""
        return self.layer_width * (self.layers if self.skip else 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the unrolls, in their order: "layer 1", or "layer 1 forward"."""
        return tuple(
            f"layer {index + 1}" + f" {direction}" * self.bidirectional
            for index in range(self.layers)
            for direction in self.directions
        )

    def init(self, key: Array, dtype: Any = jnp.float32) -> dict[str, Any]:
        """The parameters, as the head of this file says."""
        key_e, key_r, *keys = jax.random.split(key, 2 + self.layers)
        input_width = self.embedding_size if self.input == "embedding" else self.input_size
        stack = []
        for index, key_layer in enumerate(keys):
            width = self.layer_width if index else input_width
            split = jax.random.split(key_layer, len(self.directions))
            layer = {
                name: self.unit.init(k, width, dtype)
                for name, k in zip(self.directions, split, strict=True)
            }
            stack.append(layer if self.bidirectional else layer["forward"])
        params: dict[str, Any] = {
            "layers": stack,
            "readout": {"bias": jnp.zeros(self.output_size, dtype)},
        }
        if not self.tied:
            draw = initialisers.from_spec(self.readout_init)
            params["readout"]["kernel"] = draw(key_r, (self.readout_width, self.output_size), dtype)
        if self.input == "embedding":
            shape = (self.input_size, self.embedding_size)
            table = jax.random.normal(key_e, shape, dtype)
            params["embedding"] = table * (self.embedding_size**-0.5)
        return params

    def carry(self, batch: int, dtype: Any = jnp.float32) -> tuple[Any, ...]:
        """The zero state: for each layer a tuple with a cell's carry for each direction."""
        return tuple(
            tuple(self.unit.carry(batch, dtype) for _ in self.directions)
            for _ in range(self.layers)
        )

    def apply(self, params: Params, carry: Any, x: Array, **options: Any) -> tuple[Any, Array]:
        """(carry, outputs [T, B, V]); `options` are those of `run`."""
        return self.run(params, carry, x, record=False, **options)[:2]

    def watch(self, params: Params, carry: Any, x: Array, **options: Any) -> Any:
        """(carry, outputs [T, B, V], what each unroll did)."""
        return self.run(params, carry, x, record=True, **options)

    def run(
        self,
        params: dict[str, Any],
        carry: Any,
        x: Array,
        *,
        key: Array | None = None,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        taps: Sequence[Taps | None] | None = None,
        outer: dict[str, Taps] | None = None,
        record: bool,
    ) -> tuple[Any, Array, tuple[Seen, ...]]:
        """The model over x, int [T, B] or float [T, B, D]; see `rnnlab.types.Model`.

        key: of the dropout masks and of the noise inside the cells; None in evaluation. lengths [B],
            mask and reset [T, B]: as for `unroll`. taps, outer: what to see of the gradient, of the
            unrolls and of both ends.
        record: whether what each unroll did is kept, in the order of `names`.
        """
        keys = (
            [None] * (2 * self.layers + 2)
            if key is None
            else list(jax.random.split(key, 2 * self.layers + 2))
        )
        over = functools.partial(
            unroll,
            self.unit,
            lengths=lengths,
            mask=mask,
            reset=reset,
            record=record,
            chunk=sqrt_chunk(x.shape[0]) if self.remat else 0,
            path=self.path,
            keep=self.keep,
        )
        asked = iter(taps or (None,) * len(self.names))
        seen: list[Seen] = []

        def through(layer: Any, x: Array, start: Any, **options: Any) -> tuple[Any, Array]:
            final, y = over(layer, x, start, taps=next(asked), **options)
            if record:
                y, one = parted(self.unit, x, y)
                seen.append(one)
            return final, y

        outer = outer or {}
        x = self.enter(params, x, keys[-1], outer.get("embedding"))
        new_carry, outputs = [], []
        for index, layer in enumerate(params["layers"]):
            inside = self.dropped(keys[2 * index], self.dropout, x) if index else x
            final, y = self.through_layer(through, layer, inside, carry[index], keys[2 * index + 1])
            new_carry.append(final)
            x = x + y if self.residual and index else y
            outputs.append(x)
        top = jnp.concatenate(outputs, axis=-1) if self.skip else x
        top = self.dropped(keys[-2], self.output_dropout, top)
        read = functools.partial(self.read, params)
        outputs = untied(read, params["readout"], outer.get("readout"), top)
        return tuple(new_carry), outputs, tuple(seen)

    def through_layer(
        self, through: Callable[..., Any], layer: Any, x: Array, start: Any, key: Array | None
    ) -> tuple[tuple[Any, ...], Array]:
        """(the carry of a layer, its outputs [T, B, W]), both directions side by side.

        through: (a cell's parameters, x, its carry, key=, reverse=) -> (carry, y).
        """
        if not self.bidirectional:
            final, y = through(layer, x, start[0], key=key)
            return (final,), y
        one, two = (None, None) if key is None else tuple(jax.random.split(key))
        forward, y_f = through(layer["forward"], x, start[0], key=one)
        backward, y_b = through(layer["backward"], x, start[1], key=two, reverse=True)
        return (forward, backward), jnp.concatenate([y_f, y_b], axis=-1)

    def enter(
        self, params: dict[str, Any], x: Array, key: Array | None, taps: Taps | None
    ) -> Array:
        """What the first layer reads, with dropout on it."""
        if self.input == "one_hot":
            if key is not None and _active(self.input_dropout):
                blank = parts.bernoulli(key, self.input_dropout, x.shape)
                x = jnp.where(blank, NO_TOKEN, x.astype(jnp.int32))  # no room for it in a uint8
            return x
        if self.input == "embedding":
            x = untied(
                lambda table, x: jnp.take(table, x, axis=0, mode="clip"),
                params["embedding"],
                taps,
                x,
            )
        return self.dropped(key, self.input_dropout, x)

    def dropped(self, key: Array | None, rate: float | Array, x: Array) -> Array:
        """x [T, B, W] after dropout, rescaled; x itself without a key or a rate."""
        if key is None or not _active(rate):
            return x
        shape = (1, *x.shape[1:]) if self.dropout_shared else x.shape
        return jnp.where(parts.bernoulli(key, 1.0 - rate, shape), x / (1.0 - rate), 0.0)

    def read(self, params: dict[str, Any], readout: dict[str, Array], top: Array) -> Array:
        """The outputs [T, B, V] of top [T, B, W]; readout: params["readout"], or a copy of it."""
        kernel = params["embedding"].T if self.tied else readout["kernel"]
        return matmul(self.unit.precision)(top, kernel) + readout["bias"]


def _active(rate: float | Array) -> bool:
    return isinstance(rate, jax.Array) or rate > 0.0


def parameter_rows(init: Callable[..., Params]) -> tuple[tuple[str, str], ...]:
    """(name, shape) of every parameter that `init(key)` makes."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    table = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        table.append((name, " x ".join(str(n) for n in leaf.shape)))
    return tuple(table)


@functools.lru_cache(maxsize=32)
def encoded(net: Model, encoder: Encoder) -> Model:
    """The model with an encoder before it: x is what the encoder reads, [T, B, ...], and its
    parameters are `params["encoder"]`, beside those of `net`."""

    def init(key: Array, dtype: Any = jnp.float32) -> dict[str, Any]:
        key_net, key_encoder = jax.random.split(key)
        return {**net.init(key_net, dtype), "encoder": encoder.init(key_encoder, dtype)}

    def before(run: Callable[..., Any]) -> Callable[..., Any]:
        def apply(params: Params, carry: Any, x: Array, **options: Any) -> Any:
            return run(params, carry, encoder.apply(params["encoder"], x), **options)

        return apply

    return net._replace(
        init=init, apply=before(net.apply), watch=before(net.watch), layers=parameter_rows(init)
    )
