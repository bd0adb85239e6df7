"""Pascanu's regulariser against Jacobians that are written out, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cells
from rnnlab.models import stack
from rnnlab.train import omega
from rnnlab.types import Probe

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")

T, B, D, H, V = 6, 3, 4, 5, 2


def probed(cell="rnn", layers=1, scored=None, **inputs):
    net = stack.stack_cells(
        input_size=D, output_size=V, cell=cell, hidden=H, layers=layers, input="dense"
    )
    # The error of the last step alone, if nothing else is asked for.
    weights = jnp.zeros((T, B)).at[-1].set(1.0) if scored is None else jnp.asarray(scored)

    def losses(outputs, batch):
        return ((outputs - batch["targets"]) ** 2).sum(-1), weights

    probe = Probe(net, lambda batch: {"x": batch["x"], **inputs}, losses)
    params = net.init(jax.random.key(0), jnp.float64)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + jnp.asarray(0.3 * rng.normal(size=p.shape)), params)
    batch = {
        "x": jnp.asarray(rng.normal(size=(T, B, D))),
        "targets": jnp.asarray(rng.normal(size=(T, B, V))),
    }
    return probe, params, batch


def flat(carry):
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


def by_hand(probe, params, batch, scored=None, reset=None):
    """Omega of a model of one layer, every Jacobian written out; steps beyond a row's last scored one
    do not exist."""
    cell, layer = probe.net.cell, params["layers"][0]
    scored = np.eye(T)[-1][:, None] * np.ones(B) if scored is None else np.asarray(scored)
    reset = np.zeros((T, B), bool) if reset is None else np.asarray(reset)
    terms = []
    for b in range(B):
        like = cell.carry(1, jnp.float64)
        leaves, tree = jax.tree.flatten(like)
        sizes = np.cumsum([leaf.shape[-1] for leaf in leaves])[:-1]

        def whole(s, tree=tree, sizes=sizes):
            return jax.tree.unflatten(tree, [part[None] for part in jnp.split(s, sizes)])

        z = cell.project(layer, batch["x"][:, b : b + 1], None)

        def step(s, k, whole=whole, z=z):
            new, _ = cell.step(layer, whole(s), jax.tree.map(lambda a: a[k], z))
            return flat(new)[0]

        def lost(s, k, b=b, whole=whole):
            out = whole(s).h @ params["readout"]["kernel"] + params["readout"]["bias"]
            return scored[k, b] * ((out[0] - batch["targets"][k, b]) ** 2).sum() / scored.sum()

        def error(s, k, b=b, step=step, lost=lost):  # from the state after step k on
            total = lost(s, k)
            for later in range(k + 1, T):
                s = step(0 * s if reset[later, b] else s, later)
                total = total + lost(s, later)
            return total

        s = flat(like)[0]
        for k in range(1 + int(np.flatnonzero(scored[:, b])[-1])):
            if reset[k, b]:
                s = 0 * s
            jacobian = jax.jacrev(step)(s, k)
            s = step(s, k)
            d = jax.grad(error)(s, k)
            if not reset[k, b]:
                terms.append((jnp.linalg.norm(d @ jacobian) / jnp.linalg.norm(d) - 1) ** 2)
    return float(np.mean(terms))


@pytest.mark.parametrize(
    "cell",
    [pytest.param(c, marks=pytest.mark.slow if c != "rnn" else ()) for c in cells.names()],
)
def test_it_is_the_equation_of_the_paper(cell):
    probe, params, batch = probed(cell)
    found = jax.jit(lambda p: omega.penalty(probe, p, (), batch))(params)
    np.testing.assert_allclose(found, by_hand(probe, params, batch), rtol=1e-9)


def test_a_reset_and_a_step_that_does_not_exist_do_not_count():
    lengths, reset = np.array([T, 3, T]), np.zeros((T, B), bool)
    reset[3, 0] = reset[1, 2] = True
    scored = (np.arange(T)[:, None] < lengths).astype(float)
    probe, params, batch = probed(
        scored=scored, lengths=jnp.asarray(lengths), reset=jnp.asarray(reset)
    )
    expected = by_hand(probe, params, batch, scored=scored, reset=reset)
    np.testing.assert_allclose(omega.penalty(probe, params, (), batch), expected, rtol=1e-9)
    # They would make a difference.
    alike = probed(scored=scored, lengths=jnp.asarray(lengths))[0]
    assert abs(float(omega.penalty(alike, params, (), batch)) - expected) > 1e-3
    every = jnp.ones((T, B), bool)
    seen = probe.net.watch(params, probe.net.carry(B, jnp.float64), **probe.inputs(batch))[2][0]
    d = jax.tree.map(jnp.ones_like, seen.states)
    counted = [
        omega._of_layer(probe.net.cell, params["layers"][0], seen, d, c)
        for c in (every, jnp.asarray((scored > 0) & ~reset))
    ]
    assert abs(float(counted[0] - counted[1])) > 1e-3


def test_an_orthogonal_linear_map_costs_nothing_and_a_scaled_one_its_square():
    cell = cells.get("rnn", hidden=H, activation="relu")
    *_, batch = probed()
    linear = cell._replace(
        step=lambda p, carry, z: (carry._replace(h=(h := carry.h @ p["kernel_h"] + z.a)), h),
        operand=None, product=None, merge=None, gates=None,
    )  # fmt: skip
    layer = linear.init(jax.random.key(0), D, jnp.float64)
    orthogonal = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (H, H), jnp.float64))[0]
    for scale in (1.0, 0.5, 1.25):
        d = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, H)))
        seen = omega.taps.Seen(
            batch["x"],
            linear.carry(B, jnp.float64)._replace(h=0 * d),
            linear.carry(B, jnp.float64)._replace(h=0 * d),
        )
        found = omega._of_layer(
            linear,
            layer | {"kernel_h": scale * orthogonal},
            seen,
            linear.carry(B, jnp.float64)._replace(h=d),
            jnp.ones((T, B), bool),
        )
        np.testing.assert_allclose(found, (scale - 1) ** 2, atol=1e-12)


@pytest.mark.parametrize("cell", ["rnn", pytest.param("lstm", marks=pytest.mark.slow)])
def test_its_gradient_holds_states_errors_and_inputs(cell):
    """By central differences of Omega with everything else held where it was."""
    probe, params, batch = probed(cell)
    gradient = jax.grad(lambda p: omega.penalty(probe, p, (), batch))(params)
    assert (gradient["layers"][0]["kernel_x"] == 0).all()  # it reaches J_k by the input alone
    assert (gradient["readout"]["kernel"] == 0).all()
    where, step = (1, 2), 1e-6

    def held(value):
        kernel = params["layers"][0]["kernel_h"]
        layer = params["layers"][0] | {"kernel_h": kernel.at[where].add(value)}
        moved = {"layers": [layer]}
        *_, seen = probe.net.watch(params, probe.net.carry(B, jnp.float64), batch["x"])

        def error(slots):
            _, outputs = probe.net.apply(
                params, probe.net.carry(B, jnp.float64), batch["x"], taps=slots
            )
            values, weights = probe.losses(outputs, batch)
            return (values * weights).sum() / weights.sum()

        slots = [omega.taps.nudge(probe.net.cell, T, B, jnp.float64)]
        d = jax.grad(error)(slots)[0].nudge
        # The input's share is held: it is projected with the old parameters, and they agree in it.
        return omega._of_layer(
            probe.net.cell, moved["layers"][0], seen[0], d, jnp.ones((T, B), bool)
        )

    numeric = (held(step) - held(-step)) / (2 * step)
    np.testing.assert_allclose(gradient["layers"][0]["kernel_h"][where], numeric, rtol=1e-5)


def test_layers_add_up():
    probe, params, batch = probed("gru", layers=2)
    net, start = probe.net, probe.net.carry(B, jnp.float64)

    def error(slots):
        _, outputs = net.apply(params, start, batch["x"], taps=slots)
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum()

    slots = [omega.taps.nudge(net.cell, T, B, jnp.float64) for _ in net.names]
    *_, seen = net.watch(params, start, batch["x"])
    parts = [
        float(omega._of_layer(net.cell, layer, one, slot.nudge, jnp.ones((T, B), bool)))
        for layer, one, slot in zip(params["layers"], seen, jax.grad(error)(slots), strict=True)
    ]
    assert min(parts) > 1e-3
    np.testing.assert_allclose(omega.penalty(probe, params, (), batch), sum(parts), rtol=1e-9)
