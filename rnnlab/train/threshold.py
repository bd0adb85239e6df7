"""How often the clipping threshold acted in a run, in numbers and in words."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rnnlab.types import Config


def clipped_share(rows: Sequence[dict[str, Any]]) -> float:
    """The share of the steps in which clipping changed the gradient; nan if no step was logged.

    rows: those of metrics.jsonl, whose training rows stand for as many steps each.
    """
    shares = [float(row["clipped"]) for row in rows if row["split"] == "train" and "clipped" in row]
    shares = [share for share in shares if math.isfinite(share)]
    return statistics.fmean(shares) if shares else math.nan


def describe_clipping(rows: Sequence[dict[str, Any]], config: Config) -> str:
    """One sentence about the threshold optim.clip_norm, "" where clipping is off or nothing was logged.

    A threshold that acted in no step did what no clipping does: the sentence then says which norms the
    gradient had, and gives their median as a threshold to begin with. With a loss that is a mean per
    symbol the norms are often below 1 (`experiments/clip_sweep.py`).
    """
    threshold, share = config.optim.clip_norm, clipped_share(rows)
    if not math.isfinite(threshold) or math.isnan(share):
        return ""
    if share:
        percent = "less than 1%" if share < 0.005 else f"{100 * share:.0f}%"
        return f"clipping at {threshold:g} changed the gradient in {percent} of the steps"
    train = [row for row in rows if row["split"] == "train" and math.isfinite(row["grad_norm"])]
    median = statistics.median(float(row["grad_norm"]) for row in train)
    largest = max(float(row["grad_norm_max"]) for row in train)
    return (
        f"clipping at {threshold:g} never acted: the gradient's norm was {median:.2g} in the median and "
        f"{largest:.2g} at most; a lower threshold does, --config.optim.clip_norm={median:.2g} say"
    )
