"""Connectionist temporal classification (Graves et al. 2006): labels of frames that nobody aligned.

A network says for every frame how probable each symbol is, or the blank, which is symbol 0. A path,
one symbol a frame, spells what is left of it when repeats are merged and blanks then dropped: 0 1 1 0
1 2 spells 1 1 2. The probability of a labelling is the sum over all paths that spell it. There is no
end symbol: the labelling ends with the frames.
"""

import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.types import Array

BLANK = 0


def loss(logits: Array, lengths: Array, labels: Array, label_lengths: Array) -> Array:
    """-ln p(labels | frames), in nats, for each of B utterances: [B].

    logits: [T, B, V]; lengths: int [B], the frames that count. labels: int [N, B] in 1 ... V - 1;
    label_lengths: int [B]. What stands at t >= lengths or n >= label_lengths reaches neither the
    value nor its gradient, NaN included. An utterance whose frames are fewer than its
    `needed` has no path, and a value of 1e5 or more.
    """
    time, count = logits.shape[0], labels.shape[0]
    beyond = jnp.arange(time)[:, None] >= lengths  # [T, B]
    unused = jnp.arange(count)[:, None] >= label_lengths  # [N, B]
    logits = jnp.where(beyond[..., None], jnp.zeros((), logits.dtype), logits)
    return optax.ctc_loss(
        jnp.moveaxis(logits, 0, 1),
        beyond.T.astype(logits.dtype),
        jnp.where(unused, BLANK, labels).T,
        unused.T.astype(logits.dtype),
        blank_id=BLANK,
    )


def needed(labels: np.ndarray) -> int:
    """The fewest frames that spell the labels [N]: one each, and a blank between two that are equal."""
    labels = np.asarray(labels)
    return len(labels) + int((labels[1:] == labels[:-1]).sum())


def spelled(path: np.ndarray) -> list[int]:
    """What a path [T] spells: repeats merged, then blanks dropped."""
    path = np.asarray(path)
    changes = np.concatenate([[True], path[1:] != path[:-1]]) if len(path) else path != path
    return [int(symbol) for symbol in path[changes & (path != BLANK)]]


def greedy(log_probs: np.ndarray) -> list[int]:
    """What the most probable path spells. log_probs: [T, V] of one utterance, natural logarithms of
    probabilities. (Another labelling may have more paths, and be more probable.)"""
    return spelled(np.asarray(log_probs).argmax(-1))


def beam(log_probs: np.ndarray, width: int) -> list[tuple[list[int], float]]:
    """The most probable labellings and ln p of each, the best first, at most `width` of them.

    log_probs: [T, V] of one utterance. Prefix beam search (Graves 2012, section 7.5; Hannun et al.
    2014, without a language model): after each frame the `width` most probable prefixes are kept,
    each with ln p of its paths that end in a blank and of those that end in its last symbol. ln p of a
    result sums the paths whose prefixes were all kept: at most that of the model, and equal to it if
    nothing was cut off.

    With a width of 1 it is `greedy` where in every frame one symbol has a probability above
    1 / sqrt(2); elsewhere it may differ, since it compares sums over the paths of a prefix, and greedy
    search compares paths.
    """
    log_probs = np.asarray(log_probs, np.float64)
    symbols = log_probs.shape[1]
    # A trie: its node 0 is the empty prefix. `of` are the nodes in the beam.
    parents, lasts, children = [-1], [BLANK], {}
    of, blank, last = np.zeros(1, int), np.zeros(1), np.full(1, -np.inf)
    for frame in log_probs:
        count = len(of)
        ends = np.array([lasts[node] for node in of])
        whole = np.logaddexp(blank, last)
        stay_blank = whole + frame[BLANK]
        stay_last = np.where(ends == BLANK, -np.inf, last + frame[ends])
        more = whole[:, None] + frame  # [count, V], of a prefix one symbol longer
        more[np.arange(count), ends] = blank + frame[ends]  # its last symbol again: after a blank
        more[:, BLANK] = -np.inf
        # A longer prefix that is in the beam already has two sources.
        place = {int(node): index for index, node in enumerate(of)}
        for index, node in enumerate(of):
            source = place.get(parents[node])
            if source is not None:
                stay_last[index] = np.logaddexp(stay_last[index], more[source, ends[index]])
                more[source, ends[index]] = -np.inf
        scores = np.concatenate([np.logaddexp(stay_blank, stay_last), more.reshape(-1)])
        best = np.argsort(-scores, kind="stable")[:width]
        best = best[scores[best] > -np.inf]
        kept = []
        for index in best:
            if index < count:
                kept.append((int(of[index]), stay_blank[index], stay_last[index]))
                continue
            source, symbol = divmod(int(index) - count, symbols)
            key = (int(of[source]), symbol)
            if key not in children:
                children[key] = len(parents)
                parents.append(key[0])
                lasts.append(symbol)
            kept.append((children[key], -np.inf, more[source, symbol]))
        of = np.array([node for node, *_ in kept])
        blank, last = (np.array([entry[i] for entry in kept]) for i in (1, 2))
    whole = np.logaddexp(blank, last)
    order = np.argsort(-whole, kind="stable")
    return [(_prefix(int(of[i]), parents, lasts), float(whole[i])) for i in order]


def _prefix(node: int, parents: list[int], lasts: list[int]) -> list[int]:
    found = []
    while node:
        found.append(lasts[node])
        node = parents[node]
    return found[::-1]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 ln p of the logits [..., V]."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def unheard(lengths: np.ndarray, labels: np.ndarray, label_lengths: np.ndarray) -> float:
    """The loss, in nats a label, of who hears nothing: every frame has the same probabilities, those
    that fit these utterances best, where symbols are to each other as they occur in the labels.

    lengths, label_lengths: int [B]; labels: int [N, B], as in `loss`.
    """
    used = np.arange(len(labels))[:, None] < label_lengths  # [N, B]
    counts = np.bincount(labels[used])
    share = np.maximum(counts / counts.sum(), 1e-9)
    # A path goes through the states blank, label 1, blank, label 2, ... blank (Graves et al. 2006).
    states = np.full((2 * len(labels) + 1, len(lengths)), BLANK)
    states[1::2] = np.where(used, labels, BLANK)
    leap = np.zeros(states.shape, bool)  # over the blank between two labels that differ
    leap[2:] = (states[2:] != BLANK) & (states[2:] != states[:-2])
    rows, found = np.arange(len(lengths)), []
    for blank in 1.0 - np.geomspace(0.003, 0.7, 24):
        chance = np.where(states == BLANK, blank, (1.0 - blank) * share[states])
        alpha = np.zeros(states.shape)
        alpha[:2] = chance[:2]
        total, scale = np.zeros(len(lengths)), np.zeros(len(lengths))
        for frame in range(1, lengths.max() + 1):
            ended = alpha[2 * label_lengths, rows] + alpha[2 * label_lengths - 1, rows]
            with np.errstate(divide="ignore"):
                total = np.where(lengths == frame, np.log(ended) + scale, total)
            before = alpha.copy()
            before[1:] += alpha[:-1]
            before[2:] += np.where(leap[2:], alpha[:-2], 0.0)
            alpha = before * chance
            norm = alpha.sum(0)  # would soon be too small for a float
            alpha, scale = alpha / norm, scale + np.log(norm)
        found.append(-total.sum() / label_lengths.sum())
    return float(min(found))
