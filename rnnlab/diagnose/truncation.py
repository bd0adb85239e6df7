"""What truncation does to the gradient: that of BPTT by short windows beside that of the whole one."""

import math
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
from rnnlab.run.figure import BLUE, COLOURS, GREY, ORANGE, plain, save
from rnnlab.types import Array, Carry, Params, Probe


class Truncation(NamedTuple):
    """The gradient of truncated BPTT beside that of the whole window, by window length."""

    windows: np.ndarray  # int [W]
    cosine: np.ndarray  # [W], between the two, over all parameters
    bias: np.ndarray  # [W], |g_w - g| / |g|
    ratio: np.ndarray  # [W], |g_w| / |g|
    recurrent: np.ndarray  # [W], the cosine over the layers' parameters that a step multiplies by


def measure(
    probe: Probe, params: Params, carry: Carry, batch: Any, *, windows: Sequence[int]
) -> Truncation:
    """Bias and direction of the truncated gradient (Williams and Peng 1990; Tallec and Ollivier 2018).

    windows: lengths w; the state is handed on at steps w, 2w ..., and no gradient passes there, as in
        training by windows of w. The weights stay the same throughout. The reference is full BPTT
        over the batch's window.

    Raises UsageError for a window below 1, or a model that is bidirectional.
    """
    if min(windows) < 1:
        raise UsageError(f"a window has at least 1 step, got {min(windows)}")
    if not probe.net.causal:
        raise UsageError("truncation needs a model of one direction")
    loss = mean_loss(probe, carry, batch)
    time, rows, _ = sizes_of(probe, params, batch)

    @jax.jit
    def gradient(params: Params, length: Array) -> Params:
        steps = jnp.arange(time)[:, None]
        cut = jnp.broadcast_to((steps > 0) & (steps % length == 0), (time, rows))
        return jax.grad(loss)(params, [taps.Taps(cut=cut) for _ in probe.net.names])

    def compared(part: Params, whole: Params) -> tuple[float, ...]:
        g_w, g = (
            np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
            for tree in (part, whole)
        )
        size, other = np.linalg.norm(g), np.linalg.norm(g_w)
        if not size > 0 or not other > 0:
            return np.nan, np.nan, np.nan
        apart = np.linalg.norm(g_w - g)
        return float(g @ g_w / (size * other)), float(apart / size), float(other / size)

    def recurrent(tree: Params) -> Any:
        return [layer.get("kernel_h", layer) for layer in tree["layers"]]

    whole = gradient(params, jnp.asarray(time))
    found = [gradient(params, jnp.asarray(w)) for w in windows]
    rows_of = np.array([compared(g, whole) for g in found])
    inner = np.array([compared(recurrent(g), recurrent(whole))[0] for g in found])
    cosine, bias, ratio = rows_of.T
    return Truncation(np.array(windows), cosine, bias, ratio, inner)


def sentences(measured: Truncation, trained: int) -> list[str]:
    """Cosine and bias at the window of training, if the reference is longer; and the shortest window
    from which on the cosine is at least 0.99."""
    said = []
    windows, whole = list(measured.windows), int(measured.windows[-1])
    if trained in windows and trained < whole:
        at = windows.index(trained)
        said.append(
            f"Windows of {trained} steps, as in training: the gradient has a cosine of "
            f"{measured.cosine[at]:.3f} with that over {whole} steps, and is off by "
            f"{100 * measured.bias[at]:.2g}% of its norm."
        )
    close = np.nonzero(~(measured.cosine >= 0.99))[0]
    first = int(close[-1]) + 1 if len(close) else 0
    if first < len(windows) - 1:  # the last one is the whole itself
        said.append(
            f"From windows of {windows[first]} steps on the truncated gradient has the direction of "
            f"the whole one (a cosine of 0.99 or more)."
        )
    return said


def draw(measured: Truncation, path: Path, *, trained: int) -> None:
    """Direction and error of the truncated gradient by window length. trained: train.window."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(measured.windows, measured.cosine, "o-", color=BLUE, label="cosine, all parameters")
    axis.plot(
        measured.windows,
        measured.recurrent,
        "s--",
        color=COLOURS[2],
        label="cosine, recurrent matrices",
    )
    axis.plot(
        measured.windows,
        measured.bias,
        "D-",
        color=ORANGE,
        label="bias, relative to the norm of the whole",
    )
    if trained in measured.windows:
        axis.axvline(trained, color=GREY, ls=":", lw=1.2, label=f"train.window = {trained}")
    axis.axhline(1, color=GREY, lw=0.6)
    axis.axhline(0, color=GREY, lw=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(
        xlabel="window of truncated BPTT, steps",
        ylabel=f"beside full BPTT over {measured.windows[-1]} steps",
        title="what truncation does to the gradient",
    )
    axis.legend(**LEGEND)
    plain(axis)
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: truncation.png, by windows of 1, 2, 4 ... steps and that of training; None for a
    model of two directions."""
    probe = subject.probe
    if not probe.net.causal:
        return None
    time = probe.inputs(subject.batch)["x"].shape[0]
    trained = subject.config.train.window
    windows = {2**k for k in range(int(math.log2(time)) + 1)} | {trained, time}
    windows = sorted(w for w in windows if w <= time)
    found = measure(probe, subject.params, subject.carry, subject.batch, windows=windows)
    draw(found, folder / "truncation.png", trained=trained)
    caption = (
        f"The gradient of truncated BPTT by windows, beside that of full BPTT over {time} steps, at the "
        "same weights: the cosine between them, and |g_w - g| / |g|."
    )
    return Findings(sentences(found, trained), [("truncation.png", caption)])


SECTION = Section(40, "Truncation", examine)
