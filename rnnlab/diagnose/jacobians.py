"""The Jacobians of a layer's step along real sequences, and their products beside a^k."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rnnlab.diagnose.axes import LEGEND, finite, label_logarithms, whole_numbers
from rnnlab.diagnose.subject import Findings, Section, Subject, whole_layers
from rnnlab.diagnose.trajectory import joined, step_jacobians, window_of
from rnnlab.diagnose.wording import power_of_ten
from rnnlab.errors import UsageError
from rnnlab.recurrence.taps import Seen
from rnnlab.run.figure import BLUE, COLOURS, GREY, MARKERS, ORANGE, plain, save
from rnnlab.types import Cell, Params

CHUNK_BYTES = 2**28  # of Jacobians held at once
STEPS = 100  # of a sequence
LARGEST = 512  # numbers in a state, up to which all singular values are computed
SMALL = 160  # numbers in a state, up to which all rows are looked at, of a larger one the first


class Spectra(NamedTuple):
    """The Jacobians of R rows over T steps, and their products from the first step on."""

    first: int  # the step t of the first Jacobian
    every: int  # the spectral radius is known at every so many steps
    singular: np.ndarray  # [R, T, n] singular values of J_t, descending
    radius: np.ndarray  # [R, ceil(T/every)] largest |eigenvalue| of J_t
    log10_largest: np.ndarray  # [R, T] largest singular value of the product of the first k = 1..T
    log10_mean: np.ndarray  # [R, T] geometric mean of that product's singular values

    @property
    def condition(self) -> np.ndarray:
        """[R, T] the largest singular value of J_t over the smallest; infinite if that is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.singular[..., 0] / self.singular[..., -1]

    @property
    def log10_rate(self) -> float:
        """log10 of a, the geometric mean of the spectral radii: the linear case grows as a^k."""
        with np.errstate(divide="ignore"):
            return float(np.mean(np.log10(self.radius)))


def measure(
    cell: Cell,
    params: Params,
    seen: Seen,
    *,
    rows: int = 4,
    first: int = 0,
    steps: int | None = None,
    every: int = 4,
) -> Spectra:
    """The singular values and spectral radii of J_t along the first `rows` sequences, and the
    products J_{first+k-1} ... J_first for k = 1 .. steps.

    The product is divided by its norm after each factor and the logarithms of these norms are
    added, so that nothing leaves float64's range. Its largest singular value is exact up to
    rounding; the geometric mean of its n singular values is |det|^(1/n), from the LU factors of
    each J_t.

    every: the eigenvalues, by far the dearest part (0.1 s for n = 256), are computed at every so
        many steps.

    Raises UsageError as `step_jacobians` does.
    """
    if every < 1:
        raise UsageError(f"every must be at least 1, got {every}")
    time, size = window_of(seen, rows, first, steps).after.shape[1:]
    singular, radius = np.empty((rows, time, size)), np.empty((rows, -(-time // every)))
    largest, determinant = np.empty((rows, time)), np.empty((rows, time))
    chunk = max(1, CHUNK_BYTES // (8 * size**2))
    for row in range(rows):
        product, scale = np.eye(size), 0.0
        for begin in range(0, time, chunk):
            end = min(time, begin + chunk)
            found = step_jacobians(
                cell, params, seen, row=row, first=first + begin, steps=end - begin
            )
            singular[row, begin:end] = np.linalg.svd(found, compute_uv=False)
            determinant[row, begin:end] = np.linalg.slogdet(found)[1]
            for t in range(begin, end):
                if t % every == 0:
                    radius[row, t // every] = np.abs(np.linalg.eigvals(found[t - begin])).max()
                product = found[t - begin] @ product
                norm = float(np.linalg.norm(product))
                if norm > 0.0:
                    product, scale = product / norm, scale + math.log10(norm)
                with np.errstate(divide="ignore"):
                    largest[row, t] = scale + np.log10(np.linalg.norm(product, 2))
    mean = np.cumsum(determinant, axis=1) / (size * math.log(10.0))
    return Spectra(first, every, singular, radius, largest, mean)


def sentences(measured: Spectra, name: str) -> list[str]:
    """What `measure` says of the layer called `name`: medians over rows and steps of the largest
    singular value, the spectral radius and the condition number; then, with K the most factors, the
    mean over rows of the product's two logarithms beside those of a^K.
    """
    rows, steps = measured.log10_largest.shape
    largest = float(np.median(measured.singular[..., 0]))
    radius, condition = float(np.median(measured.radius)), float(np.median(measured.condition))
    top, mean = (
        power_of_ten(float(np.mean(each[:, -1])))
        for each in (measured.log10_largest, measured.log10_mean)
    )
    rate = measured.log10_rate
    over = f"{rows} sequence{'s' * (rows != 1)} and {steps} steps"
    return [
        f"In {name} the median over {over} is {largest:.3g} for the largest singular value of the "
        f"Jacobian, {radius:.3g} for its spectral radius and {condition:.3g} for its condition number.",
        f"A product of {steps} Jacobians stretches a perturbation of the state by at most {top}, and "
        f"by {mean} in the geometric mean of its singular values (geometric means over sequences "
        f"too); the linear case of spectral radius {power_of_ten(rate)} would give "
        f"{power_of_ten(rate * steps)}.",
    ]


def draw_steps(measured: Spectra, path: Path, *, title: str) -> None:
    """Singular values and spectral radius of J_t against t, and below them its condition number.

    Lines and bands are geometric means over the rows of each quantile.
    """
    with np.errstate(divide="ignore"):
        logs = np.log10(measured.singular)
        condition = np.log10(measured.condition)
        radius = np.log10(measured.radius)
    # -inf where a value is 0: it has no place on the axis
    levels = finite(np.quantile(logs, (0, 0.25, 0.5, 0.75, 1), axis=-1, method="nearest").mean(1))
    steps = measured.first + np.arange(levels.shape[1])
    at = measured.first + measured.every * np.arange(radius.shape[1])
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    upper.fill_between(
        steps, levels[0], levels[4], color=BLUE, alpha=0.15, lw=0, label="all singular values"
    )
    upper.fill_between(
        steps, levels[1], levels[3], color=BLUE, alpha=0.3, lw=0, label="their middle half"
    )
    upper.plot(steps, levels[4], color=BLUE, lw=1.5, label="largest singular value")
    upper.plot(steps, levels[2], color=BLUE, lw=1.2, ls="--", label="median singular value")
    upper.plot(
        at, finite(radius.mean(0)), "s-", ms=3.5, lw=1, color=ORANGE, label="spectral radius"
    )
    upper.axhline(0, color="black", lw=0.8)
    upper.set(ylabel="singular value, spectral radius of $J_t$", title=title)
    label_logarithms(upper)
    figure.legend(loc="outside lower center", ncols=3, **LEGEND)
    lower.plot(steps, finite(condition.mean(0)), color=GREY, lw=1.3)
    lower.set(ylabel="condition number", xlabel="time step $t$")
    whole_numbers(lower)
    label_logarithms(lower)
    for axis in (upper, lower):
        plain(axis)
    save(figure, path)


def draw_products(measured: Spectra, path: Path, *, title: str) -> None:
    """Largest and geometric mean singular value of the product of k Jacobians against k, beside a^k,
    with a the geometric mean of their spectral radii. Thin lines: each row; thick: geometric mean.
    """
    k = np.arange(1, measured.log10_largest.shape[1] + 1)
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    axis = figure.subplots()
    shown = (
        (measured.log10_largest, COLOURS[0], MARKERS[0], "largest singular value"),
        (measured.log10_mean, COLOURS[1], MARKERS[1], "geometric mean of the singular values"),
    )
    for logs, colour, marker, label in shown:
        if len(logs) > 1:
            axis.plot(k, finite(logs).T, color=colour, lw=0.6, alpha=0.45)
        every = max(1, len(k) // 10)
        mean = finite(logs.mean(0))
        gone = np.flatnonzero(np.isnan(mean))
        if len(gone):
            label += f" (0 from k = {k[gone[0]]} on)"
        axis.plot(k, mean, color=colour, marker=marker, ms=4, lw=1.8, markevery=every, label=label)
    rate = measured.log10_rate
    if np.isfinite(rate):
        label = f"linear case $a^k$, a = {10**rate:.3g}"
        axis.plot(k, rate * k, "--", color="black", lw=1.3, label=label)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(
        xlabel="number of steps $k$",
        ylabel=f"singular value of $J_{{t+k-1}} \\cdots J_t$,  t = {measured.first}",
        title=title,
    )
    label_logarithms(axis)
    whole_numbers(axis)
    plain(axis)
    axis.legend(**LEGEND)
    save(figure, path)


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: two figures a layer, jacobians_LAYER.png and products_LAYER.png; None where no
    layer has two steps without padding, or all are too large."""
    cell, said, figures = subject.probe.net.cell, [], []
    for layer in whole_layers(subject):
        size, time = joined(layer.seen.states, 2).shape[-1], layer.steps
        if time < 2 or size > LARGEST:
            continue
        rows = layer.rows if size <= SMALL else 1
        found = measure(cell, layer.params, layer.seen, rows=rows, steps=min(STEPS, time))
        said += sentences(found, layer.name)
        steps, products = f"jacobians_{layer.file}.png", f"products_{layer.file}.png"
        draw_steps(found, folder / steps, title=layer.name)
        draw_products(found, folder / products, title=layer.name)
        figures += [
            (steps, f"{layer.name}: the Jacobian of a step, along real sequences."),
            (
                products,
                f"{layer.name}: the product of the Jacobians of k steps, and a^k beside it.",
            ),
        ]
    return Findings(said, figures) if figures else None


SECTION = Section(70, "Jacobians", examine)
