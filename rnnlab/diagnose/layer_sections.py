"""The sections of a diagnosis that look into a layer: its dynamics, its fixed points, its units."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.diagnose import dynamics, dynamics_figures, fixed_points, initialisation, reading
from rnnlab.diagnose.subject import Section, Subject, seen
from rnnlab.recurrence import taps

SEQUENCES = 4  # rows along which the Jacobians are taken
STEPS = 100  # of each
LARGEST = 512  # numbers in a state, up to which all singular values are computed
LEADING = 8  # Lyapunov exponents of a larger one
STARTS = 100  # of the search for fixed points
MOST = 6  # sentences about one layer's points
SEARCHED = 256  # numbers in a state, up to which it is searched


def _whole(subject: Subject) -> list[tuple[str, Any, taps.Seen, int]]:
    """(name, parameters, what it did, rows) of every layer, of rows without padding or a reset; an
    empty list where there may be none, or the model has two directions."""
    probe = subject.probe
    if not probe.net.causal:
        return []
    inputs, found = probe.inputs(subject.batch), seen(subject)
    time, rows = np.shape(found[0].x)[:2]
    if any(inputs.get(name) is not None for name in ("reset", "mask")):
        return []
    lengths = inputs.get("lengths")
    if lengths is not None:  # the longest ones, as far as they all go
        lengths = np.asarray(lengths)
        chosen = np.argsort(-lengths, kind="stable")[:SEQUENCES]
        time = int(lengths[chosen].min())
    else:
        chosen = np.arange(min(rows, SEQUENCES))
    layers = taps.units(subject.params)

    def cut(one: taps.Seen) -> taps.Seen:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:time, chosen], one)

    return [
        (name, layer, cut(one), len(chosen))
        for name, layer, one in zip(probe.net.names, layers, found, strict=True)
    ]


def dynamics_section(subject: Subject, folder: Path) -> Section | None:
    """Dynamics of each layer."""
    cell, told, figures = subject.probe.net.cell, [], []
    for name, params, one, rows in _whole(subject):
        size = dynamics.joined(one.states, 2).shape[-1]
        time, file = min(STEPS, np.shape(one.x)[0]), name.replace(" ", "_")
        if time < 2:
            continue
        if size <= LARGEST:
            few = rows if size <= 160 else 1
            found = dynamics.spectra(cell, params, one, rows=few, steps=time)
            told += dynamics.spectra_sentences(found, name)
            dynamics_figures.jacobians(found, folder / f"jacobians_{file}.png", title=name)
            dynamics_figures.products(found, folder / f"products_{file}.png", title=name)
            figures += [
                (f"jacobians_{file}.png", f"{name}: the Jacobian of a step, along real sequences."),
                (
                    f"products_{file}.png",
                    f"{name}: the product of the Jacobians of k steps, and a^k beside it.",
                ),
            ]
        exponents = dynamics.lyapunov(
            cell,
            params,
            one,
            count=None if size <= LARGEST else LEADING,
            rows=rows,
            transient=min(20, np.shape(one.x)[0] // 4),
        )
        told += dynamics.lyapunov_sentences(exponents, name)
        dynamics_figures.lyapunov(exponents, folder / f"lyapunov_{file}.png", title=name)
        caption = f"{name}: the Lyapunov exponents along real sequences (Benettin et al. 1980)."
        figures.append((f"lyapunov_{file}.png", caption))
    return Section("Dynamics", told, figures) if figures else None


def fixed_points_section(subject: Subject, folder: Path) -> Section | None:
    """Fixed points."""
    cell, told, figures = subject.probe.net.cell, [], []
    for name, params, one, _ in _whole(subject):
        states = dynamics.joined(one.states, 2)
        if states.shape[-1] > SEARCHED or cell.precision == "bf16":
            continue
        starts = fixed_points.starting_states(one, count=STARTS, noise=0.1, seed=0)
        found = fixed_points.fixed_points(cell, params, fixed_points.no_input(one), starts)
        said = fixed_points.fixed_point_sentences(found, name)
        told += said[:MOST]
        if len(said) > MOST:
            told.append(f"{name} has {len(said) - MOST} more kinds of points: see the figure.")
        if not len(found.states):
            continue
        file = name.replace(" ", "_")
        dynamics_figures.eigenvalues(found, folder / f"eigenvalues_{file}.png", title=name)
        dynamics_figures.portrait(states, found, folder / f"portrait_{file}.png", title=name)
        figures += [
            (
                f"eigenvalues_{file}.png",
                f"{name}: eigenvalues of the step's Jacobian at each fixed or slow point, with no input "
                "(Sussillo and Barak 2013).",
            ),
            (f"portrait_{file}.png", f"{name}: its states and its points in two dimensions."),
        ]
    return Section("Fixed points", told, figures) if told else None


def initialisation_section(subject: Subject, folder: Path) -> Section | None:
    """Map of initialisations."""
    first = taps.units(subject.params)[0]
    if subject.is_run or not {"kernel_x", "kernel_h"} <= first.keys():
        return None  # it is about what a model starts from
    cell, model = subject.probe.net.cell, subject.config.model
    size, steps = first["kernel_x"].shape[0], 50
    found = initialisation.scan(
        cell,
        input_size=size,
        scales_h=np.linspace(0.1, 2.5, 21).tolist(),
        scales_x=np.geomspace(0.05, 10, 19).tolist(),
        steps=steps,
    )
    by_scheme = initialisation.schemes(model.cell, model.hidden)
    curves = initialisation.curves(cell, by_scheme, input_size=size, steps=steps)
    title = f"{model.cell}, {model.hidden} units"
    dynamics_figures.initialisation(found, curves, folder / "initialisation.png", title=title)
    caption = (
        "Left: log10 of the norm of the gradient after 50 steps over the scales of W_h and of Gaussian "
        "inputs, with the border between vanishing and exploding. Right: by initialisation scheme."
    )
    told = initialisation.scan_sentences(found, curves)
    return Section("Initialisations", told, [("initialisation.png", caption)])


def reading_section(subject: Subject, folder: Path) -> Section | None:
    """Units of a character model."""
    if subject.probe.text is None or not subject.is_run or not subject.probe.net.causal:
        return None
    vocabulary, tokens = subject.probe.text()
    told = reading.write(
        subject.probe.net,
        subject.params,
        vocabulary,
        tokens,
        folder,
        title=subject.title,
        seed=subject.config.seed,
    )
    figures = [
        (
            "reading.html",
            "Every unit's activation coloured over held-out text; open it in a browser.",
        ),
        ("context.png", "The loss against how many characters the model sees."),
    ]
    return Section("Reading the model", [f"{s[0].upper()}{s[1:]}." for s in told], figures)


LAYER_SECTIONS = (
    dynamics_section,
    fixed_points_section,
    initialisation_section,
    reading_section,
)
