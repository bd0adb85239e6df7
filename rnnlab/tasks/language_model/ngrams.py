"""What counting does with a text: an n-gram model to write like it, and what in another text was copied.

`NGrams` interpolates the counts of all orders up to its own (Witten and Bell 1991, as Chen and Goodman
1998 state it): with N occurrences of a context and T different symbols after it,

    P(v | context) = (count(context v) + T P(v | context without its first symbol)) / (N + T)

down to a uniform distribution. `Copies` finds, for each place of a text, how far it agrees with some
place of another one, by a suffix array (Manber and Myers 1993).
"""

import bisect
from typing import NamedTuple

import numpy as np

from rnnlab.data.draws import SHOW, Random
from rnnlab.errors import UsageError

_BITS = 63  # of a packed n-gram, one fewer than a word has: the bound above the last one fits


class NGrams(NamedTuple):
    """The counts of a text of symbols 0 ... V - 1, for every order up to `highest`."""

    keys: np.ndarray  # uint64 [N], every n-gram of the highest order as a number, sorted
    highest: int
    size: int  # V


def count(tokens: np.ndarray, *, size: int) -> NGrams:
    """The counts of `tokens`, integers [N] below `size`: of all orders that fit into a word, which are
    9 for up to 128 symbols. Raises UsageError for a text that is shorter than that."""
    width = _width(size)
    highest = _BITS // width
    if len(tokens) < highest:
        raise UsageError(
            f"a text of {len(tokens)} characters is too short to count {highest}-grams"
        )
    keys = np.zeros(len(tokens) - highest + 1, np.uint64)
    for i in range(highest):
        keys <<= np.uint64(width)
        keys |= tokens[i : i + len(keys)].astype(np.uint64)
    keys.sort()
    return NGrams(keys, highest, size)


def _width(size: int) -> int:
    """The bits of a symbol."""
    return max(1, (size - 1).bit_length())


def probabilities(model: NGrams, context: np.ndarray) -> np.ndarray:
    """P(next symbol), float64 [S, V], after each of `context`, integers [n - 1, S]: the model of order
    n. Raises ValueError for an order that was not counted."""
    if len(context) >= model.highest:
        raise ValueError(f"the order must be at most {model.highest}, got {len(context) + 1}")
    width = np.uint64(_width(model.size))
    symbols = np.arange(model.size + 1, dtype=np.uint64)
    found = np.full((context.shape[1], model.size), 1.0 / model.size)
    for seen in range(len(context) + 1):
        prefix = np.zeros((context.shape[1], 1), np.uint64)
        for row in context[len(context) - seen :]:
            prefix = prefix << width | row.astype(np.uint64)[:, None]
        # The n-grams that begin with the context and a symbol stand together.
        bounds = ((prefix << width) + symbols) << width * np.uint64(model.highest - 1 - seen)
        counts = np.diff(np.searchsorted(model.keys, bounds), axis=1)  # [S, V]
        total = counts.sum(axis=1, keepdims=True)
        kinds = (counts > 0).sum(axis=1, keepdims=True)
        found = np.where(total > 0, (counts + kinds * found) / np.maximum(total + kinds, 1), found)
    return found


def generate(
    model: NGrams,
    first: np.ndarray,
    *,
    order: int,
    length: int,
    temperature: float,
    seed: int,
) -> np.ndarray:
    """`length` symbols after `first`, integers [P, S]: int64 [P + length, S], `first` before them.

    temperature: the probabilities are taken to the power of its inverse; 0 takes the most probable
        symbol. The random number for symbol i of text n depends on (seed, n, i) alone.
    """
    start, texts = first.shape
    tokens = np.concatenate([first, np.zeros((length, texts), np.int64)])
    draws = np.stack([Random(seed, SHOW, n).uniform((length,)) for n in range(texts)], axis=1)
    for i in range(length):
        chances = probabilities(model, tokens[max(0, start + i - order + 1) : start + i])
        if temperature <= 0.0:
            tokens[start + i] = chances.argmax(axis=1)
            continue
        weights = np.exp(np.log(chances / chances.max(axis=1, keepdims=True)) / temperature)
        sums = weights.cumsum(axis=1)
        tokens[start + i] = (sums > draws[i][:, None] * sums[:, -1:]).argmax(axis=1)
    return tokens


def nats(model: NGrams, tokens: np.ndarray, places: np.ndarray, *, order: int) -> float:
    """The mean of -ln P of the symbols of `tokens` [N] at `places` [M], each at least order - 1."""
    losses = []
    for some in np.array_split(places, -(-len(places) // 1024)):
        back = np.arange(order - 1, 0, -1)[:, None]
        chances = probabilities(model, tokens[some - back])
        losses.append(-np.log(chances[np.arange(len(some)), tokens[some]]))
    return float(np.concatenate(losses).mean())


class Copies(NamedTuple):
    """A text in the order of its suffixes, to look others up in it. About 40 bytes a character while it
    is made, 12 afterwards."""

    text: str
    suffixes: np.ndarray  # int64 [N], where they begin, sorted by their first `depth` characters
    depth: int  # agreement is followed as far as this


def index(text: str, *, depth: int) -> Copies:
    """The suffix array of `text`, by prefix doubling from packed characters."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    size = len(codes)
    symbols, ranks = np.unique(codes, return_inverse=True)

    def later(ranks: np.ndarray, by: int) -> np.ndarray:
        """The ranks of the places `by` further on, from 1; 0 beyond the end."""
        return np.concatenate([ranks[by:] + 1, np.zeros(min(by, size), np.int64)])

    width = _width(len(symbols) + 1)
    known = min(_BITS // width, depth)  # characters that the order goes by
    keys = np.zeros(size, np.int64)
    for i in range(known):
        keys = keys << width | later(ranks, i)
    while True:
        order = np.argsort(keys, kind="stable")
        differ = np.diff(keys[order], prepend=-1) != 0
        ranks = np.empty(size, np.int64)
        ranks[order] = np.cumsum(differ) - 1
        if known >= depth or differ.all():
            return Copies(text, order, depth)
        keys = ranks * (size + 1) + later(ranks, known)
        known *= 2


def matches(copies: Copies, text: str) -> np.ndarray:
    """int64 [N]: how many characters from each place of `text` on occur together, in that order, in
    the text of `copies`, as far as its depth."""
    found = np.zeros(len(text), np.int64)
    whole, places, depth = copies.text, copies.suffixes, copies.depth

    def suffix(place: int) -> str:
        return whole[place : place + depth]

    for i in range(len(text)):
        wanted = text[i : i + depth]
        at = bisect.bisect_left(places, wanted, key=suffix)
        # What agrees the longest stands beside where it would stand.
        near = places[max(0, at - 1) : at + 1]
        found[i] = max((_agreement(wanted, suffix(place)) for place in near), default=0)
    return found


def _agreement(one: str, other: str) -> int:
    if other.startswith(one):
        return len(one)
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def novel(found: list[np.ndarray], n: int) -> float:
    """The share of the n-grams of some texts that do not occur in the other, from the `matches` of
    each; NaN where none is so long."""
    kept = [part[: len(part) - n + 1] for part in found if len(part) >= n]
    return float((np.concatenate(kept) < n).mean()) if kept else float("nan")
