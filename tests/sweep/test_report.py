"""What a report says of a sweep follows from its numbers by the stated rule."""

import math

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from rnnlab.run.figure import COLOURS
from rnnlab.sweep import figures, report
from rnnlab.sweep.results import Result, axis_of, compare_with_best, lines_of

INF = float("inf")


def results(table, *, diverged=(), stopped=(), **settings):
    """table: T -> losses, seed by seed."""
    return [
        Result(
            name=f"{threshold}-{seed}",
            settings={"optim.clip_norm": threshold, "seed": seed, **settings},
            state="diverged"
            if (threshold, seed) in diverged
            else "stopped"
            if (threshold, seed) in stopped
            else "done",
            loss=loss,
            summary={},
            rows=[
                {"split": "train", "step": 1, "clipped": 1.0, "grad_norm": 0.5, "loss": 3.0},
                {"split": "train", "step": 2, "clipped": 0.5, "grad_norm": 0.7, "loss": 2.0},
                {"split": "valid", "step": 2, "loss": loss},
            ],
        )
        for threshold, losses in table.items()
        for seed, loss in enumerate(losses)
    ]


def compared(table, **options):
    (line,) = lines_of(results(table, **options), "optim.clip_norm")
    return line, compare_with_best(line)


def said(table, **options):
    line, found = compared(table, **options)
    return " ".join(report.sentences(line, "optim.clip_norm", found))


# Rows are parallel but for noise: a seed that is worse everywhere is no noise.
SEEDS = {0.1: (2.00, 2.50, 2.20), 1.0: (2.01, 2.52, 2.20), INF: (2.11, 2.60, 2.31)}


def test_noise_is_what_value_and_seed_do_not_explain():
    _, found = compared(SEEDS)
    table = np.array(list(SEEDS.values()))
    # The residual sum of squares of the linear model with both factors, by least squares.
    rows = [(i, j) for i in range(3) for j in range(3)]
    design = np.array(
        [[float(i == a) for a in range(3)] + [float(j == b) for b in (1, 2)] for i, j in rows]
    )
    y = np.array([table[i, j] for i, j in rows])
    _, squares, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    assert found is not None
    assert found.degrees == 9 - rank == 4
    assert found.noise == pytest.approx(math.sqrt(squares[0] / 4))
    t = stats.t.ppf(1 - 0.05 / 2, 4)
    assert found.margin == pytest.approx(t * found.noise * math.sqrt(2 / 3))
    assert [point.value for point in found.within] == [0.1, 1.0]
    assert found.best.value == 0.1


def test_the_best_is_among_those_within_noise_as_often_as_promised():
    """Where all are alike but one, which is a little better, it is kept in 95 of 100 sweeps."""
    draw, kept, count = np.random.default_rng(0), 0, 400
    for _ in range(count):
        seeds = draw.normal(0, 1, 3)
        losses = {
            t: tuple(seeds + draw.normal(0, 0.1, 3) - (0.02 if t == 2.0 else 0.0))
            for t in (0.1, 0.5, 1.0, 2.0, 5.0)
        }
        _, found = compared(losses)
        assert found is not None
        kept += any(point.value == 2.0 for point in found.within)
    assert kept / count >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / count)


def test_sentences():
    told = said(SEEDS)
    assert told.startswith(
        "the best mean is 2.2333, at T = 0.1. T between 0.1 and 1 is within noise"
    )
    assert "The worst is T = inf, 0.1067 above." in told
    assert told.endswith("Without clipping, none of 3 seeds diverged.")
    alike = {t: (2.0 + e, 2.1 - e) for t, e in ((0.1, 0.0), (1.0, 0.01), (INF, 0.02))}
    assert "Every T is within noise of it" in said(alike)
    apart = {0.1: (2.0, 2.1, 2.2), 1.0: (2.5, 2.6, 2.701), INF: (2.0, 2.1, 2.201)}
    assert "T of 0.1, inf is within noise of it" in said(apart)
    lonely = {0.1: (2.0, 2.1, 2.2), 1.0: (2.5, 2.6, 2.701)}
    assert "No other T is within noise of it" in said(lonely)
    assert "With one seed each, nothing can be said of noise." in said({0.1: (2.0,), 1.0: (2.1,)})


def test_a_point_with_a_diverged_seed_is_never_within_noise():
    table = SEEDS | {INF: (1.0, 1.0, 1.0)}
    told = said(table, diverged={(INF, 1), (INF, 2)})
    assert told.startswith("the best mean is 2.2333, at T = 0.1.")
    assert told.endswith("Without clipping, 2 of 3 seeds diverged.")
    told = said({0.1: (2.0, 2.1), 1.0: (2.0, 2.1)}, diverged={(0.1, 1)})
    assert "At T = 0.1, 1 of 2 seeds diverged." in told
    every = {(t, s) for t in SEEDS for s in range(3)}
    assert said(SEEDS, diverged=every) == "every member diverged."


def test_a_point_that_is_not_trained_to_the_end_is_not_compared():
    _, found = compared(SEEDS, stopped={(0.1, 0)})
    assert found is not None
    assert found.best.value == 1.0
    assert [point.value for point in found.within] == [1.0]


def test_the_axis_and_the_lines():
    found = results(SEEDS, **{"model.cell": "gru", "model.hidden": 77})
    found += results(SEEDS, **{"model.cell": "rnn", "model.hidden": 142})
    assert axis_of(found) == "optim.clip_norm"
    lines = lines_of(found, "optim.clip_norm")
    assert [line.label for line in lines] == ["gru, hidden 77", "rnn, hidden 142"]
    assert lines[0].parts == ("gru", "hidden 77")
    assert [point.value for point in lines[0].points] == [0.1, 1.0, INF]
    assert lines[0].points[0].losses == {0: 2.00, 1: 2.50, 2: 2.20}
    assert lines[0].points[0].clipped == 0.75
    # Without a threshold, the first key with numbers; without any, none.
    rates = [
        r._replace(settings={"optim.learning_rate": 0.1 * i, "seed": 0})
        for i, r in enumerate(found)
    ]
    assert axis_of(rates) == "optim.learning_rate"
    cells = [r._replace(settings={"model.cell": str(i)}) for i, r in enumerate(found)]
    assert axis_of(cells) is None
    assert len(lines_of(cells, None)) == len(cells)


def test_a_row_of_the_ranked_table():
    line, found = compared(SEEDS)
    assert found is not None
    t = stats.t.ppf(0.975, 4)
    half = t * found.noise * math.sqrt(2 / 3)
    assert report._ranked(3, line.points[2], found) == (
        f"| 3 | inf | 2.3400 | 2.1100, 2.6000, 2.3100 | 0.1067 +- {half:.4f} | no | 75% |  |"
    )
    assert report._ranked(1, line.points[0], found).endswith("| 0.0000 | yes | 75% |  |")


def drawn(path):
    return [(abs(imread(path)[..., :3] - colour).max(-1) < 0.02).sum() for colour in EXACT]


EXACT = [np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for colour in COLOURS[:4]]


def test_figures_of_what_is_done_diverged_and_not_begun(tmp_path):
    """Warnings are errors: an empty panel, a single point and a loss far off draw in silence."""
    far = {0.1: (2.0, 2.1), 1.0: (2.0, 50.0), INF: (2.2, 2.3)}
    found = results(far, diverged={(INF, 0), (INF, 1)}, **{"model.cell": "rnn"})
    found += results(dict.fromkeys(far, (1.9, 1.95)), **{"model.cell": "gru"})
    unbegun = results(dict.fromkeys(far, (math.nan,)), **{"model.cell": "lstm"})
    found += [r._replace(state="open", rows=[]) for r in unbegun]
    lines = lines_of(found, "optim.clip_norm")
    figures.draw_validation(lines, tmp_path / "against.png", axis="optim.clip_norm", unit="char")
    figures.draw_learning(lines, tmp_path / "learning.png", axis="optim.clip_norm", unit="char")
    figures.draw_norms(lines, tmp_path / "norms.png", every=4)
    figures.draw_learning(lines_of(found[:1], None), tmp_path / "one.png", axis=None, unit="char")
    first, second, *_ = drawn(tmp_path / "against.png")
    assert min(first, second) > 200


def test_many_lines_are_drawn_beside_each_other(tmp_path):
    found = []
    for reduction in ("mean", "sum_over_time"):
        for cell in ("rnn", "ugrnn", "gru"):
            found += results(SEEDS, **{"optim.reduction": reduction, "model.cell": cell})
    lines = lines_of(found, "optim.clip_norm")
    assert lines[0].keys == ("optim.reduction", "model.cell")
    groups = figures._columns_of(lines)
    assert {name: len(group) for name, group in groups.items()} == {"mean": 3, "sum_over_time": 3}
    assert list(figures._columns_of(lines[:3])) == [""]
    figures.draw_validation(lines, tmp_path / "against.png", axis="optim.clip_norm", unit="char")
    height, width, _ = imread(tmp_path / "against.png").shape
    assert width > 1.3 * height
