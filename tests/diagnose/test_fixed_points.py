"""Fixed points of systems whose fixed points are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from rnnlab import cells
from rnnlab.diagnose import fixed_points, portrait
from rnnlab.errors import UsageError
from tests.diagnose.systems import driven, linear, matrix, watch

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def unit(weights, bias=0.0):
    """h' = tanh(h W + b + x), the built-in vanilla cell with given weights, in float32."""
    weights = np.atleast_2d(np.asarray(weights, np.float32))
    size = len(weights)
    bias = np.broadcast_to(np.asarray(bias, np.float32), (size,))
    cell = cells.get("rnn", hidden=size)
    return cell, {"kernel_x": np.eye(size, dtype=np.float32), "kernel_h": weights, "bias": bias}


def search(cell, params, starts, x=None, **options):
    x = np.zeros(cell.hidden) if x is None else x
    return fixed_points.find(cell, params, x, np.asarray(starts, float), **options)


def spread(count, size, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(count, size))


def test_the_three_fixed_points_of_one_unit():
    found = search(*unit(2.0), np.linspace(-1.5, 1.5, 13)[:, None])
    root = brentq(lambda h: math.tanh(2 * h) - h, 0.5, 1.0, xtol=1e-15)
    assert root == pytest.approx(0.9575, abs=1e-4)
    order = np.argsort(found.states[:, 0])
    np.testing.assert_allclose(found.states[order, 0], [-root, 0, root], atol=1e-11)
    assert (found.q <= 1e-22).all()
    slope = 2 * (1 - root**2)
    np.testing.assert_allclose(found.eigenvalues[order, 0], [slope, 2, slope], atol=1e-9)
    assert [found.kinds[i] for i in order] == ["stable node", "unstable node", "stable node"]
    assert list(found.unstable[order]) == [0, 1, 0]
    assert list(found.neutral) == [0, 0, 0]
    assert found.hits.sum() + found.unfinished + found.fast == 13
    assert found.hits[order][1] >= 1
    assert not found.lines
    assert jnp.zeros(1).dtype == jnp.float32  # the flag was not left on


def test_the_input_is_held():
    found = search(*unit(0.5), [[0.0], [0.3]], x=np.array([1.0]))
    root = brentq(lambda h: math.tanh(0.5 * h + 1) - h, 0.0, 1.0, xtol=1e-15)
    np.testing.assert_allclose(found.states, [[root]], atol=1e-11)
    assert list(found.hits) == [2]


def test_a_token_is_held():
    cell, params = unit(0.5 * np.eye(2))
    params |= {"kernel_x": np.array([[1.0, 0.0], [0.0, -1.0], [3.0, 3.0]], np.float32)}
    root = brentq(lambda h: math.tanh(0.5 * h + 1) - h, 0.0, 1.0, xtol=1e-15)
    for token, want in ((0, [root, 0]), (np.int32(1), [0, -root])):
        found = search(cell, params, [[0.1, 0.1]], x=token)
        np.testing.assert_allclose(found.states, [want], atol=1e-11)


def test_no_input_is_zeros_for_vectors_and_for_tokens():
    cell, params = unit(0.5 * np.eye(2), bias=0.3)
    root = brentq(lambda h: math.tanh(0.5 * h + 0.3) - h, 0.0, 1.0, xtol=1e-12)
    for x in (jnp.ones((3, 1, 2)), jnp.ones((3, 1), jnp.uint8)):
        seen = watch(cell, params, x)
        found = search(cell, params, [[0.1, 0.1]], x=fixed_points.no_input(seen))
        np.testing.assert_allclose(found.states, [[root, root]], atol=1e-6)


def test_a_saddle_and_its_directions():
    """Two units that do not touch: every pair of the roots of each, and a slow unit beside them."""
    found = search(*unit(np.diag([2.0, 1.5, 0.999])), spread(200, 3, 0.7), margin=0.01)
    by_kind = {kind: found.kinds.count(kind) for kind in found.kinds}
    assert by_kind == {
        "marginal with 1 slow direction": 4,
        "saddle with 1 unstable direction and 1 slow direction": 4,
        "saddle with 2 unstable directions and 1 slow direction": 1,
    }
    assert sorted(found.unstable) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert list(found.neutral) == [1] * 9
    sizes = np.abs(found.eigenvalues)
    assert (sizes[:, :-1] >= sizes[:, 1:]).all()


def test_a_spiral(float64):
    turn = np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    for scale, kind in ((0.8, "stable focus"), (1.3, "unstable focus")):
        cell, params = linear(2), {"A": jnp.asarray(scale * turn)}
        found = search(cell, params, spread(3, 2), x=np.array([0.2, 0.1]))
        assert found.kinds == (kind,)
        want = np.linalg.solve(np.eye(2) - scale * turn.T, [0.2, 0.1])
        np.testing.assert_allclose(found.states, [want], atol=1e-10)
        np.testing.assert_allclose(found.eigenvalues[0].real, scale * math.cos(1), atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "lstm" else pytest.mark.slow) for n in cells.names()],
)
def test_every_cell_stands_still_where_it_is_said_to(name, float64):
    cell, params, seen = driven(name, hidden=8, time=20)
    starts = fixed_points.starting_states(seen, count=10, noise=0.1)
    x = np.full(3, 0.3)
    found = fixed_points.find(cell, params, x, starts)
    assert len(found.q)
    assert (found.q < 1e-20).all()
    tree, sizes = jax.tree.structure(seen.states), [8] * len(jax.tree.leaves(seen.states))
    for s, q in zip(found.states, found.q, strict=True):
        parts = np.split(s[None], np.cumsum(sizes)[:-1], axis=1)
        carry = jax.tree.unflatten(tree, [jnp.asarray(part) for part in parts])
        z = jax.tree.map(
            lambda leaf: leaf[0], cell.project(params, jnp.asarray(x)[None, None], None)
        )
        new, _ = cell.step(params, carry, z)
        moved = np.concatenate(jax.tree.leaves(new), axis=1)[0] - s
        assert 0.5 * moved @ moved == pytest.approx(q, abs=1e-28)


def test_a_ghost_is_a_slow_point():
    """h' = tanh(2h + b): beyond b* two of the three fixed points are gone, and a slow spot is left."""
    # At the fold 2 (1 - h^2) = 1, so that h = -sqrt(1/2) and b* = atanh(h) - 2h.
    h = -math.sqrt(0.5)
    fold = math.atanh(h) - 2 * h
    cell, params = unit(2.0, bias=fold + 0.001)
    found = search(cell, params, [[h], [h + 0.05], [0.9]])
    assert len(found.q) == 2
    assert found.q[0] <= 1e-22
    slow, state = found.q[1], found.states[1, 0]
    b = float(params["bias"][0])
    assert slow == pytest.approx(0.5 * (math.tanh(2 * state + b) - state) ** 2, rel=1e-9)
    assert 1e-9 < slow < 1e-6
    assert found.kinds[1] == "marginal with 1 slow direction"
    said = portrait.sentences(found, "layer 1")[0]
    assert "ended at 1 fixed point (q <= 1e-22) and 1 slow point (q <= 1e-06)" in said
    strict = search(cell, params, [[h], [h + 0.05], [0.9]], slow=1e-9)
    assert len(strict.q) == 1
    assert strict.fast == 2


def test_duplicates_are_merged_by_distance():
    cell, params = unit(np.diag([0.5, 0.5]))
    found = search(cell, params, spread(20, 2))
    assert list(found.hits) == [20]
    first, count = fixed_points._distinct(np.array([[0.0], [1.0], [0.05], [1.2], [0.95]]), 0.1)
    assert first == [0, 1, 3]
    assert list(count) == [2, 2, 1]


def test_a_search_that_is_cut_short_says_so():
    found = search(*unit(2.0), [[0.4], [0.9575]], limit=1)
    assert found.unfinished >= 1
    assert "did not come to rest" in portrait.sentences(found, "it")[0]


def test_a_start_that_is_not_finite_is_not_finished():
    found = search(*unit(0.5), [[math.nan], [0.1]])
    assert found.unfinished == 1
    assert list(found.hits) == [1]


# Line attractors


def lined(size=5, seed=0):
    """A matrix with the eigenvalue 1 exactly once, others below 0.8, and its right eigenvector."""
    basis = matrix(size, seed) + 2 * np.eye(size)
    values = np.concatenate([[1.0], np.linspace(0.2, 0.8, size - 1)])
    # h' = h A: the Jacobian is A^T, whose eigenvectors are the columns of the basis.
    return (basis @ np.diag(values) @ np.linalg.inv(basis)).T, basis[:, 0] / np.linalg.norm(
        basis[:, 0]
    )


def test_a_line_attractor(float64):
    a, direction = lined()
    found = search(linear(5), {"A": jnp.asarray(a)}, spread(40, 5))
    assert (found.q <= 1e-22).all()
    assert len(found.q) == 40
    assert set(found.kinds) == {"marginal with 1 slow direction"}
    (line,) = found.lines
    assert sorted(line.members) == list(range(40))
    place = found.states @ direction
    np.testing.assert_allclose(found.states, place[:, None] * direction, atol=1e-9)
    assert line.length == pytest.approx(np.ptp(place), rel=1e-9)
    said = portrait.sentences(found, "layer 1")
    assert said[-1].startswith("40 points")
    assert said[-1].endswith("a candidate line attractor.")


def test_an_approximate_line_attractor_needs_a_lenient_search(float64):
    a, direction = lined()
    values, vectors = np.linalg.eig(a)
    values = np.where(np.isclose(values, 1), 0.9999, values)
    a = (vectors @ np.diag(values) @ np.linalg.inv(vectors)).real
    cell, params, starts = linear(5), {"A": jnp.asarray(a)}, spread(40, 5)
    strict = search(cell, params, starts)
    assert len(strict.q) == 1
    assert not strict.lines
    lenient = search(cell, params, starts, tolerance=1e-6)
    (line,) = lenient.lines
    assert len(line.members) > 30
    off = lenient.states - (lenient.states @ direction)[:, None] * direction
    assert np.abs(off).max() < 0.05
    assert line.length > 1


def test_points_that_no_line_joins(float64):
    states = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.5, 3.0], [0.5, 6.0]])
    slow = np.diag([1.0, 0.5])
    slopes = np.array([slow] * 6)

    def lines(states=states, slopes=slopes, speeds=lambda points: np.zeros(len(points))):
        return fixed_points.lines_of(states, slopes, speeds, slow=1e-6, margin=0.01)

    assert lines() == (fixed_points.Line((0, 1, 2, 3), 3.0),)
    # A barrier between the second and the third; two points make no line.
    assert lines(speeds=lambda points: np.where(np.abs(points[:, 0] - 1.5) < 0.3, 1.0, 0.0)) == ()
    # Not along the direction that is slow; slow along two; or unstable along another.
    assert lines(states=states[:4], slopes=np.array([slow[::-1, ::-1]] * 4)) == ()
    assert lines(slopes=np.array([np.eye(2)] * 6)) == ()
    assert lines(slopes=np.array([np.diag([1.0, 1.5])] * 6)) == ()
    # An eigenvalue of -1 is no slow motion along a line.
    assert lines(slopes=np.array([np.diag([-1.0, 0.5])] * 6)) == ()
    assert lines(states=states[:2], slopes=slopes[:2]) == ()


# Starts


def test_starting_states_are_those_recorded(float64):
    seen = driven("lstm", time=5, rows=3)[2]
    starts = fixed_points.starting_states(seen, count=15)
    whole = np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(seen.states)], axis=-1)
    key = [tuple(row) for row in whole.reshape(15, -1)]
    assert sorted(map(tuple, starts)) == sorted(key)  # each once
    assert fixed_points.starting_states(seen, count=40).shape == (40, 8)
    noisy = fixed_points.starting_states(seen, count=4000, noise=0.5)
    plain = fixed_points.starting_states(seen, count=4000)
    ratio = (noisy - plain).std(axis=0) / whole.reshape(15, -1).std(axis=0)
    np.testing.assert_allclose(ratio, 0.5, rtol=0.06)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"starts": np.zeros((2, 3))}, "starts must be .S, 1., the state of rnn"),
        ({"tolerance": 0.0}, "tolerance must be > 0"),
        ({"tolerance": 1e-3}, "at most slow"),
        ({"margin": 0.0}, "margin must be greater than 0"),
        ({"apart": -1.0}, "apart must be greater than 0"),
        ({"limit": 0}, "limit must be greater than 0"),
    ],
)
def test_bad_options(change, said):
    cell, params = unit(0.5)
    with pytest.raises(UsageError, match=said):
        search(cell, params, **({"starts": np.zeros((1, 1))} | change))


def test_bad_starts_and_cells(float64):
    _, _, seen = driven("rnn")
    with pytest.raises(UsageError, match="at least 1 start"):
        fixed_points.starting_states(seen, count=0)
    with pytest.raises(UsageError, match="noise must not be negative"):
        fixed_points.starting_states(seen, count=1, noise=-1.0)
    gone = seen._replace(states=jax.tree.map(lambda a: a * jnp.nan, seen.states))
    with pytest.raises(UsageError, match="no recorded state is finite"):
        fixed_points.starting_states(gone, count=1)
    with pytest.raises(UsageError, match="fixed points need the products of float32"):
        search(cells.get("rnn", hidden=1, precision="bf16"), unit(0.5)[1], [[0.0]])
