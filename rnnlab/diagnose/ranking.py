"""Which single units follow a label of the text best, and whether that beats chance."""

from typing import NamedTuple

import numpy as np
from scipy import stats

RARE = 20  # characters of each half at which a label must have another value than at most


class Ranking(NamedTuple):
    """The units that follow a label best."""

    label: str
    binary: bool
    share: float  # of the characters, those at which it holds, or the number is above 0
    # The best first: columns of the values, their AUC (Spearman's correlation for a number), and
    # the balanced accuracy of a threshold (nan for a number). () if the label was not ranked.
    columns: tuple[int, ...]
    values: tuple[float, ...]
    accuracies: tuple[float, ...]
    chance: float  # what the best unit reaches by chance, as an AUC above 0.5 or |correlation|

    @property
    def follows(self) -> bool:
        """Whether the best unit beats chance."""
        return bool(self.columns) and self.best > self.chance

    @property
    def best(self) -> float:
        """What the best unit reaches, whichever its direction; nan if the label was not ranked."""
        if not self.columns:
            return np.nan
        value = self.values[0]
        return max(value, 1.0 - value) if self.binary else abs(value)


def rank(
    values: np.ndarray,
    found: dict[str, np.ndarray],
    *,
    top: int,
    shifts: int,
    seed: int,
) -> tuple[Ranking, ...]:
    """For each label the `top` units that follow it best.

    values: [N, units]; found: label -> bool or int [N], as of `labels.of`.

    A bool is followed by AUC, the area under the ROC: the probability that the unit is higher at a
    character where the label holds than at one where it does not, ties counting half; 0 is as good
    as 1. An int is followed by Spearman's correlation. The balanced accuracy, the mean of the shares
    right where the label holds and where it does not, is measured on the second half of the text,
    with the threshold and direction that are best on the first.

    Chance is the largest value that any unit reaches for any of `shifts` copies of the label, each
    shifted around the text by a random offset of at least a tenth of it: shifted, the label keeps
    its own rhythm and loses its place. So the chance that a label which no unit follows has a unit
    that beats it is about 1 / (shifts + 1), whatever the number of units.

    A label is not ranked where fewer than 20 characters of either half have another value than the
    half's most common one.
    """
    length = len(values)
    random = np.random.default_rng(seed)
    offsets = random.integers(length // 10, length - length // 10, shifts) if length else []
    ranks = _centred(values)
    spread = np.sqrt(np.einsum("nu,nu->u", ranks, ranks, dtype=np.float64))
    result = []
    for name, label in found.items():
        binary = label.dtype == bool
        holds = np.count_nonzero(label)
        share = holds / length if length else 0.0
        if not _rankable(label):
            result.append(Ranking(name, binary, share, (), (), (), np.nan))
            continue
        weights = label - label.mean() if binary else _centred(label[:, None])[:, 0]
        if binary:  # the sum of the ranks where it holds, so scaled, is AUC - 0.5
            scale = np.full(values.shape[1], float(holds * (length - holds)))
        else:
            scale = spread * np.linalg.norm(weights)
        scale[spread == 0.0] = np.inf  # a unit that never moves follows nothing
        scores = (ranks.T @ weights.astype(ranks.dtype)) / scale
        shifted = np.stack([np.roll(weights, offset) for offset in offsets], axis=1)
        chance = np.abs((ranks.T @ shifted.astype(ranks.dtype)) / scale[:, None]).max()
        best = np.argsort(-np.abs(scores), kind="stable")[:top]
        accuracies = [accuracy(values[:, u], label) if binary else np.nan for u in best]
        result.append(
            Ranking(
                name,
                binary,
                share,
                tuple(int(u) for u in best),
                tuple(float(scores[u]) + 0.5 * binary for u in best),
                tuple(accuracies),
                float(chance) + 0.5 * binary,
            )
        )
    return tuple(result)


def _rankable(label: np.ndarray) -> bool:
    halves = np.split(label, [len(label) // 2])
    return all(
        half.size and half.size - np.unique(half, return_counts=True)[1].max() >= RARE
        for half in halves
    )


def _centred(values: np.ndarray) -> np.ndarray:
    """The ranks of each column of [N, U], ties sharing their mean, less their mean; float32, which
    holds them exactly for texts of up to 8 million characters."""
    ranks = np.empty(values.shape, np.float32)
    for begin in range(0, values.shape[1], 128):
        block = stats.rankdata(values[:, begin : begin + 128], axis=0)
        ranks[:, begin : begin + 128] = block - (len(values) + 1) / 2
    return ranks


def accuracy(values: np.ndarray, label: np.ndarray) -> float:
    """The balanced accuracy on the second half of `values` [N] > threshold (or <=) for the bool
    `label` [N]; the threshold, midway between two values, is the best one on the first half."""
    half = len(values) // 2
    order = np.argsort(values[:half], kind="stable")
    ordered, holds = values[order].astype(np.float64), label[order]
    below_if = np.cumsum(holds) / holds.sum()  # the share at or below each value
    below_not = np.cumsum(~holds) / (~holds).sum()
    apart = below_not - below_if  # how much more often `>` is right than wrong
    apart[:-1][ordered[1:] == ordered[:-1]] = 0.0  # no threshold between equal values
    apart[-1] = 0.0
    best = int(np.argmax(np.abs(apart)))
    threshold = (ordered[best] + ordered[min(best + 1, half - 1)]) / 2
    told, truth = (values[half:] > threshold) == (apart[best] > 0), label[half:]
    return float((told[truth].mean() + (~told[~truth]).mean()) / 2)
