"""Points of a search."""

import math

import numpy as np
import pytest
from scipy import stats

from rnnlab.errors import UsageError
from rnnlab.sweep import search


def test_a_grid_has_every_combination_once():
    found = list(search.grid({"a": (1, 2), "b": "xyz"}))
    assert found[:4] == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 1, "b": "z"},
        {"a": 2, "b": "x"},
    ]
    assert len(found) == 6


def test_draws_are_the_same_and_do_not_depend_on_each_other():
    axes = {"a": search.log_uniform(0.1, 10.0), "b": search.choice("x", "y")}
    few, many = list(search.random(3, axes, seed=4)), list(search.random(9, axes, seed=4))
    assert many[:3] == few
    assert [p["a"] for p in search.random(9, {"a": axes["a"]}, seed=4)] == [p["a"] for p in many]
    assert list(search.random(3, axes, seed=5)) != few
    # The bits of SeedSequence are promised: so are these.
    assert few[0]["a"] == pytest.approx(5.820263950818683, rel=1e-12)


def test_draws_have_the_distribution_that_they_name():
    axes = {
        "log": search.log_uniform(0.01, 100.0),
        "flat": search.uniform(-1.0, 3.0),
        "whole": search.integers(2, 5),
        "one": search.choice("x", "y", "z"),
    }
    points = list(search.random(3000, axes, seed=0))
    logs = [(math.log10(p["log"]) + 2) / 4 for p in points]
    flats = [(p["flat"] + 1) / 4 for p in points]
    for values in (logs, flats):
        assert stats.kstest(values, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(logs, flats)[0, 1]) < 0.05
    for key, values in (("whole", (2, 3, 4, 5)), ("one", ("x", "y", "z"))):
        counts = [sum(p[key] == v for p in points) for v in values]
        assert sum(counts) == 3000
        assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: list(search.grid({"a": ()})), "no value for 'a'"),
        (lambda: list(search.random(0, {}, seed=0)), "at least 1 point"),
        (lambda: search.uniform(2.0, 1.0), "lower end first"),
        (lambda: search.log_uniform(0.0, 1.0), "greater than 0"),
        (lambda: search.integers(3, 3), "lower end first"),
        (lambda: search.choice(), "at least one value"),
    ],
)
def test_what_makes_no_search_is_refused(make, told):
    with pytest.raises(UsageError, match=told):
        make()
