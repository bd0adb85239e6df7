"""What gated cells have in common: kernels, biases, layer norm, recurrent dropout, zoneout.

A cell file states its pointwise mathematics and its carry; `gated_cell` makes the `Cell` of it. A cell
that fits no such form may fill in the NamedTuple `rnnlab.types.Cell` itself.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.ad_checkpoint import checkpoint_name

from rnnlab.cells.parts import initialisers, precision
from rnnlab.errors import UsageError
from rnnlab.types import Array, Cell

LAYER_NORM_EPSILON = 1e-5
_ACCEPTED = {int: numbers.Integral, float: numbers.Real}  # NumPy's scalars too

# (activation, name) -> the same; `rnnlab.recurrence.activations` shows it by that name
named = checkpoint_name


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options every built-in cell takes; `cells.get` passes them by name.

    kernel_x_init, kernel_h_init, bias_init: specifications of `initialisers`.
    init_per_gate: draw each gate's block of a kernel by itself (True), or the fused kernel at once.
    gate_bias: added at the start to the bias of the gate that keeps the state (forget or update).
    hidden_bias: a second bias on the recurrent product, as PyTorch and cuDNN have it.
    layer_norm: normalise the two products (and LSTM's c) inside the cell, as Ba et al. 2016 do for
        the LSTM (eq. 20-22) and for the GRU (its gates and its candidate apart).
    recurrent_dropout: rate; on the "candidate" (Semeniuta et al. 2016) or on the "state" that
        enters the recurrent product (Gal and Ghahramani 2016 when shared over time).
    zoneout: probability that a unit keeps its old value (Krueger et al. 2017); its expectation is
        used in evaluation.
    precision: of the matrix products, by name: see `precision`. "float32" is strict, on a GPU
        or TPU too, whatever JAX's own default is there.
    """

    hidden: int
    kernel_x_init: str = "glorot_uniform"
    kernel_h_init: str = "orthogonal"
    bias_init: str = "zeros"
    init_per_gate: bool = True
    gate_bias: float = 1.0
    hidden_bias: bool = False
    layer_norm: bool = False
    recurrent_dropout: float = 0.0
    recurrent_dropout_on: str = "candidate"
    recurrent_dropout_shared: bool = False
    zoneout: float = 0.0
    precision: str = "float32"

    def __post_init__(self):
        # Checked here, since a wrong type would else surface as a traceback from deep inside JAX.
        for field in fields(self):
            value, wanted = getattr(self, field.name), _ACCEPTED.get(field.type, field.type)
            if not isinstance(value, wanted):
                kind = getattr(field.type, "__name__", field.type)
                raise UsageError(f"{field.name} must be of type {kind}, got {value!r}")
        if self.hidden < 1:
            raise UsageError(f"a cell needs at least 1 hidden unit, got {self.hidden}")
        if not math.isfinite(self.gate_bias):
            raise UsageError(f"gate_bias must be finite, got {self.gate_bias}")
        for name in ("recurrent_dropout", "zoneout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.recurrent_dropout_on not in ("candidate", "state"):
            raise UsageError(
                "recurrent_dropout_on must be 'candidate' or 'state', "
                f"got '{self.recurrent_dropout_on}'"
            )
        precision.check(self.precision)
        for name in ("kernel_x_init", "kernel_h_init", "bias_init"):
            initialisers.check(name, getattr(self, name), self.hidden)


class Noise(NamedTuple):
    """A window's random draws, None where there are none."""

    keep: Array | None  # bool [T, B, H], recurrent dropout: True is kept
    zone: Any  # bool [T, B, H] per field of the carry, True keeps the old value


class Inputs(NamedTuple):
    """What a cell's step receives: `z` of the contract. With a leading [T] before the scan."""

    a: Array  # [B, G*H] the input's share of the pre-activations, bias included
    keep: Array | None = None  # of Noise, at one t; None in evaluation
    zone: Any = None


class Shares(NamedTuple):
    """What the gates receive: `u` of the contract."""

    both: Any  # [B, *] the sum of the input's and the recurrent share, where that suffices
    a: Any  # [B, *] the input's share of the other gates
    r: Any  # [B, *] their recurrent share
    keep: Array | None  # of Noise, at one t
    zone: Any


def layer_norm(x: Array, scale: Array, cuts: tuple[int, ...] = ()) -> Array:
    """Zero mean and unit variance over the last axis, times `scale`; Ba et al. 2016, eq. 3-4.

    cuts: the columns at which a next group begins, with a mean and a variance of its own.
    """
    if cuts:
        groups = zip(jnp.split(x, cuts, axis=-1), jnp.split(scale, cuts), strict=True)
        return jnp.concatenate([layer_norm(*group) for group in groups], axis=-1)
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    variance = (centred**2).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale


def bernoulli(key: Array, p: float | Array, shape: tuple[int, ...]) -> Array:
    """bool of `shape`, True with probability p, to within 2^-17: 16 random bits an element, which
    cost half of the 32 that `jax.random.bernoulli` draws.
    """
    if isinstance(p, jax.Array):
        below = jnp.minimum(jnp.round(p * 65536), 65535).astype(jnp.uint16)
    else:
        below = jnp.uint16(min(round(p * 65536), 65535))
    return jax.random.bits(key, shape, jnp.uint16) < below


def _dropout(x: Array, keep: Array | None, rate: float) -> Array:
    return x if keep is None else jnp.where(keep, x / (1.0 - rate), 0.0)


def _zoneout(old: Any, new: Any, zone: Any, rate: float) -> Any:
    if rate == 0.0:
        return new
    if zone is None:
        return jax.tree.map(lambda o, n: rate * o + (1.0 - rate) * n, old, new)
    return jax.tree.map(lambda o, n, keep_old: jnp.where(keep_old, o, n), old, new, zone)


_exportable: set[str] = set()


def _make_exportable(carry_type: type) -> None:
    """Let `jax.export` write and read functions of this state: a name stands for its class."""
    name = f"{carry_type.__module__}.{carry_type.__qualname__}"
    if name not in _exportable:
        _exportable.add(name)
        export.register_namedtuple_serialization(carry_type, serialized_name=name)


def gated_cell(
    name: str,
    pointwise: Callable[..., Any],
    carry_type: type,
    *,
    gates: int,
    options: Options,
    keeping_gate: int | None,
    apart: int = 0,
    extra: Callable[..., dict[str, Array]] | None = None,
    recur: Callable[..., Array] | None = None,
) -> Cell:
    """A cell from its pointwise mathematics.

    pointwise: (params, carry, pre, drop) -> carry. `pre` lists the G pre-activations [B, H], each
        the sum of the input's and the recurrent share, the last `apart` of them as pairs of the
        two; `drop` is recurrent dropout for a candidate.
    carry_type: a NamedTuple class whose fields are all [B, H], one of them `h`, the output.
    gates: G, the number of gates fused in a kernel, the candidate included.
    keeping_gate: the index of the gate whose bias starts at `options.gate_bias`, if there is one.
    apart: how many of the last gates do more with the two shares than add them. Layer norm takes
        each of these gates by itself.
    extra: (key, dtype) -> further parameters, such as peepholes.
    recur: (product, h, a) -> r, for a cell with two recurrent products in a row, where
        `product(h, columns)` multiplies by those columns of kernel_h; such a cell has no form in
        four parts and takes the plain scan.
    """
    _make_exportable(carry_type)
    made = Gated(pointwise, carry_type, gates, options, keeping_gate, apart, extra, recur)
    linear = recur is None
    return Cell(
        name=name,
        hidden=options.hidden,
        precision=options.precision,
        init=made.init,
        carry=made.carry,
        noise=made.noise,
        project=made.project,
        step=made.step,
        operand=made.operand if linear else None,
        product=made.product if linear else None,
        merge=made.merge if linear else None,
        gates=made.activate if linear else None,
    )


@dataclass(frozen=True, eq=False)
class Gated:
    """What `gated_cell` was given; the methods are the functions of the `Cell` it makes, all of them pure.

    Parameters: kernel_x [D, G*H], kernel_h [H, G*H] and bias [G*H], and where the options ask for
    them bias_h, norm_x and norm_h, all [G*H]; and those of `extra`.
    """

    pointwise: Callable[..., Any]  # (params, carry, pre, drop) -> carry
    carry_type: type
    gates: int  # G
    options: Options
    keeping_gate: int | None
    apart: int
    extra: Callable[..., dict[str, Array]] | None  # (key, dtype) -> parameters
    recur: Callable[..., Array] | None  # (product, h, a) -> r

    @property
    def together(self) -> int:
        """The columns of those gates that are a sum of the two shares."""
        return (self.gates - self.apart) * self.options.hidden

    @property
    def cuts(self) -> tuple[int, ...]:
        """The columns at which each of the gates that stand apart begins."""
        hidden = self.options.hidden
        return tuple(gate * hidden for gate in range(self.gates - self.apart, self.gates))

    def dot(self, x: Array, kernel: Array) -> Array:
        """The matrix product in the precision of the options."""
        return precision.matmul(self.options.precision)(x, kernel)

    # At the start

    def kernel(self, spec: str, key: Array, rows: int, dtype: Any) -> Array:
        """[rows, G*H], drawn gate by gate or at once."""
        hidden, gates = self.options.hidden, self.gates
        init = initialisers.from_spec(spec, hidden)
        if not self.options.init_per_gate:
            return init(key, (rows, gates * hidden), dtype)
        return jnp.concatenate(
            [init(k, (rows, hidden), dtype) for k in jax.random.split(key, gates)], axis=1
        )

    def init(self, key: Array, input_size: int, dtype: Any = jnp.float32) -> dict[str, Array]:
        """The parameters for inputs of D = input_size."""
        options, width = self.options, self.gates * self.options.hidden
        key_x, key_h, key_b, key_bh, key_extra = jax.random.split(key, 5)
        bias_init = initialisers.from_spec(options.bias_init, options.hidden)
        bias = bias_init(key_b, (self.gates, options.hidden), dtype)
        if self.keeping_gate is not None:
            bias = bias.at[self.keeping_gate].add(options.gate_bias)
        params = {
            "kernel_x": self.kernel(options.kernel_x_init, key_x, input_size, dtype),
            "kernel_h": self.kernel(options.kernel_h_init, key_h, options.hidden, dtype),
            "bias": bias.reshape(-1),
        }
        if options.hidden_bias:
            drawn = bias_init(key_bh, (self.gates, options.hidden), dtype)
            params["bias_h"] = drawn.reshape(-1)
        if options.layer_norm:
            params["norm_x"] = jnp.ones(width, dtype)
            params["norm_h"] = jnp.ones(width, dtype)
        if self.extra is not None:
            params |= self.extra(key_extra, dtype)
        return params

    def carry(self, batch: int, dtype: Any = jnp.float32) -> Any:
        """The zero state, every field [B, H]."""
        # One buffer a field: a donated state must not hold the same buffer twice.
        shape = (batch, self.options.hidden)
        return self.carry_type(*(jnp.zeros(shape, dtype) for _ in self.carry_type._fields))

    # Before the scan

    def noise(self, key: Array, time: int, batch: int) -> Noise:
        """The masks of a window of T = time steps."""
        options = self.options
        key_keep, key_zone = jax.random.split(key)
        shape = (time, batch, options.hidden)
        keep = zone = None
        if options.recurrent_dropout > 0.0:
            drawn = (1, *shape[1:]) if options.recurrent_dropout_shared else shape
            keep = jnp.broadcast_to(
                bernoulli(key_keep, 1.0 - options.recurrent_dropout, drawn), shape
            )
        if options.zoneout > 0.0:
            keys = jax.random.split(key_zone, len(self.carry_type._fields))
            zone = self.carry_type(*(bernoulli(k, options.zoneout, shape) for k in keys))
        return Noise(keep, zone)

    def project(self, params: dict[str, Array], x: Array, noise: Noise | None = None) -> Inputs:
        """The input's share of the pre-activations, of all steps at once."""
        if jnp.issubdtype(x.dtype, jnp.integer):
            kernel_x = params["kernel_x"]
            x = x.astype(jnp.int32)  # bytes cannot hold D = 256: the comparison would wrap
            a = jnp.take(kernel_x, x, axis=0, mode="clip")
            # Not mode="fill": its gradient is fifteen times slower on a CPU.
            known = (x >= 0) & (x < kernel_x.shape[0])
            a = jnp.where(known[..., None], a, jnp.zeros((), a.dtype))
        else:
            a = self.dot(x, params["kernel_x"])
        if self.options.layer_norm:
            a = layer_norm(a, params["norm_x"], self.cuts)
        a = a + params["bias"]
        return Inputs(a) if noise is None else Inputs(a, noise.keep, noise.zone)

    # One step, whole and in four parts

    def step(self, params: dict[str, Array], carry: Any, z: Inputs) -> tuple[Any, Array]:
        """The state after a step, and h."""
        h = self.operand(carry, z)
        if self.recur is None:
            return self.activate(params, carry, self.merge(z, self.product(params, h)))

        def part(h: Array, columns: slice) -> Array:
            r = self.product_of(params, h, columns)
            return self.normalised(params, r, columns) if self.options.layer_norm else r

        return self.activate(params, carry, self.merge(z, self.recur(part, h, z.a)))

    def operand(self, carry: Any, z: Inputs) -> Array:
        """What the recurrent kernel multiplies: h, with dropout if that is on the state."""
        if self.options.recurrent_dropout_on == "state":
            return _dropout(carry.h, z.keep, self.options.recurrent_dropout)
        return carry.h

    def product(self, params: dict[str, Array], h: Array) -> Array:
        """h W_h (+ b_h), the recurrent share of the pre-activations."""
        r = self.dot(h, params["kernel_h"])
        # Layer norm comes before this bias.
        second = self.options.hidden_bias and not self.options.layer_norm
        return r + params["bias_h"] if second else r

    def product_of(self, params: dict[str, Array], h: Array, columns: slice) -> Array:
        """Those columns of the product."""
        chosen = {"kernel_h": params["kernel_h"][:, columns]}
        if self.options.hidden_bias:
            chosen["bias_h"] = params["bias_h"][columns]
        return self.product(chosen, h)

    def merge(self, z: Inputs, r: Array) -> Shares:
        """The two shares, added where that is all that is done with them."""
        # Layer norm of r alone is not linear: `activate` does it.
        shares = (None, z.a, r) if self.options.layer_norm else self.added(z.a, r)
        return Shares(*shares, z.keep, z.zone)

    def added(self, a: Array, r: Array) -> tuple[Any, Any, Any]:
        """(a + r, and a and r of the gates that stand apart)."""
        if not self.apart:
            return a + r, None, None
        # Not two slices, whose gradients would be padded and added.
        (a_both, a), (r_both, r) = (jnp.split(share, [self.together], axis=-1) for share in (a, r))
        return a_both + r_both, a, r

    def normalised(self, params: dict[str, Array], r: Array, columns: slice) -> Array:
        """Layer norm of those columns of the recurrent share, and its bias after it."""
        inside = self.cuts if columns == slice(None) else ()
        r = layer_norm(r, params["norm_h"][columns], inside)
        return r + params["bias_h"][columns] if self.options.hidden_bias else r

    def activate(self, params: dict[str, Array], carry: Any, u: Shares) -> tuple[Any, Array]:
        """The state after a step, and h, of the pre-activations: `gates` of the contract."""
        both, a, r = u.both, u.a, u.r
        if self.options.layer_norm:
            if self.recur is None:
                r = self.normalised(params, r, slice(None))
            both, a, r = self.added(a, r)
        pre: list[Any] = []
        if self.together:
            pre += jnp.split(both, self.gates - self.apart, axis=-1)
        if self.apart:
            split = (jnp.split(share, self.apart, axis=-1) for share in (a, r))
            pre += list(zip(*split, strict=True))

        def drop(candidate: Array) -> Array:
            if self.options.recurrent_dropout_on == "state":
                return candidate
            return _dropout(candidate, u.keep, self.options.recurrent_dropout)

        new = self.pointwise(params, carry, pre, drop)
        new = _zoneout(carry, new, u.zone, self.options.zoneout)
        return new, new.h
