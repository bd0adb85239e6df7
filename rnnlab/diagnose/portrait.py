"""The fixed and slow points of every layer: of what kind they are, and where its trajectories lie."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from rnnlab.diagnose import fixed_points
from rnnlab.diagnose.axes import LEGEND, LINES
from rnnlab.diagnose.fixed_points import FixedPoints
from rnnlab.diagnose.subject import Findings, Section, Subject, whole_layers
from rnnlab.diagnose.trajectory import joined
from rnnlab.diagnose.wording import counted
from rnnlab.run.figure import GREY, MARKERS, plain, save

STARTS = 100  # of the search
MOST = 6  # sentences about one layer's points
SEARCHED = 256  # numbers in a state, up to which it is searched
KINDS = 7  # shown apart, the others together


def sentences(points: FixedPoints, name: str) -> list[str]:
    """What `fixed_points.find` says of the layer called `name`: how many fixed points (q <= tolerance) and
    slow points (q <= slow) were found from how many starts, and what became of the others; how many
    there are of each kind; each candidate line attractor.
    """
    fixed = int((points.q <= points.tolerance).sum())
    slow = len(points.q) - fixed
    reached = int(points.hits.sum())
    said = [
        f"Of {points.starts} searches in {name}, {reached} ended at {counted(fixed, 'fixed point')} "
        f"(q <= {points.tolerance:g}) and {counted(slow, 'slow point')} (q <= {points.slow:g}), "
        f"{points.fast} at a minimum of q above that, and {points.unfinished} did not come to rest."
    ]
    for kind in sorted(set(points.kinds), key=lambda kind: (-points.kinds.count(kind), kind)):
        q = points.q[[k == kind for k in points.kinds]]
        span = f"q {q.max():.1g}" if len(q) == 1 else f"q from {q.min():.1g} to {q.max():.1g}"
        said.append(f"{len(q)} of them: {kind} ({span}).")
    for line in points.lines:
        q = points.q[list(line.members)].max()
        said.append(
            f"{len(line.members)} points (q at most {q:.1g}) are linked along their slow direction over a "
            f"length of {line.length:.2g}: a candidate line attractor."
        )
    return said


def _by_kind(points: FixedPoints) -> dict[str, list[int]]:
    """The points by kind, the most frequent first; those beyond KINDS together as "other"."""
    groups: dict[str, list[int]] = {}
    for index, kind in enumerate(points.kinds):
        groups.setdefault(kind, []).append(index)
    order = sorted(groups, key=lambda kind: -len(groups[kind]))
    shown = {kind: groups[kind] for kind in order[:KINDS]}
    rest = [index for kind in order[KINDS:] for index in groups[kind]]
    return shown | ({"of another kind": rest} if rest else {})


def draw_eigenvalues(points: FixedPoints, path: Path, *, title: str) -> None:
    """The eigenvalues of the Jacobian at every point, in the complex plane with the unit circle."""
    figure = Figure(figsize=(6.8, 6.2), layout="constrained")
    axis = figure.subplots()
    axis.add_patch(Circle((0, 0), 1, fill=False, color="black", lw=1))
    axis.axhline(0, color=GREY, lw=0.6)
    axis.axvline(0, color=GREY, lw=0.6)
    for number, (kind, group) in enumerate(_by_kind(points).items()):
        values = points.eigenvalues[group].reshape(-1)
        axis.plot(
            np.real(values),
            np.imag(values),
            ls="",
            marker=MARKERS[number],
            ms=5,
            mfc="none",
            mew=1,
            color=LINES[number],
            label=f"{len(group)} x {kind}",
        )
    sizes = np.abs([np.real(points.eigenvalues), np.imag(points.eigenvalues)])
    limit = 1.08 * max(1.05, float(sizes[np.isfinite(sizes)].max(initial=0)))
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    axis.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$")
    plain(axis)
    if len(points.kinds):
        figure.legend(loc="outside lower center", ncols=1, **LEGEND)
    else:
        axis.text(0, 0, "no point found", ha="center", va="center", color=GREY)
    save(figure, path)


def draw_portrait(states: np.ndarray, points: FixedPoints, path: Path, *, title: str) -> None:
    """Trajectories and fixed points in the first two principal components of the trajectories.

    states: [T, B, n], as `trajectory.joined(seen.states, 2)`.
    """
    flat = states.reshape(-1, states.shape[-1])
    flat = flat[np.isfinite(flat).all(axis=1)]
    centre = flat.mean(axis=0)
    _, sizes, basis = np.linalg.svd(flat - centre, full_matrices=False)
    share = sizes**2 / max((sizes**2).sum(), np.finfo(float).tiny)
    plane = np.zeros((states.shape[-1], 2))  # a state of one number has no second component
    plane[:, : min(2, len(basis))] = basis[:2].T
    share = [*share, 0.0][:2]

    def place(s: np.ndarray) -> np.ndarray:
        return (s - centre) @ plane

    figure = Figure(figsize=(6.8, 5.8), layout="constrained")
    axis = figure.subplots()
    for row in range(states.shape[1]):
        label = "trajectories" if row == 0 else None
        axis.plot(*place(states[:, row]).T, color=GREY, lw=0.6, alpha=0.4, label=label)
    for number, line in enumerate(points.lines):
        at = place(points.states[list(line.members)])
        along = np.linalg.svd(at - at.mean(axis=0))[2][0]
        label = "candidate line attractor" if number == 0 else None
        order = np.argsort(at @ along)
        axis.plot(*at[order].T, color="black", lw=2.2, alpha=0.7, zorder=2.5, label=label)
    for number, (kind, group) in enumerate(_by_kind(points).items()):
        axis.plot(
            *place(points.states[group]).T,
            ls="",
            marker=MARKERS[number],
            ms=7,
            mec="white",
            mew=0.8,
            color=LINES[number],
            zorder=3,
            label=f"{len(group)} x {kind}",
        )
    axis.set(
        xlabel=f"first principal component ({100 * share[0]:.0f}% of the variance)",
        ylabel=f"second principal component ({100 * share[1]:.0f}%)",
        title=title,
    )
    plain(axis)
    figure.legend(loc="outside lower center", ncols=1, **LEGEND)
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: two figures a layer, eigenvalues_LAYER.png and portrait_LAYER.png; None where no
    layer could be searched: it is too large, or its products are rounded to bfloat16."""
    cell, said, figures = subject.probe.net.cell, [], []
    for layer in whole_layers(subject):
        states = joined(layer.seen.states, 2)
        if states.shape[-1] > SEARCHED or cell.precision == "bf16":
            continue
        starts = fixed_points.starting_states(layer.seen, count=STARTS, noise=0.1, seed=0)
        no_input = fixed_points.no_input(layer.seen)
        found = fixed_points.find(cell, layer.params, no_input, starts)
        every = sentences(found, layer.name)
        said += every[:MOST]
        if len(every) > MOST:
            said.append(
                f"{layer.name} has {len(every) - MOST} more kinds of points: see the figure."
            )
        if not len(found.states):
            continue
        spectrum, plane = f"eigenvalues_{layer.file}.png", f"portrait_{layer.file}.png"
        draw_eigenvalues(found, folder / spectrum, title=layer.name)
        draw_portrait(states, found, folder / plane, title=layer.name)
        caption = (
            f"{layer.name}: eigenvalues of the step's Jacobian at each fixed or slow point, with no "
            "input (Sussillo and Barak 2013)."
        )
        figures += [
            (spectrum, caption),
            (plane, f"{layer.name}: its states and its points in two dimensions."),
        ]
    return Findings(said, figures) if said else None


SECTION = Section(90, "Fixed points", examine)
