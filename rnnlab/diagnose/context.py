"""How many characters of the text before a model of characters uses: its loss by what it sees."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab.errors import UsageError
from rnnlab.run.figure import BLUE, GREY, ORANGE, plain, save
from rnnlab.tasks.metrics.tokens import cross_entropy
from rnnlab.types import Array, Model, Params

NEAR = 0.01  # by what share of the loss with the whole context a shorter one may be worse


class Memory(NamedTuple):
    """The loss by how much of the text the model sees."""

    lengths: tuple[int, ...]  # n, the characters it sees, from a zero state
    losses: tuple[float, ...]  # nats a character, mean over the positions
    errors: tuple[float, ...]  # the standard error of its difference from `full`
    full: float  # the loss of the same positions with all before them
    positions: int

    @property
    def characters(self) -> int | None:
        """The memory of the model: the smallest length from which on every loss lies within 1% of
        `full`, or below it. None if the longest does not."""
        found = None
        for length, loss in zip(reversed(self.lengths), reversed(self.losses), strict=True):
            if not loss <= (1.0 + NEAR) * self.full:
                break
            found = length
        return found


def measure(
    net: Model,
    params: Params,
    tokens: Any,
    losses: np.ndarray,
    *,
    longest: int,
    positions: int,
    seed: int,
) -> Memory:
    """The loss at random positions of `tokens` [N] from the last n characters alone.

    losses: those of `reading.read`, with the whole text before each position. n: 1, 2, 3, 4, 6, 8, 12, ...,
        the powers of two and what lies midway, up to `longest`. Every position has at least
        `longest` characters before it; there are fewer than `positions` in a short text.

    Raises UsageError for a text that is too short, and for a bidirectional model.
    """
    check_causal(net)
    tokens = np.asarray(tokens, np.int32)
    check_length(tokens, longest)
    random = np.random.default_rng(seed)
    places = np.arange(longest, len(tokens))
    chosen = np.sort(random.choice(places, min(positions, len(places)), replace=False))
    full = losses[chosen]
    lengths = tuple(_lengths(longest))
    found = []
    for n in lengths:
        x = tokens[chosen + np.arange(-n, 1)[:, None]]  # [n + 1, positions]
        found.append(np.asarray(_last_loss(net, params, x), np.float64))
    spread = [float(np.std(each - full) / np.sqrt(len(chosen))) for each in found]
    means = tuple(float(each.mean()) for each in found)
    return Memory(lengths, means, tuple(spread), float(full.mean()), len(chosen))


def check_causal(net: Model) -> None:
    """Raise UsageError for a bidirectional model."""
    if not net.causal:
        raise UsageError(
            "a bidirectional model cannot be read: its state at a character depends on the text "
            "after it; give one with model.bidirectional=False"
        )


def check_length(tokens: np.ndarray, longest: int) -> None:
    """Raise UsageError where a text of tokens [N] has no character with `longest` others before it."""
    if len(tokens) <= longest:
        raise UsageError(
            f"the text has {len(tokens)} characters: a context of {longest} needs at least {longest + 1}"
        )


def _lengths(longest: int) -> Iterator[int]:
    n = 1
    while n <= longest:
        yield n
        if n > 1 and n * 3 // 2 <= longest:
            yield n * 3 // 2
        n *= 2


@functools.partial(jax.jit, static_argnums=0)
def _last_loss(net: Model, params: Params, x: Array) -> Array:
    """The loss [B] of the last row of x [n + 1, B], read from a zero state."""
    carry = net.carry(x.shape[1], jax.tree.leaves(params)[0].dtype)
    if x.shape[0] > 2:
        carry, _ = net.apply(
            params, carry, x[:-2]
        )  # what the readout says of these is not computed
    _, logits = net.apply(params, carry, x[-2:-1])
    return cross_entropy(at_least_float32(logits), x[-1:])[0]


def at_least_float32(array: Array) -> Array:
    """The array, in float32 where it is of lower precision."""
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array


def sentence(kept: Memory, unit: str) -> str:
    """What a `Memory` says: the number of `unit`s ("character" or "byte") that the model uses."""
    full = f"the {kept.full:.3f} with all the text before ({kept.positions} random positions)"
    if kept.characters is None:
        return (
            f"the memory of the model is longer than {kept.lengths[-1]} {unit}s: with so many its loss "
            f"is {kept.losses[-1]:.3f} nats per {unit}, more than 1% above {full}"
        )
    at = kept.lengths.index(kept.characters)
    return (
        f"the memory of the model is {kept.characters} {unit}{'s' * (kept.characters > 1)}: from so "
        f"many on its loss ({kept.losses[at]:.3f} nats per {unit}, {2 * kept.errors[at]:.3f} either "
        f"way) is at most 1% above {full}"
    )


def draw(memory: Memory, path: Path, *, title: str, unit: str) -> None:
    """The loss against the number of characters the model sees, beside that with all of the text.

    The bars are two standard errors of the difference from the latter.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.axhline(memory.full, color=ORANGE, lw=1.3, label=f"all before: {memory.full:.3f}")
    spread = [2 * error for error in memory.errors]
    axis.errorbar(
        memory.lengths, memory.losses, spread,
        fmt="o-", ms=4, lw=1.2, color=BLUE, elinewidth=1, label="the last n alone",
    )  # fmt: skip
    if memory.characters is not None:
        label = f"within 1% from n = {memory.characters} on"
        axis.axvline(memory.characters, color=GREY, ls="--", lw=1, label=label)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"n, the {unit}s the model sees", ylabel=f"nats per {unit}")
    axis.legend(fontsize=9, framealpha=0.85, edgecolor="none")
    axis.set_title(title, parse_math=False, fontsize=10)
    plain(axis)
    save(figure, path)
