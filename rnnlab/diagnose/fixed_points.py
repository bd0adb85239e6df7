"""Fixed points and slow points of a layer under a constant input (Sussillo and Barak 2013).

With the step s' = F(s, x*) and x* held, q(s) = 1/2 |F(s, x*) - s|^2 is half the squared speed. Where
it is 0 there is a fixed point, where it is small and not 0 a slow point. q is minimised from many
starts by damped Gauss-Newton steps (Levenberg 1944; Marquardt 1963), the damping adapted as by
Nielsen 1999, in float64 whatever the precision of the model. The state s is the vector of
`trajectory`; the linear motion near a point is that of the Jacobian dF/ds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.sparse.csgraph import connected_components

from rnnlab.diagnose.trajectory import double, joined, vector_step
from rnnlab.errors import UsageError
from rnnlab.models.stack import NO_TOKEN
from rnnlab.recurrence.taps import Seen
from rnnlab.types import Array, Cell, Params

BATCH_BYTES = 2**27  # of Jacobians held at once
STILL = 1e-12  # a last step, relative to 1 + |s|, at which the search has come to rest
ALIGNED = 0.9  # cosine between a link of a line and the slow direction at both its ends
LEAST = 3  # points of a line


class Line(NamedTuple):
    """A candidate line attractor."""

    members: tuple[int, ...]  # indices of points
    length: float  # extent of the members along their first principal component


class FixedPoints(NamedTuple):
    """P distinct points, by ascending q."""

    states: np.ndarray  # [P, n]
    q: np.ndarray  # [P]
    eigenvalues: np.ndarray  # complex [P, n] of dF/ds, by descending modulus
    kinds: tuple[str, ...]  # in words, see `kind_of`
    hits: np.ndarray  # int [P], how many starts ended at the point
    lines: tuple[Line, ...]  # candidate line attractors, see `lines_of`
    starts: int
    unfinished: int  # starts whose search was still moving when it was ended
    fast: int  # starts that ended at a minimum of q above `slow`
    tolerance: float  # q of a fixed point
    slow: float  # q of a slow point
    margin: float  # a direction is slow where its |lambda| is so close to 1

    @property
    def unstable(self) -> np.ndarray:
        """int [P], the unstable directions: eigenvalues with |lambda| > 1 + margin."""
        return (np.abs(self.eigenvalues) > 1 + self.margin).sum(axis=1)

    @property
    def neutral(self) -> np.ndarray:
        """int [P], the slow directions: eigenvalues with |lambda| within the margin of 1."""
        return (np.abs(np.abs(self.eigenvalues) - 1) <= self.margin).sum(axis=1)


def starting_states(seen: Seen, *, count: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """`count` states [count, n], drawn from those recorded, each but once where there are enough.

    noise: standard deviation of Gaussian noise added, in units of that of each component over the
        recorded states.

    Raises UsageError for a count below 1 or a negative noise, or where no recorded state is finite.
    """
    if count < 1:
        raise UsageError(f"the search needs at least 1 start, got {count}")
    if not noise >= 0.0:
        raise UsageError(f"noise must not be negative, got {noise}")
    states = joined(seen.states, 2)
    states = states.reshape(-1, states.shape[-1])
    states = states[np.isfinite(states).all(axis=1)]
    if not len(states):
        raise UsageError("no recorded state is finite: the search has nowhere to start")
    rng = np.random.default_rng(seed)
    taken = states[rng.choice(len(states), count, replace=count > len(states))]
    return taken + noise * states.std(axis=0) * rng.normal(size=taken.shape)


def no_input(seen: Seen) -> Any:
    """The constant input of zeros for a layer that was given seen.x: a vector [D], or a blank token."""
    x = np.asarray(seen.x)
    return (
        np.int32(NO_TOKEN) if np.issubdtype(x.dtype, np.integer) else np.zeros(x.shape[2:], x.dtype)
    )


# ---- the search


class _Search(NamedTuple):
    s: Array  # [n]
    q: Array
    damping: Array
    factor: Array  # of the damping, when a step is refused
    moved: Array  # length of the last step tried, relative to 1 + |s|
    tries: Array


def _step_of(cell: Cell, params: Params, x: Array) -> Any:
    z = jax.tree.map(lambda leaf: leaf[0], cell.project(params, x[None, None], None))
    return vector_step(cell, params, cell.carry(1, jnp.float64), z)[1]


@functools.partial(jax.jit, static_argnames=("cell", "batch"))
def _minimised(
    cell: Cell, params: Params, x: Array, starts: Array, tolerance: Array, limit: Array, batch: int
) -> _Search:
    step = _step_of(cell, params, x)

    def residual(s: Array) -> Array:
        return step(s) - s

    def half(r: Array) -> Array:
        return 0.5 * jnp.vdot(r, r)

    def on(state: _Search) -> Array:
        return (state.q > tolerance) & (state.moved > STILL) & (state.tries < limit)

    def advance(state: _Search) -> _Search:
        s, damping = state.s, state.damping
        r, slope = residual(s), jax.jacfwd(residual)(s)
        gradient, normal = slope.T @ r, slope.T @ slope
        largest = jnp.max(jnp.diagonal(normal))
        # Not below what rounding makes of a singular matrix: along a line of fixed points it is one.
        damping = jnp.maximum(jnp.where(state.tries == 0, 1e-3 * largest, damping), 1e-12 * largest)
        damped = normal + damping * jnp.eye(s.size, dtype=s.dtype)
        move = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
        tried = half(residual(s + move))
        gain = (state.q - tried) / (0.5 * jnp.vdot(move, damping * move - gradient))
        better = tried < state.q  # False for NaN
        softer = damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        return _Search(
            s=jnp.where(better, s + move, s),
            q=jnp.where(better, tried, state.q),
            damping=jnp.where(better, softer, damping * state.factor),
            factor=jnp.where(better, 2.0, 2.0 * state.factor),
            moved=jnp.linalg.norm(move) / (1.0 + jnp.linalg.norm(s)),
            tries=state.tries + 1,
        )

    def search(s: Array) -> _Search:
        one = jnp.ones((), s.dtype)
        count = jnp.zeros((), limit.dtype)
        start = _Search(s, half(residual(s)), one, 2 * one, jnp.inf * one, count)
        return lax.while_loop(on, advance, start)

    return lax.map(search, starts, batch_size=batch)


@functools.partial(jax.jit, static_argnames="cell")
def _linearised(cell: Cell, params: Params, x: Array, states: Array) -> Array:
    return lax.map(jax.jacfwd(_step_of(cell, params, x)), states)


@functools.partial(jax.jit, static_argnames="cell")
def _speeds(cell: Cell, params: Params, x: Array, states: Array) -> Array:
    step = _step_of(cell, params, x)
    return lax.map(lambda s: 0.5 * jnp.sum((step(s) - s) ** 2), states, batch_size=1024)


def find(
    cell: Cell,
    params: Params,
    x: Any,
    starts: np.ndarray,
    *,
    tolerance: float = 1e-22,
    slow: float = 1e-6,
    margin: float = 0.01,
    apart: float = 1e-4,
    limit: int = 300,
) -> FixedPoints:
    """The fixed points and slow points of a layer under the constant input x.

    x: a vector [D] or a token; `no_input` for zeros.
    starts: [S, n], as from `starting_states`.
    tolerance: a search ends where q is at most this, and what it found counts as a fixed point. A
        strict one leaves a slow region for a fixed point further on; one as large as `slow` stops
        in the region, and shows the extent of an approximate line attractor.
    slow: q up to which a minimum of q other than a fixed point is kept, as a slow point.
    margin: an eigenvalue with |lambda| from 1 - margin to 1 + margin makes its direction a slow one.
    apart: of points whose distance is at most this, the one of least q stands for all.
    limit: the most steps of a search. A search also ends where its last step was 1e-12 of 1 + |s|.

    Raises UsageError for sizes that do not fit, values out of range, or a cell whose products are
    rounded to bfloat16: its F is a staircase, whose speed has no gradient.
    """
    starts = np.atleast_2d(np.asarray(starts, np.float64))
    size = joined(cell.carry(1, jnp.float32), 1).shape[-1]
    if starts.shape[1] != size:
        raise UsageError(
            f"starts must be [S, {size}], the state of {cell.name}; got {starts.shape}"
        )
    if cell.precision == "bf16":
        raise UsageError("fixed points need the products of float32: rebuild the cell with it")
    if not 0.0 < tolerance <= slow:
        raise UsageError(f"tolerance must be > 0 and at most slow = {slow:g}, got {tolerance:g}")
    for name, value in (("margin", margin), ("apart", apart), ("limit", limit)):
        if not value > 0:
            raise UsageError(f"{name} must be greater than 0, got {value}")
    batch = max(1, min(len(starts), BATCH_BYTES // (8 * size**2)))
    with jax.enable_x64(True):
        params, at, begin = double((params, np.asarray(x), starts))
        end = _minimised(cell, params, at, begin, jnp.asarray(tolerance), jnp.asarray(limit), batch)
        end = jax.tree.map(np.asarray, end)
        # A start with a step or a q of NaN compares as False throughout.
        done = (end.q <= tolerance) | (end.moved <= STILL)
        kept = np.flatnonzero(done & (end.q <= slow))
        kept = kept[np.argsort(end.q[kept], kind="stable")]
        first, hits = _distinct(end.s[kept], apart)
        states, q = end.s[kept][first], end.q[kept][first]
        slopes = np.empty((0, size, size))
        if len(states):
            slopes = np.asarray(_linearised(cell, params, at, jnp.asarray(states)))
        values = np.linalg.eigvals(slopes).astype(complex)
        order = np.argsort(-np.abs(values), axis=1, kind="stable")
        values = np.take_along_axis(values, order, axis=1)

        def speeds(points: np.ndarray) -> np.ndarray:
            return np.asarray(_speeds(cell, params, at, jnp.asarray(points)))

        lines = lines_of(states, slopes, speeds, slow=slow, margin=margin)
    return FixedPoints(
        states=states,
        q=q,
        eigenvalues=values,
        kinds=tuple(kind_of(v, margin) for v in values),
        hits=hits,
        lines=lines,
        starts=len(starts),
        unfinished=int((~done).sum()),
        fast=int((done & ~(end.q <= slow)).sum()),
        tolerance=tolerance,
        slow=slow,
        margin=margin,
    )


def _distinct(states: np.ndarray, apart: float) -> tuple[list[int], np.ndarray]:
    """The indices of states with no earlier one of them within `apart`, and how many each stands for."""
    first: list[int] = []
    hits: list[int] = []
    for index, state in enumerate(states):
        distance = np.linalg.norm(states[first] - state, axis=1)
        if len(first) and distance.min() <= apart:
            hits[int(distance.argmin())] += 1
        else:
            first.append(index)
            hits.append(1)
    return first, np.array(hits, int)


# ---- what a point is


def _counted(number: int, what: str) -> str:
    return f"{number} {what} direction" + "s" * (number != 1)


def kind_of(eigenvalues: np.ndarray, margin: float) -> str:
    """The kind of a point in words, from the n eigenvalues of its Jacobian.

    A direction is unstable where |lambda| > 1 + margin, slow where |lambda| is within the margin of
    1, stable elsewhere. All stable: "stable node", or "stable focus" if the eigenvalue of largest
    modulus is not real. All unstable: "unstable node", or "unstable focus" likewise. Some unstable:
    "saddle with k unstable directions". None unstable and some slow: "marginal". The slow ones, if
    any, are counted at the end.
    """
    size = np.abs(eigenvalues)
    unstable = int((size > 1 + margin).sum())
    neutral = int((np.abs(size - 1) <= margin).sum())
    leading = eigenvalues[size.argmax()]
    shape = "focus" if abs(leading.imag) > 1e-9 * abs(leading) else "node"
    if unstable == len(eigenvalues):
        return f"unstable {shape}"
    if unstable:
        kind = f"saddle with {_counted(unstable, 'unstable')}"
        return f"{kind} and {_counted(neutral, 'slow')}" if neutral else kind
    return f"marginal with {_counted(neutral, 'slow')}" if neutral else f"stable {shape}"


def lines_of(
    states: np.ndarray, slopes: np.ndarray, speeds: Any, *, slow: float, margin: float
) -> tuple[Line, ...]:
    """Candidate line attractors among points [P, n] with Jacobians [P, n, n], the largest first.

    A point can be of a line if exactly one eigenvalue has |lambda - 1| <= margin, which is then real,
    and none has |lambda| > 1 + margin; its slow direction is that eigenvector. Two of them are linked
    if the vector from one to the other makes an angle of at most arccos 0.9 with the slow
    direction of both, and q (`speeds`, of [*, n]) is at most `slow` at 1/4, 1/2 and 3/4 of the way.
    A line is at least 3 points that hang together by links.

    They stay candidates: points and links can be dense on a line only where the search has left them.
    """
    able: list[int] = []
    directions: list[np.ndarray] = []
    for index, slope in enumerate(slopes):
        values, vectors = np.linalg.eig(slope)
        near = np.flatnonzero(np.abs(values - 1) <= margin)
        if len(near) == 1 and not (np.abs(values) > 1 + margin).any():
            able.append(index)
            direction = np.real(vectors[:, near[0]])
            directions.append(direction / np.linalg.norm(direction))
    if len(able) < LEAST:
        return ()
    points, slowly = states[able], np.array(directions)
    one, other = np.triu_indices(len(able), 1)
    link = points[other] - points[one]
    along = np.abs(np.stack([(link * slowly[one]).sum(1), (link * slowly[other]).sum(1)]))
    aligned = (along >= ALIGNED * np.linalg.norm(link, axis=1)).all(axis=0)
    one, other, link = one[aligned], other[aligned], link[aligned]
    if not len(one):
        return ()
    between = np.concatenate([points[one] + part * link for part in (0.25, 0.5, 0.75)])
    linked = (speeds(between).reshape(3, -1) <= slow).all(axis=0)
    graph = np.zeros((len(able), len(able)), bool)
    graph[one[linked], other[linked]] = True
    count, of = connected_components(graph, directed=False)
    lines = []
    for line in range(count):
        inside = np.flatnonzero(of == line)
        if len(inside) >= LEAST:
            centred = points[inside] - points[inside].mean(axis=0)
            place = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
            lines.append(Line(tuple(able[i] for i in inside), float(np.ptp(place))))
    return tuple(sorted(lines, key=lambda line: -len(line.members)))
