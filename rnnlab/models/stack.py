"""A stack of cells between an input layer and a readout, as pure functions of one dict pytree.

    params = {"embedding": [V, E]?, "layers": [...], "readout": {"kernel": [W, V]?, "bias": [V]}}

A layer is a cell's parameters, or {"forward": ..., "backward": ...} where bidirectional.
"""

import functools
from collections.abc import Callable, Sequence
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
from rnnlab.run.config import flat
from rnnlab.types import Array, Cell, Config, Model, Params

# Keys of `config.model`. Those that touch the initial values alone, so that models which differ in
# them are one program; and the rates that may be JAX scalars, traced or not: these go unchecked and
# count as greater than 0.
INITIAL = (
    "readout_init",
    "options.kernel_x_init",
    "options.kernel_h_init",
    "options.bias_init",
    "options.init_per_gate",
    "options.gate_bias",
)
RATES = ("dropout", "input_dropout", "output_dropout")
MOST_LAYERS = 256  # each is traced by itself: more take minutes before the first step
NO_TOKEN = jnp.iinfo(jnp.int32).max  # a token that no vocabulary has: its one-hot row is all zeros


def from_config(
    config: Config,
    *,
    input_size: int,
    output_size: int,
    real: bool = False,
    future: bool = False,
    values: dict[str, Any] | None = None,
) -> Model:
    """The model of `config.model` from inputs to outputs of these sizes.

    real: the inputs are real vectors and not symbols; `model.input` "auto" follows it. values: take
    the place of the config's own, by dotted key. future: the outputs may depend on later inputs.
    Raises UsageError for what does not fit together, and for a model that sees a future it must not.
    """
    chosen = flat(config.model) | {
        key.removeprefix("model."): value for key, value in (values or {}).items()
    }
    return _of(input_size, output_size, real, future, chosen)


def to_read(
    config: Config, *, input_size: int, output_size: int, real: bool = False, future: bool = False
) -> Model:
    """The model of `from_config` where it is only read from, so that its initial values and dropout
    do not matter: the same one for all configs whose programs are the same, so that what is compiled
    for it serves the many members of a sweep."""
    aside = (*INITIAL, *RATES)
    chosen = {key: value for key, value in flat(config.model).items() if key not in aside}
    return _to_read(input_size, output_size, real, future, tuple(chosen.items()))


@functools.lru_cache(maxsize=16)
def _to_read(
    input_size: int,
    output_size: int,
    real: bool,
    future: bool,
    chosen: tuple[tuple[str, Any], ...],
) -> Model:
    return _of(input_size, output_size, real, future, dict(chosen))


def _of(
    input_size: int, output_size: int, real: bool, future: bool, chosen: dict[str, Any]
) -> Model:
    options = {key: value for key, value in chosen.items() if value is not None}
    cell_options = {
        key.removeprefix("options."): options.pop(key)
        for key in [*options]
        if key.startswith("options.")
    }
    if options["input"] == "auto":
        options["input"] = "dense" if real else "one_hot"
    if (options["input"] == "dense") != real:
        kinds = ("real vectors", "'dense'") if real else ("symbols", "'one_hot' or 'embedding'")
        raise UsageError(
            f"model.input is '{options['input']}', and what the task reads are {kinds[0]}: set it to "
            f"{kinds[1]}, or to 'auto'"
        )
    made = make(
        input_size=input_size, output_size=output_size, cell_options=cell_options, **options
    )
    if not (made.causal or future):
        raise UsageError("the model must not see the future: set model.bidirectional to False")
    return made


def _active(rate: float | Array) -> bool:
    return isinstance(rate, jax.Array) or rate > 0.0


def make(
    *,
    input_size: int,
    output_size: int,
    cell: str,
    hidden: int,
    layers: int,
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
    if not 1 <= layers <= MOST_LAYERS:
        raise UsageError(f"model.layers must be in [1, {MOST_LAYERS}], got {layers}")
    if embedding_size < 0:
        raise UsageError(f"model.embedding_size must be at least 0, got {embedding_size}")
    if input not in ("one_hot", "embedding", "dense"):
        raise UsageError(f"model.input must be 'one_hot', 'embedding' or 'dense', got '{input}'")
    if input == "embedding" and embedding_size < 1:
        raise UsageError("model.input is 'embedding': set model.embedding_size to at least 1")
    for name, rate in zip(RATES, (dropout, input_dropout, output_dropout), strict=True):
        if not isinstance(rate, jax.Array) and not 0.0 <= rate < 1.0:
            raise UsageError(f"model.{name} must be in [0, 1), got {rate}")
    for name, value, known in (("path", path, PATHS), ("keep", keep, KEEP)):
        if value not in known:
            raise UsageError(f"model.{name} must be one of {', '.join(known)}, got '{value}'")
    initialisers.check("model.readout_init", readout_init)
    options = {"hidden": hidden, "precision": precision}
    for name in options.keys() & (cell_options or {}):
        raise UsageError(f"set model.{name}: it is no option of the cell alone")
    unit: Cell = cells.get(cell, preset=preset, **options, **(cell_options or {}))
    directions = ("forward", "backward") if bidirectional else ("forward",)
    layer_width = hidden * len(directions)
    readout_width = layer_width * (layers if skip else 1)
    input_width = embedding_size if input == "embedding" else input_size
    if tied and (input != "embedding" or readout_width != embedding_size):
        raise UsageError(
            f"model.tied needs model.input 'embedding' with model.embedding_size {readout_width}, "
            f"the width of the readout's input; it is '{input}' with {embedding_size}"
        )
    dot = matmul(precision)
    names = tuple(
        f"layer {index + 1}" + f" {direction}" * bidirectional
        for index in range(layers)
        for direction in directions
    )

    def init(key: Array, dtype: Any = jnp.float32) -> dict[str, Any]:
        key_e, key_r, *keys = jax.random.split(key, 2 + layers)
        stack = []
        for index, key_layer in enumerate(keys):
            width = layer_width if index else input_width
            per_direction = {
                name: unit.init(k, width, dtype)
                for name, k in zip(
                    directions, jax.random.split(key_layer, len(directions)), strict=True
                )
            }
            stack.append(per_direction if bidirectional else per_direction["forward"])
        params: dict[str, Any] = {
            "layers": stack,
            "readout": {"bias": jnp.zeros(output_size, dtype)},
        }
        if not tied:
            kernel = initialisers.from_spec(readout_init)(
                key_r, (readout_width, output_size), dtype
            )
            params["readout"]["kernel"] = kernel
        if input == "embedding":
            params["embedding"] = jax.random.normal(key_e, (input_size, embedding_size), dtype) * (
                embedding_size**-0.5
            )
        return params

    def carry(batch: int, dtype: Any = jnp.float32) -> tuple[Any, ...]:
        return tuple(tuple(unit.carry(batch, dtype) for _ in directions) for _ in range(layers))

    def drop(key: Array | None, rate: float | Array, x: Array) -> Array:
        if key is None or not _active(rate):
            return x
        shape = (1, *x.shape[1:]) if dropout_shared else x.shape
        return jnp.where(parts.bernoulli(key, 1.0 - rate, shape), x / (1.0 - rate), 0.0)

    def enter(params: dict[str, Any], x: Array, key: Array | None, taps: Taps | None) -> Array:
        if input == "one_hot":
            if key is not None and _active(input_dropout):
                blank = parts.bernoulli(key, input_dropout, x.shape)
                x = jnp.where(
                    blank, NO_TOKEN, x.astype(jnp.int32)
                )  # uint8 has no room for NO_TOKEN
            return x
        if input == "embedding":
            x = untied(
                lambda table, x: jnp.take(table, x, axis=0, mode="clip"),
                params["embedding"],
                taps,
                x,
            )
        return drop(key, input_dropout, x)

    def run(
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
        chunk = sqrt_chunk(x.shape[0]) if remat else 0
        keys = (
            [None] * (2 * layers + 2)
            if key is None
            else list(jax.random.split(key, 2 * layers + 2))
        )
        how = {"chunk": chunk, "path": path, "keep": keep}
        over = functools.partial(
            unroll, unit, lengths=lengths, mask=mask, reset=reset, record=record, **how
        )
        asked = iter(taps or (None,) * len(names))
        seen: list[Seen] = []

        def through(layer: Any, x: Array, start: Any, **options: Any) -> tuple[Any, Array]:
            final, y = over(layer, x, start, taps=next(asked), **options)
            if record:
                y, one = parted(unit, x, y)
                seen.append(one)
            return final, y

        outer = outer or {}
        x = enter(params, x, keys[-1], outer.get("embedding"))
        new_carry, outputs = [], []
        for index, layer in enumerate(params["layers"]):
            inside = drop(keys[2 * index], dropout, x) if index else x
            key_cell = keys[2 * index + 1]
            if bidirectional:
                split = (None, None) if key_cell is None else tuple(jax.random.split(key_cell))
                first, second = carry[index]
                forward, y_f = through(layer["forward"], inside, first, key=split[0])
                backward, y_b = through(
                    layer["backward"], inside, second, key=split[1], reverse=True
                )
                new_carry.append((forward, backward))
                y = jnp.concatenate([y_f, y_b], axis=-1)
            else:
                final, y = through(layer, inside, carry[index][0], key=key_cell)
                new_carry.append((final,))
            x = x + y if residual and index else y
            outputs.append(x)
        top = jnp.concatenate(outputs, axis=-1) if skip else x
        top = drop(keys[-2], output_dropout, top)

        def read(readout: dict[str, Array], top: Array) -> Array:
            kernel = params["embedding"].T if tied else readout["kernel"]
            return dot(top, kernel) + readout["bias"]

        outputs = untied(read, params["readout"], outer.get("readout"), top)
        return tuple(new_carry), outputs, tuple(seen)

    def apply(params: Params, carry: Any, x: Array, **options: Any) -> tuple[Any, Array]:
        return run(params, carry, x, record=False, **options)[:2]

    return Model(
        init=init,
        carry=carry,
        apply=apply,
        watch=functools.partial(run, record=True),
        cell=unit,
        names=names,
        causal=not bidirectional,
        layers=rows(init),
    )


def rows(init: Callable[..., Params]) -> tuple[tuple[str, str], ...]:
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
        init=init, apply=before(net.apply), watch=before(net.watch), layers=rows(init)
    )
