"""Columns to mean 0 and variance 1; what is constant but for rounding stays where it is."""

import numpy as np
import pytest

from rnnlab.data import scaling


@pytest.mark.parametrize("value", [0.3, 14.62, -1e-9, 1e30, 0.0, 1.1e9, 5e-324])
@pytest.mark.parametrize("count", [1, 7, 1000, 4096])
def test_a_constant_column_is_zero_and_what_differs_keeps_its_unit(value, count):
    columns = np.full((count, 1), value)
    columns[::3] = np.nextafter(value, np.inf)  # as another way to compute it would have it
    scale = scaling.standard(columns)
    assert np.abs(scale(columns)).max() <= max(1e-15 * abs(value), 1e-300)
    if abs(value) < 1e9:
        assert scale(np.array([[value + 4.0]])) == pytest.approx(4.0)


def test_a_column_that_varies_is_scaled_as_ever():
    rng = np.random.default_rng(0)
    columns = rng.normal(5, 3, (50, 3)) * [1, 1e-9, 1e9]
    expected = (columns - columns.mean(0)) / columns.std(0)
    np.testing.assert_array_equal(scaling.standard(columns)(columns), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("start", "step"), [(1.7e9, 1), (1.7e9, 1e-3), (1.7e12, 1), (1.7e18, 1e9), (-1e200, 1e190)]
)
def test_a_small_change_of_a_large_number_counts(start, step):
    """Seconds since 1970, and nanoseconds: they vary by a small share of themselves."""
    columns = start + step * np.arange(100.0)[:, None]
    assert not scaling.constant(columns).any()
    assert scaling.standard(columns)(columns).std() == pytest.approx(1, rel=1e-3)


def test_rounding_is_that_of_the_numbers_as_they_were_stored():
    columns = np.float32(0.3) * (1 + np.float32(6e-8) * np.arange(3)[:, None])
    assert scaling.constant(columns, np.float32).all()
    assert not scaling.constant(columns.astype(np.float64), np.float64).any()
    assert not scaling.constant(np.array([[10**9], [10**9 + 1]]), np.int64).any()
    assert scaling.constant(np.full((3, 1), 7), np.int64).all()


def test_the_root_mean_square_of_zeros_is_one():
    columns = np.array([[3.0, 1e-12, 0.0], [4.0, -1e-12, 0.0]])
    np.testing.assert_allclose(scaling.root_mean_square(columns), [np.sqrt(12.5), 1, 1])
