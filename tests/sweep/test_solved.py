"""Which members of a sweep solved their task."""

import math

import pytest

from rnnlab.sweep import figures, solved
from rnnlab.sweep.results import Line, Point, Result


def member(error, state="done", *, at=None, summary=()):
    rows = [] if error is None else [{"split": "valid", "step": 1, "loss": 0.5, "error": error}]
    return Result("m", {}, state, 0.5, dict(summary), rows + (at or []))


def line_of(points):
    return Line(
        ("model.cell",),
        ("rnn",),
        tuple(
            Point(value, {}, 0, 0, math.nan, tuple(members)) for value, members in points.items()
        ),
    )


def test_the_error_is_that_at_the_lowest_loss():
    rows = [
        {"split": "train", "loss": 0.0, "error": 0.0},
        {"split": "valid", "loss": 0.3, "error": 0.2},
        {"split": "valid", "loss": 0.1, "error": 0.05},
        {"split": "valid", "loss": math.nan, "error": 0.0},
        {"split": "valid", "loss": 0.2, "error": 0.01},
    ]
    assert solved.error_of(rows) == 0.05
    assert math.isnan(solved.error_of(rows[:1]))


def test_rates_count_what_diverged_and_not_what_is_open():
    line = line_of(
        {
            10: [member(0.0), member(0.009), member(0.01)],
            20: [member(None, "diverged"), member(0.0), member(None, "open")],
        }
    )
    assert solved.rates(line) == [solved.Rate(10, 2, 3), solved.Rate(20, 1, 2)]


@pytest.mark.parametrize(
    ("solved_at", "told"),
    [
        ({10: 3, 20: 2, 30: 1}, "solved by 2 of 3 seeds at window = 20, by 1 of 3 at 30."),
        ({10: 3, 20: 3}, "solved by 3 of 3 seeds at window = 20."),
        ({10: 1, 20: 0}, "no window was solved by most of the seeds; the most is 1 of 3 at 10."),
        ({}, ""),
    ],
)
def test_the_sentence(solved_at, told):
    line = line_of(
        {
            value: [member(0.0 if index < count else 0.5) for index in range(3)]
            for value, count in solved_at.items()
        }
    )
    assert solved.sentence(line, "train.window") == told


def test_beyond_is_the_mean_of_those_that_solved_the_longest():
    easy = [member(0.0, summary={"error_at_100": 0.5, "error_at_50": 0.1})]
    hard = [
        member(0.0, summary={"error_at_100": 0.2, "error_at_50": 0.0}),
        member(0.0, summary={"error_at_100": 0.4, "error_at_50": 0.1, "error_at_9": 0.0}),
        member(0.9, summary={"error_at_100": 1.0, "error_at_50": 1.0}),
    ]
    found = solved.beyond(line_of({10: easy, 20: hard, 30: [member(0.5)]}))
    assert found == {50: pytest.approx(0.05), 100: pytest.approx(0.3)}
    assert solved.beyond(line_of({10: [member(0.5)]})) == {}


@pytest.mark.parametrize("cells", [("rnn",), ("rnn", "gru", "lstm")])
def test_the_figures_are_drawn(tmp_path, cells):
    lines = [
        Line(
            ("model.cell", "optim.clip_norm"),
            (cell, clip),
            line_of(
                {
                    10: [member(0.0, summary={"error_at_50": 0.2})] * 2,
                    100: [member(0.5), member(None, "diverged")],
                }
            ).points,
        )
        for cell in cells
        for clip in ("no clipping", "clip_norm 1")
    ]
    figures.draw_success(lines, tmp_path / "success.png", axis="train.window")
    figures.draw_lengths(lines, tmp_path / "lengths.png", axis="train.window")
    for name in ("success.png", "lengths.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2
