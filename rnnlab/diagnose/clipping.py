"""What clipping does to the gradients of many batches: how often it acts, and what it leaves of them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.diagnose.axes import LEGEND
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.run.figure import BLUE, COLOURS, GREY, MARKERS, ORANGE, columns, plain, save
from rnnlab.train import optim
from rnnlab.types import Array, Carry, Params

BATCHES = 32  # whose gradients are clipped


class Clipping(NamedTuple):
    """What a clip does to the gradients of several batches."""

    kind: str
    threshold: float
    norms: np.ndarray  # [N], before the clip
    factor: np.ndarray  # [N], |clipped| / |g|: what is left of the learning rate
    cosine: np.ndarray  # [N], between the two: 1 where the direction is kept


def batch_gradients(
    loss: Callable[..., Any],
    params: Params,
    carry: Carry,
    batches: Sequence[Any],
    *,
    scale: float = 1.0,
) -> tuple[list[Params], Carry]:
    """The gradient of each batch in turn, of `scale` times its mean loss, and the carry after them.

    loss: `Task.loss`. The state goes from batch to batch as in training; the weights stay.
    """

    @jax.jit
    def gradient(params: Params, carry: Carry, batch: Any) -> tuple[Params, Carry]:
        def mean(params: Params) -> tuple[Array, Carry]:
            after, sums = loss(params, carry, batch, None)
            total, count = sums["loss"]
            return scale * total / count, after

        return jax.grad(mean, has_aux=True)(params)

    found = []
    for batch in batches:
        grads, carry = gradient(params, carry, batch)
        found.append(grads)
    return found, carry


def measure(grads: Sequence[Params], params: Params, *, kind: str, threshold: float) -> Clipping:
    """What `optim.clip(kind, threshold)` does to these gradients.

    Raises UsageError for another kind or a threshold that is not > 0.
    """
    rule = optim.clip(kind, threshold)

    @jax.jit
    def one(g: Params) -> tuple[Array, Array, Array]:
        clipped, _ = rule.update(g, rule.init(params), params)
        norm, left = optim.global_norm(g), optim.global_norm(clipped)
        safe, other = jnp.where(norm > 0, norm, 1), jnp.where(left > 0, left, 1)
        inner = sum(
            jnp.sum((a / safe) * (b / other))
            for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(clipped), strict=True)
        )
        return norm, left / safe, jnp.where((norm > 0) & (left > 0), inner, 1.0)

    found = np.array([[float(v) for v in one(g)] for g in grads])
    return Clipping(kind, threshold, *found.T)


def sentences(own: Clipping, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Median and 95th percentile of the norms at these weights beside the threshold, the share of
    batches on which it acts; of a trained run the share of all its logged steps, and the steps before
    which 90% of the clipped ones lie."""
    median, high = (float(v) for v in np.percentile(own.norms, (50, 95)))
    acts = float((own.factor < 1 - 1e-6).mean())
    limit = "off" if math.isinf(own.threshold) else f"at {own.threshold:g}"
    said = [
        f"The gradient's norm is {median:.3g} (median of {len(own.norms)} batches at these weights; 95% "
        f"are below {high:.3g}); clipping {limit} acts on {100 * acts:.0f}% of them."
    ]
    logged = [row for row in rows if row.get("split") == "train"]
    if logged:
        steps = np.array([row["step"] for row in logged])
        counts = np.array([row["clipped"] for row in logged]) * np.diff(steps, prepend=0)
        share = float(counts.sum() / steps[-1])
        text = f"In training it acted on {100 * share:.2g}% of {steps[-1]} steps"
        if share > 0:
            before = int(steps[np.searchsorted(np.cumsum(counts), 0.9 * counts.sum())])
            text += f", nine tenths of them before step {before}" if before < steps[-1] else ""
        said.append(text + ".")
    return said


def draw(measured: Sequence[Clipping], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The norms before the clip with what each kind of clip makes of them, and, of a run that was
    trained, the learning rate that the clip left. measured: the run's own clip first, then others."""
    own = measured[0]
    steps, rates = _effective(rows, own)
    panels = 3 if steps else 2
    figure = Figure(figsize=(4.4 * panels + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    positive = own.norms[own.norms > 0]
    if positive.size:
        low, high = positive.min(), positive.max()
        axes[0].hist(
            positive, bins=np.geomspace(low / 1.1, high * 1.1, 24).tolist(), color=BLUE, alpha=0.8
        )
        axes[0].set_xscale("log")
        axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].xaxis.set_major_formatter("{x:g}")
        axes[0].xaxis.set_minor_formatter(NullFormatter())
    if math.isfinite(own.threshold):
        axes[0].axvline(own.threshold, color=ORANGE, ls="--", label=f"T = {own.threshold:g}")
        axes[0].legend(**LEGEND)
    axes[0].set(
        xlabel="norm of the gradient before clipping",
        ylabel="batches",
        title="norms at these weights",
    )
    for index, one in enumerate(measured):
        axes[1].plot(
            one.factor, one.cosine, MARKERS[index % 8], ms=5, alpha=0.6, color=COLOURS[index % 8],
            label=f"{one.kind}, T = {one.threshold:.3g}",
        )  # fmt: skip
    axes[1].set(
        xlabel="length kept, |clipped| / |g|",
        ylabel="direction kept, cosine",
        title="a point a batch",
        xlim=(-0.04, 1.06),
    )
    axes[1].legend(fontsize=7, framealpha=0.85, edgecolor="none")
    if steps:
        axes[2].plot(
            *columns(list(rows), "train", "learning_rate"),
            color=GREY,
            lw=4,
            alpha=0.4,
            label="of the schedule",
        )
        axes[2].plot(steps, rates, color=BLUE, lw=1.2, label="times what the clip left")
        axes[2].set(xlabel="step", ylabel="learning rate", title="effective learning rate")
        axes[2].legend(**LEGEND)
    for axis in axes:
        plain(axis)
    save(figure, path)


def _effective(rows: Sequence[dict[str, Any]], own: Clipping) -> tuple[list[int], list[float]]:
    """Rate x min(1, T / norm), by each logged row's mean norm; for the global norm alone."""
    if own.kind != "global_norm" or not math.isfinite(own.threshold):
        return [], []
    steps, norms = columns(list(rows), "train", "grad_norm")
    _, rates = columns(list(rows), "train", "learning_rate")
    if len(norms) != len(rates):
        return [], []
    factors = [1.0 if n <= own.threshold else own.threshold / n for n in norms]
    return steps, [rate * factor for rate, factor in zip(rates, factors, strict=True)]


def _table(measured: Sequence[Clipping], omega: bool) -> tuple[str, ...]:
    """The lines of the table in Markdown. measured: the run's own clip first, then others."""
    return (
        "| clip | T | acts on | length kept, median | direction kept, mean cosine |",
        "|---|---|---|---|---|",
        *(
            f"| {one.kind}{' (this config)' if one is measured[0] else ''} | {one.threshold:.3g} | "
            f"{100 * (one.factor < 1 - 1e-6).mean():.0f}% | {np.median(one.factor):.2f} | "
            f"{one.cosine.mean():.3f} |"
            for one in measured
        ),
        "",
        f"Of {BATCHES} batches at these weights. global_norm is the hard clip g T/|g| where |g| > T, soft "
        "is g T/(T + |g|). Thresholds of the kinds that the config does not have: the median norm; for "
        "value twice the root of the mean square entry at that norm; for adaptive 0.01."
        + (" Omega's share in the gradient is left out." if omega else ""),
    )


def examine(subject: Subject, folder: Path) -> Findings:
    """The section: clipping.png and a table of the kinds of clip, over BATCHES batches."""
    config, task = subject.config.optim, subject.trained
    scale = subject.config.train.window if config.reduction == "sum_over_time" else 1.0
    batches = [task.batch(number) for number in range(BATCHES)]
    grads, _ = batch_gradients(task.loss, subject.params, task.carry(), batches, scale=float(scale))
    own = measure(grads, subject.params, kind=config.clip, threshold=config.clip_norm)
    # The others at thresholds that act: the median of the norms for those of norms.
    middle = float(np.median(own.norms)) or 1.0
    entries = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
    typical = {"value": 2 * middle / math.sqrt(entries), "adaptive": 0.01}
    others = [
        measure(grads, subject.params, kind=kind, threshold=typical.get(kind, middle))
        for kind in optim.CLIPS
    ]
    draw([own, *others], subject.rows, folder / "clipping.png")
    caption = (
        "Norms before clipping at these weights; length and direction that each kind of clip keeps; "
        "with a trained run, the learning rate times min(1, T / norm) by the mean norm of each logged row."
    )
    table = _table([own, *others], bool(config.omega))
    return Findings(sentences(own, subject.rows), [("clipping.png", caption)], table)


SECTION = Section(50, "Clipping", examine)
