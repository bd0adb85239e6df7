"""Batches of text as pure functions of the step number.

No batch depends on an earlier one, so a run resumes at any step without reading its way there.
Randomness is hashed from (seed, purpose, step) by NumPy's SeedSequence, whose output is the same in
every version of NumPy, as that of its distributions is not.

A target is the token after its input; a text of N tokens has N - 1 of them. The tokens may be a
memory map of any size: only what a batch needs is read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rnnlab.data import draws
from rnnlab.errors import UsageError
from rnnlab.run import machine

Batch = dict[str, Any]  # of arrays


@dataclass(frozen=True, eq=False)
class Batches:
    """Training batches, by step.

    batches(step) is {"inputs": int32 [T, B], "targets": int32 [T, B], "fresh": bool [B]}; where
    fresh is True the row's carried state must be zero, elsewhere it continues the row before.
    """

    steps_per_epoch: int
    _tokens: np.ndarray
    _window: int
    _place: Callable[[int], tuple[np.ndarray, np.ndarray]]  # step -> (first positions, fresh) [B]

    def __call__(self, step: int) -> Batch:
        starts, fresh = self._place(int(step))
        return {**_cut(self._tokens, starts, self._window), "fresh": fresh}


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A held-out text in K parallel streams, by window.

    held_out(i) for i in range(windows) is {"inputs": int32 [T, K], "targets": int32 [T, K],
    "weights": bool [T, K]}, to be read in order with the state carried from a zero state at i = 0.
    Each target of the text has weight 1 in exactly one place.
    """

    windows: int
    streams: int  # K, as reduced for a short text
    targets: int  # the sum of all weights, N - 1
    _tokens: np.ndarray
    _window: int
    _burn_in: int
    _stride: int  # positions from one stream's first to the next one's

    def __call__(self, i: int) -> Batch:
        if not 0 <= i < self.windows:
            raise IndexError(f"window {i} of {self.windows}")
        stream = np.arange(self.streams)
        within = (
            i * self._window + np.arange(self._window)[:, None]
        )  # [T, 1], from a stream's first
        positions = within + stream * self._stride  # [T, K]
        weights = (within >= self._burn_in) | (stream == 0)
        weights &= (within < self._stride + self._burn_in) & (positions < self.targets)
        positions = np.minimum(positions, self.targets - 1)
        return {
            "inputs": self._tokens[positions].astype(np.int32),
            "targets": self._tokens[positions + 1].astype(np.int32),
            "weights": weights,
        }


def split(tokens: np.ndarray, *, valid_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, valid): views of the tokens; the last part is valid.

    valid_fraction counts as the decimal number it is written as: 0.1 of 100 tokens is 10 of them.
    Raises UsageError if either part has no target.
    """
    if not 0 < valid_fraction < 1:
        raise UsageError(f"data.valid_fraction must lie between 0 and 1, not {valid_fraction}")
    count = math.floor(len(tokens) * (1 - Fraction(str(float(valid_fraction)))))
    if min(count, len(tokens) - count) < 2:
        raise UsageError(
            f"a text of {len(tokens)} characters split at {count} leaves a part of less than 2: "
            "change data.valid_fraction or give more text"
        )
    return tokens[:count], tokens[count:]


def stream_batches(
    tokens: np.ndarray, *, batch_size: int, window: int, seed: int, shift: bool, forget: float
) -> Batches:
    """B contiguous streams, read side by side in windows of T: for truncated BPTT.

    Row b of window w + 1 continues row b of window w; `fresh` marks the first window of an epoch,
    and, with probability `forget` a row and window, others too. Without the latter a model on a
    long text meets the zero state once an epoch, unlearns to start from it, and does badly where
    every evaluation and every sample starts.

    The streams share the text out equally, and no target comes twice in an epoch. What does not
    fill a window at the end of a stream is left out: fewer than B T targets in all, or (B + 1) T
    with `shift`. With `shift` an epoch begins at an offset in [0, T), a function of (seed, epoch),
    so that the borders of windows and streams, and what is left out, fall elsewhere each time.

    Raises UsageError if the text does not hold one window a stream, or for `forget` outside [0, 1].
    """
    _positive(batch_size=batch_size, window=window)
    if not 0.0 <= forget <= 1.0:
        raise UsageError(f"data.forget must be in [0, 1], got {forget}")
    tokens = np.asarray(tokens)
    slack = window - 1 if shift else 0
    steps = (len(tokens) - 1 - slack) // (batch_size * window)
    if steps < 1:
        raise UsageError(
            f"the training text has {len(tokens)} characters; {batch_size} streams of a window of "
            f"{window} need at least {batch_size * window + 1 + slack}: lower train.batch_size or "
            "train.window, or give more text"
        )

    def place(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = divmod(step, steps)
        offset = int(_random(seed, draws.SHIFT, epoch, 1, window)[0]) if shift else 0
        stride = (len(tokens) - 1 - offset) // batch_size
        fresh = _random(seed, draws.FORGET, step, batch_size, 1 << 32) < forget * (1 << 32)
        return offset + np.arange(batch_size) * stride + index * window, fresh | (index == 0)

    return Batches(steps, tokens, window, place)


def window_batches(tokens: np.ndarray, *, batch_size: int, window: int, seed: int) -> Batches:
    """B independent windows of T at random places: for full BPTT from a zero state.

    `fresh` is always True. An epoch is as many steps as it takes to draw as many targets as the
    text has. Raises UsageError if the text is shorter than a window and its last target.
    """
    _positive(batch_size=batch_size, window=window)
    tokens = np.asarray(tokens)
    _fits(tokens, window, "the training text", "train.window")

    def place(step: int) -> tuple[np.ndarray, np.ndarray]:
        starts = _random(seed, draws.WINDOWS, step, batch_size, len(tokens) - window)
        return starts, np.ones(batch_size, bool)

    return Batches(max(1, (len(tokens) - 1) // (batch_size * window)), tokens, window, place)


def held_out(tokens: np.ndarray, *, streams: int, window: int, burn_in: int) -> HeldOut:
    """The whole of a held-out text, in up to `streams` streams that are read in windows of T.

    Every stream but the first is led in by the `burn_in` characters before it, with weight 0: its
    state is warm when it begins to count, and the result close to that of one single stream. A
    short text gets fewer streams, each at least `burn_in` + T long.

    Raises UsageError if the text has no target.
    """
    _positive(streams=streams, window=window)
    if burn_in < 0:
        raise UsageError(f"burn_in must not be negative: {burn_in}")
    tokens = np.asarray(tokens)
    targets = len(tokens) - 1
    if targets < 1:
        raise UsageError(f"the held-out text has {len(tokens)} characters; it needs at least 2")
    streams = max(1, min(streams, targets // (burn_in + window)))
    if streams == 1:
        burn_in = 0
    # All streams read as many positions, `burn_in` + `stride`. The first counts all of its own, and
    # ends where the part of the second that counts begins; so does each with the one after it.
    stride = -(-(targets - burn_in) // streams)
    window = min(window, stride + burn_in)  # a larger one is padding
    windows = -(-(stride + burn_in) // window)
    return HeldOut(windows, streams, targets, tokens, window, burn_in, stride)


def random_windows(tokens: np.ndarray, *, count: int, window: int, seed: int) -> Batch:
    """{"inputs": int32 [T, count], "targets": int32 [T, count]}: a fixed set of random windows.

    The estimate that nanoGPT reports: each window is read from a zero state, so the mean lies above
    that of the text read as one stream. Raises UsageError if the text is too short, or if they
    do not fit the memory.
    """
    _positive(**{"eval.random_windows": count, "eval.random_window": window})
    tokens = np.asarray(tokens)
    _fits(tokens, window, "the held-out text", "eval.random_window")
    least, there = 8 * count * window, machine.available_memory()
    if least > there:
        raise UsageError(
            f"{count} random windows of {window} take {least / 2**30:,.1f} GiB of memory, and "
            f"{there / 2**30:,.1f} GiB are there: lower eval.random_windows or eval.random_window"
        )
    return _cut(tokens, _random(seed, draws.HELD_OUT, 0, count, len(tokens) - window), window)


def _cut(tokens: np.ndarray, starts: np.ndarray, window: int) -> Batch:
    pieces = tokens[starts + np.arange(window + 1)[:, None]].astype(np.int32)  # [T + 1, B]
    return {"inputs": pieces[:-1], "targets": pieces[1:]}


def _random(seed: int, purpose: int, step: int, count: int, below: int) -> np.ndarray:
    """`count` integers in [0, below); the bias of the remainder is below 1e-9 for any text."""
    if seed < 0:
        raise UsageError(f"a seed must not be negative: {seed}")
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, step))
    return (sequence.generate_state(count, np.uint64) % np.uint64(below)).astype(np.int64)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"{name} must be at least 1, not {size}")


def _fits(tokens: np.ndarray, window: int, text: str, key: str) -> None:
    if len(tokens) <= window:
        raise UsageError(
            f"{text} has {len(tokens)} characters; a window of {window} needs at least "
            f"{window + 1}: lower {key}, or give more text"
        )
