"""How well texts that a model says agree with the true ones: exact matches, BLEU, ROUGE-L, error rates.

The scores of the field are computed by its own packages, so that they compare with published ones;
these are optional, and each function raises UsageError where its package is missing.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnlab.data import optional
from rnnlab.errors import UsageError


def exact_matches(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> float:
    """The share of answers that equal one of their truths, of which each answer has one or more."""
    return float(np.mean([a in t for a, t in zip(answers, truths, strict=True)]))


def bleu(answers: list[str], truths: list[str]) -> float:
    """sacreBLEU of all answers together, from 0 to 100 (Post 2018; tokeniser 13a, cased)."""
    sacrebleu = optional.needed("sacrebleu", "BLEU")
    return float(sacrebleu.corpus_bleu(answers, [truths]).score)


def caption_scores(answers: list[str], truths: list[tuple[str, ...]]) -> dict[str, float]:
    """BLEU-1 to 4 of the corpus (Papineni et al. 2002) and the mean of the best ROUGE-L F-measure (Lin
    2004), in percent; each answer has one or more truths, all of words with blanks between."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise UsageError(
            f"scoring captions needs the package {error.name}: pip install -c constraints.txt -e '.[media]'"
        ) from None
    streams: list[Any] = [list(of) for of in itertools.zip_longest(*truths)]
    found = {}
    for order in (1, 2, 3, 4):
        # force: that the answers are split into words already is what is meant
        scorer = BLEU(tokenize="none", max_ngram_order=order, force=True)
        found[f"bleu{order}"] = scorer.corpus_score(answers, streams).score
    rouge = RougeScorer(["rougeL"], tokenizer=_Blanks())
    best = [
        rouge.score_multi(of, answer)["rougeL"].fmeasure
        for answer, of in zip(answers, truths, strict=True)
    ]
    return {**found, "rouge_l": 100 * float(np.mean(best))}


class _Blanks:
    """The tokenizer of what is words with blanks between."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def error_rates(answers: list[str], truths: list[str], names: tuple[str, ...]) -> dict[str, float]:
    """cer and wer, as `names` has them: insertions, deletions and substitutions over the characters
    or words of the truths, all texts together (by jiwer)."""
    jiwer = optional.needed("jiwer", "counting errors")
    return {name: float(getattr(jiwer, name)(truths, answers)) for name in names}


def best_constant(truths: list[str], name: str, gap: str) -> tuple[str, float]:
    """(text, its error rate): one text for all, grown from nothing by the unit that helps most, as long
    as one does; local search, so an upper bound. name: cer or wer; gap: what stands between units."""
    units = sorted(set("".join(truths) if not gap else gap.join(truths).split(gap)))
    best, least = "", 1.0  # nothing: all is deleted
    while True:
        grown = [f"{best}{gap}{unit}" if best else unit for unit in units]
        found = [error_rates([text] * len(truths), truths, (name,))[name] for text in grown]
        if min(found) >= least:
            return best, least
        best, least = grown[int(np.argmin(found))], min(found)
