"""What each time step adds to the gradient of the parameters, and which steps make most of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose.axes import LEGEND
from rnnlab.diagnose.objective import mean_loss, sizes_of
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.run.figure import COLOURS, GREY, MARKERS, plain, save
from rnnlab.types import Carry, Params, Probe


class Share(NamedTuple):
    """What each time step adds to the gradient of the parameters of a layer, or of either end."""

    layer: str  # or "readout", "embedding"
    norms: dict[str, np.ndarray]  # parameter -> [T], the norm of what step t adds
    parts: dict[str, np.ndarray]  # parameter -> [T], <g_t, g> / |g|^2; it adds up to 1


def measure(probe: Probe, params: Params, carry: Carry, batch: Any) -> list[Share]:
    """g = sum_t g_t for every parameter: |g_t| and the share <g_t, g> / |g|^2, of every layer, of the
    readout, and of the embedding where there is one.

    g_t is the gradient of the loss by the copy of the parameter that step t uses, were it not shared
    over time (Pascanu et al. 2013, eq. 4). A share may be negative: such a step pulls the other way.
    By the plain path. Of a table that is the readout's kernel too neither use is told apart, and it is
    left out.

    Raises UsageError for a bidirectional model.
    """
    if not probe.net.causal:
        raise UsageError("the share of a step in the gradient needs a model of one direction")
    loss = mean_loss(probe, carry, batch)
    time, _, dtype = sizes_of(probe, params, batch)
    ends = ["readout"]
    if "embedding" in params and "kernel" in params["readout"]:
        ends.append("embedding")

    def slots(whole: Params) -> taps.Taps:
        zeros = jax.tree.map(lambda leaf: jnp.zeros((time, 2), dtype), whole)
        return taps.Taps(shares=zeros, whole=whole)

    @jax.jit
    def found(params: Params) -> Any:
        whole = jax.grad(loss)(params)
        given = [slots(layer) for layer in whole["layers"]], {e: slots(whole[e]) for e in ends}
        layers, outer = jax.grad(loss, argnums=(1, 2))(params, *given)
        sizes = jax.tree.map(lambda g: jnp.sum(g**2), whole)
        return (
            [each.shares for each in (*layers, *outer.values())],
            [*sizes["layers"], *(sizes[end] for end in outer)],
        )

    result = []
    for layer, pairs, sizes in zip((*probe.net.names, *sorted(ends)), *found(params), strict=True):
        if not isinstance(pairs, dict):  # the embedding is a table by itself
            pairs, sizes = {"table": pairs}, {"table": sizes}
        norms = {name: np.asarray(pair[:, 0]) for name, pair in pairs.items()}
        parts = {
            name: np.asarray(pair[:, 1]) / max(float(sizes[name]), np.finfo(np.float32).tiny)
            for name, pair in pairs.items()
        }
        result.append(Share(layer, norms, parts))
    return result


def sentences(measured: Sequence[Share]) -> list[str]:
    """For the recurrent matrix of each layer the share of the window's last tenth of the steps, if it
    is over three times what it would be if all counted alike."""
    said = []
    for one in measured:
        if "kernel_h" not in one.parts:
            continue
        parts = one.parts["kernel_h"]
        tail = max(1, len(parts) // 10)
        share = float(parts[-tail:].sum())
        if share > 3 * tail / len(parts):
            said.append(
                f"{one.layer}: the last {tail} of {len(parts)} steps make {100 * share:.0f}% of the "
                "gradient of the recurrent matrix."
            )
    return said


def draw(measured: Sequence[Share], path: Path) -> None:
    """What each time step adds to the gradient of each layer's matrices: its share, added up."""
    figure = Figure(figsize=(5 * len(measured) + 0.5, 4), layout="constrained")
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, measured, strict=True):
        for index, (name, parts) in enumerate(one.parts.items()):
            steps = np.arange(1, len(parts) + 1)
            panel.plot(
                steps, 100 * np.cumsum(parts), color=COLOURS[index % 8],
                marker=MARKERS[index % 8], markevery=max(1, len(steps) // 8), ms=4, lw=1.3,
                label=name,
            )  # fmt: skip
        panel.axhline(100, color=GREY, lw=0.8, ls="--")
        panel.set(title=one.layer, xlabel="time step t")
        panel.legend(**LEGEND)
        plain(panel)
    panels[0].set_ylabel("% of the gradient from steps up to t")
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: shares.png; None for a model of two directions."""
    if not subject.probe.net.causal:
        return None
    found = measure(subject.probe, subject.params, subject.carry, subject.batch)
    draw(found, folder / "shares.png")
    caption = (
        "What the steps up to t add to the gradient of each weight, in the layers and at either end of "
        "them: the running sum of <g_t, g> / |g|^2, g_t being the gradient by the copy of the "
        "weight that step t uses. A straight line: all steps count alike. A falling "
        "one: these steps pull against the sum."
    )
    return Findings(sentences(found), [("shares.png", caption)])


SECTION = Section(20, "The share of each time step", examine)
