"""The sections of a diagnosis that look at gradients: flow, shares, saturation, truncation, clipping.

A section is a function (subject, folder) -> Section: it measures, draws into the folder, and puts into
words what follows from the numbers by a stated rule. Adding one is adding a function to SECTIONS.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.diagnose import diagnosis_figures as figures
from rnnlab.diagnose import diagnostics
from rnnlab.errors import UsageError
from rnnlab.recurrence import saturation, taps
from rnnlab.recurrence.unrolling import valid_steps
from rnnlab.train import optim
from rnnlab.types import Config, Params, Probe, Task

ROWS = 32  # of a batch that are looked at
WARM = 3  # windows that the state is carried through first
MUCH = 0.1  # a share of saturated activations that is worth a sentence
BATCHES = 32  # whose gradients are clipped


class Subject(NamedTuple):
    """What is diagnosed."""

    config: Config
    probe: Probe
    task: Task  # with the window of the diagnosis, which may be longer than that of training
    trained: Task  # with that of training
    params: Params
    carry: Any  # the state that the window starts from, of ROWS rows at most
    batch: Any  # of that window and those rows
    title: str
    is_run: bool  # and not a config at initialisation
    rows: list[dict[str, Any]]  # of metrics.jsonl
    looks: list[dict[str, Any]]  # of diagnosis.jsonl


class Section(NamedTuple):
    """A part of the report."""

    title: str
    sentences: list[str]
    figures: list[tuple[str, str]]  # (file, what it shows)
    table: tuple[str, ...] = ()  # lines of Markdown


# ---- what is looked at


def warm(task: Task, params: Params) -> tuple[Any, Any]:
    """(the state after WARM windows, the batch after them), of ROWS rows at most."""
    loss = jax.jit(lambda carry, batch: task.loss(params, carry, batch, None)[0])
    carry = task.carry()
    if jax.tree.leaves(carry):
        for number in range(WARM):
            carry = loss(carry, task.batch(number))

    def first(leaf: Any) -> Any:
        if np.ndim(leaf) == 0:
            return leaf
        return leaf[:ROWS] if leaf.ndim == 1 else leaf[:, :ROWS]

    return jax.tree.map(lambda leaf: leaf[:ROWS], carry), jax.tree.map(first, task.batch(WARM))


def check(subject: Subject) -> None:
    """Raise UsageError where the loss or its gradient overflows: no figure could be drawn of it."""
    carry, batch = subject.carry, subject.batch

    def loss(params: Params) -> Any:
        total, count = subject.task.loss(params, carry, batch, None)[1]["loss"]
        return total / count

    value, grads = jax.jit(jax.value_and_grad(loss))(subject.params)
    norm = float(optim.global_norm(grads))
    if not (math.isfinite(float(value)) and math.isfinite(norm)):
        raise UsageError(
            f"at these weights the loss is {float(value):.3g} and the norm of its gradient {norm:.3g} "
            f"over {subject.probe.inputs(batch)['x'].shape[0]} steps: take a shorter --window, an earlier "
            "--checkpoint or smaller initial values"
        )


def seen(subject: Subject) -> tuple[taps.Seen, ...]:
    """What every unroll does over the window."""
    probe, batch = subject.probe, subject.batch
    dtype = jax.tree.leaves(subject.params)[0].dtype
    start = probe.begin(subject.carry, batch, dtype)
    return probe.net.watch(subject.params, start, **probe.inputs(batch))[2]


def flow_section(subject: Subject, folder: Path) -> Section:
    """Gradient flow."""
    probe = subject.probe
    of = (subject.params, subject.carry, subject.batch)
    whole, last = diagnostics.flow(probe, *of), diagnostics.flow(probe, *of, last=True)
    figures.flow(whole, last, folder / "flow.png")
    caption = (
        "The norm of dL/ds_t for each layer and part of the state (Pascanu et al. 2013, eq. 3-5). Left: "
        "of the mean loss of the window. Right: of the loss of each row's last scored step alone."
    )
    return Section("Gradient flow", flow_sentences(last), [("flow.png", caption)])


def flow_sentences(last: Sequence[diagnostics.Flow]) -> list[str]:
    """How far back the gradient of the last step's loss reaches, layer by layer, at the part of the
    state where it reaches furthest: the first lag with 1% of the norm where it begins, at lag 0 (1
    for an inner state); and the factor a step, (norm there / first norm) ^ (1 / steps). It "grows"
    where the largest norm is over 10 times the first."""
    found = []
    for one in last:
        curves, reaches = one.by_lag(), one.reach()
        parts = [p for p in range(len(one.parts)) if curves[p].max() > 0] or [0]
        ends = [math.inf if reach is None else float(reach) for reach in reaches]
        part = max(parts, key=ends.__getitem__)
        start = diagnostics.begins(curves[part])
        curve, reach = curves[part][start:], reaches[part]
        reach = None if reach is None else reach - start
        name, end = f"{one.layer}, {one.parts[part]}", len(curve) - 1
        if not curve[0] > 0:
            found.append(f"{name}: no gradient of the last step's loss arrives.")
            continue
        top = int(curve.argmax())
        if curve[top] > 10 * curve[0]:
            found.append(
                f"{name}: going back the gradient grows, to {curve[top] / curve[0]:.3g} times its first "
                f"size within {top} steps: it explodes."
            )
        if reach is not None:
            rate = (max(curve[reach], 1e-300) / curve[0]) ** (1 / max(reach, 1))
            found.append(
                f"{name}: the gradient falls to 1% within {reach} steps, by a factor of {rate:.2f} a step."
            )
        elif end > 0:
            rate = (curve[end] / curve[0]) ** (1 / end)
            found.append(
                f"{name}: the gradient reaches back over the whole window: after {end} steps it is "
                f"{100 * curve[end] / curve[0]:.3g}% of its first size, a factor of {rate:.3f} a step."
            )
    return found


def shares_section(subject: Subject, folder: Path) -> Section | None:
    """Share of each step."""
    probe = subject.probe
    if not probe.net.causal:
        return None
    found = diagnostics.shares(probe, subject.params, subject.carry, subject.batch)
    figures.shares(found, folder / "shares.png")
    caption = (
        "What the steps up to t add to the gradient of each weight, in the layers and at either end of "
        "them: the running sum of <g_t, g> / |g|^2, g_t being the gradient by the copy of the "
        "weight that step t uses. A straight line: all steps count alike. A falling "
        "one: these steps pull against the sum."
    )
    return Section(
        "The share of each time step", shares_sentences(found), [("shares.png", caption)]
    )


def shares_sentences(found: Sequence[diagnostics.Share]) -> list[str]:
    """For the recurrent matrix of each layer the share of the window's last tenth of the steps, if it
    is over three times what it would be if all counted alike."""
    told = []
    for one in found:
        if "kernel_h" not in one.parts:
            continue
        parts = one.parts["kernel_h"]
        tail = max(1, len(parts) // 10)
        share = float(parts[-tail:].sum())
        if share > 3 * tail / len(parts):
            told.append(
                f"{one.layer}: the last {tail} of {len(parts)} steps make {100 * share:.0f}% of the "
                "gradient of the recurrent matrix."
            )
    return told


def saturation_section(subject: Subject, folder: Path) -> Section:
    """Saturation."""
    probe = subject.probe
    net, all_found, shown = probe.net, [], []
    layers = taps.units(subject.params)
    inputs = probe.inputs(subject.batch)
    valid = valid_steps(inputs["x"].shape[0], inputs.get("lengths"), inputs.get("mask"))
    for name, layer, one in zip(net.names, layers, seen(subject), strict=True):
        found = saturation.measure(net.cell, layer, one, layer=name, valid=valid)
        all_found += found
        if found:
            file = f"saturation_{name.replace(' ', '_')}.png"
            figures.saturation(found, folder / file)
            caption = (
                f"{name}: every tanh and gate in the cell at every step. Saturated: a tanh beyond "
                f"+-{saturation.BEYOND:g}, a gate above {saturation.BEYOND:g} or below "
                f"{1 - saturation.BEYOND:.2g}, a relu at 0."
            )
            shown.append((file, caption))
    return Section("Saturation", saturation_sentences(all_found), shown)


def saturation_sentences(found: Sequence[saturation.Saturation]) -> list[str]:
    """Every activation of which over 10% of the values are saturated, and how many units are so at
    more than half of the steps; one sentence for all where none is."""
    told = []
    for one in found:
        share = float(one.share.mean())
        if share > MUCH:
            stuck = float((one.units > 0.5).mean())
            kind = {"tanh": "saturated", "logistic": "open or shut", "relu": "at 0"}
            told.append(
                f"{one.layer}, {one.activation.name}: {100 * share:.0f}% of the values are "
                f"{kind[one.activation.kind]}; {100 * stuck:.0f}% of the units are so most of the time."
            )
    if found and not told:
        most = max(found, key=lambda one: one.share.mean())
        told.append(
            f"No activation is saturated in more than 10% of its values; most is the "
            f"{most.activation.name} of {most.layer}, {100 * float(most.share.mean()):.1f}%."
        )
    return told


def truncation_section(subject: Subject, folder: Path) -> Section | None:
    """Truncation."""
    probe = subject.probe
    if not probe.net.causal:
        return None
    time = probe.inputs(subject.batch)["x"].shape[0]
    trained = subject.config.train.window
    windows = {2**k for k in range(int(math.log2(time)) + 1)} | {trained, time}
    found = diagnostics.truncation(
        probe,
        subject.params,
        subject.carry,
        subject.batch,
        windows=sorted(w for w in windows if w <= time),
    )
    figures.truncation(found, folder / "truncation.png", trained=trained)
    caption = (
        f"The gradient of truncated BPTT by windows, beside that of full BPTT over {time} steps, at the "
        "same weights: the cosine between them, and |g_w - g| / |g|."
    )
    return Section(
        "Truncation", truncation_sentences(found, trained), [("truncation.png", caption)]
    )


def truncation_sentences(found: diagnostics.Truncation, trained: int) -> list[str]:
    """Cosine and bias at the window of training, if the reference is longer; and the shortest window
    from which on the cosine is at least 0.99."""
    told = []
    windows, whole = list(found.windows), int(found.windows[-1])
    if trained in windows and trained < whole:
        at = windows.index(trained)
        told.append(
            f"Windows of {trained} steps, as in training: the gradient has a cosine of "
            f"{found.cosine[at]:.3f} with that over {whole} steps, and is off by "
            f"{100 * found.bias[at]:.2g}% of its norm."
        )
    close = np.nonzero(~(found.cosine >= 0.99))[0]
    first = int(close[-1]) + 1 if len(close) else 0
    if first < len(windows) - 1:  # the last one is the whole itself
        told.append(
            f"From windows of {windows[first]} steps on the truncated gradient has the direction of "
            f"the whole one (a cosine of 0.99 or more)."
        )
    return told


def clipping_section(subject: Subject, folder: Path) -> Section:
    """Clipping."""
    config, task = subject.config.optim, subject.trained
    scale = subject.config.train.window if config.reduction == "sum_over_time" else 1.0
    batches = [task.batch(number) for number in range(BATCHES)]
    grads, _ = diagnostics.gradients(
        task.loss, subject.params, task.carry(), batches, scale=float(scale)
    )
    own = diagnostics.clipping(grads, subject.params, kind=config.clip, threshold=config.clip_norm)
    # The others at thresholds that act: the median of the norms for those of norms.
    middle = float(np.median(own.norms)) or 1.0
    entries = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
    typical = {"value": 2 * middle / math.sqrt(entries), "adaptive": 0.01}
    found = [own] + [
        diagnostics.clipping(grads, subject.params, kind=kind, threshold=typical.get(kind, middle))
        for kind in optim.CLIPS
    ]
    figures.clipping(found, subject.rows, folder / "clipping.png")
    table = (
        "| clip | T | acts on | length kept, median | direction kept, mean cosine |",
        "|---|---|---|---|---|",
        *(
            f"| {one.kind}{' (this config)' if one is own else ''} | {one.threshold:.3g} | "
            f"{100 * (one.factor < 1 - 1e-6).mean():.0f}% | {np.median(one.factor):.2f} | "
            f"{one.cosine.mean():.3f} |"
            for one in found
        ),
        "",
        f"Of {BATCHES} batches at these weights. global_norm is the hard clip g T/|g| where |g| > T, soft "
        "is g T/(T + |g|). Thresholds of the kinds that the config does not have: the median norm; for "
        "value twice the root of the mean square entry at that norm; for adaptive 0.01."
        + (" Omega's share in the gradient is left out." if config.omega else ""),
    )
    caption = (
        "Norms before clipping at these weights; length and direction that each kind of clip keeps; "
        "with a trained run, the learning rate times min(1, T / norm) by the mean norm of each logged row."
    )
    sentences = clipping_sentences(own, subject.rows)
    return Section("Clipping", sentences, [("clipping.png", caption)], table)


def clipping_sentences(own: diagnostics.Clipping, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Median and 95th percentile of the norms at these weights beside the threshold, the share of
    batches on which it acts; of a trained run the share of all its logged steps, and the steps before
    which 90% of the clipped ones lie."""
    median, high = (float(v) for v in np.percentile(own.norms, (50, 95)))
    acts = float((own.factor < 1 - 1e-6).mean())
    limit = "off" if math.isinf(own.threshold) else f"at {own.threshold:g}"
    told = [
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
        told.append(text + ".")
    return told


def training_section(subject: Subject, folder: Path) -> Section | None:
    """While it trained."""
    if not subject.looks:
        return None
    figures.training(subject.looks, folder / "training.png")
    caption = (
        "While it trained: the flow of the gradient of each window, against the steps before its end, "
        "and the share of saturated activations."
    )
    return Section("While it trained", [], [("training.png", caption)])


SECTIONS = (
    flow_section,
    shares_section,
    saturation_section,
    truncation_section,
    clipping_section,
    training_section,
)
