"""Flow, shares, truncation and clipping against explicit differentiation, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.diagnose import diagnostics
from rnnlab.errors import UsageError
from rnnlab.models import stack
from rnnlab.train import optim
from rnnlab.types import Probe

pytestmark = pytest.mark.usefixtures("strict_dtypes", "float64")

T, B, D, H, V = 6, 3, 4, 5, 2
LENGTHS = np.array([6, 4, 5])


def probed(cell="lstm", layers=2, lengths=None, **options):
    net = stack.stack_cells(
        input_size=D,
        output_size=V,
        cell=cell,
        hidden=H,
        layers=layers,
        input="dense",
        **options,
    )
    rng = np.random.default_rng(0)
    weights = np.ones((T, B)) if lengths is None else np.arange(T)[:, None] < lengths

    def losses(outputs, batch):
        return ((outputs - batch["targets"]) ** 2).sum(-1), jnp.asarray(weights, outputs.dtype)

    more = {} if lengths is None else {"lengths": jnp.asarray(lengths)}
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.3 * rng.normal(size=p.shape)),
        net.init(jax.random.key(0), jnp.float64),
    )
    batch = {
        "x": jnp.asarray(rng.normal(size=(T, B, D))),
        "targets": jnp.asarray(rng.normal(size=(T, B, V))),
    }
    return Probe(net, lambda batch: {"x": batch["x"], **more}, losses), params, batch


def stack_by_hand(net, params, batch, bump, lengths=None, scored=None):
    """The mean loss, in Python loops, with `bump` added to chosen states: {(layer, t): carry}."""
    carries = [net.cell.carry(B, jnp.float64) for _ in params["layers"]]
    total, count = 0.0, 0.0
    for t in range(T):
        x = batch["x"][t]
        alive = jnp.ones(B, bool) if lengths is None else t < jnp.asarray(lengths)
        for index, layer in enumerate(params["layers"]):
            z = jax.tree.map(lambda a: a[0], net.cell.project(layer, x[None], None))
            new, _ = net.cell.step(layer, carries[index], z)
            if (index, t) in bump:
                new = jax.tree.map(jnp.add, new, bump[index, t])
            keep = alive[:, None]
            carries[index] = jax.tree.map(
                lambda a, b, keep=keep: jnp.where(keep, a, b), new, carries[index]
            )
            x = jnp.where(keep, new.h, 0.0)
        out = x @ params["readout"]["kernel"] + params["readout"]["bias"]
        weight = alive.astype(jnp.float64) if scored is None else (scored == t).astype(jnp.float64)
        total = total + (((out - batch["targets"][t]) ** 2).sum(-1) * weight).sum()
        count = count + weight.sum()
    return total / count


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_the_flow_is_explicit_differentiation_by_each_state(lengths, last):
    probe, params, batch = probed(lengths=lengths)
    net = probe.net
    found = diagnostics.flow(probe, params, (), batch, last=last)
    scored = None
    if last:
        scored = np.full(B, T - 1) if lengths is None else lengths - 1

    @jax.jit
    def gradients(zero):
        bump = {(layer, t): zero for layer in range(2) for t in range(T)}
        return jax.grad(lambda b: stack_by_hand(net, params, batch, b, lengths, scored))(bump)

    expected = gradients(net.cell.carry(B, jnp.float64))
    for layer, one in enumerate(found):
        assert (one.layer, one.parts) == (f"layer {layer + 1}", ("c", "h"))
        for t in range(T):
            for part, name in enumerate(one.parts):
                norm = np.linalg.norm(getattr(expected[layer, t], name), axis=1)
                np.testing.assert_allclose(one.norms[part, t], norm, rtol=1e-10, atol=1e-16)
    assert (found[0].last == (scored if last else -1)).all()


def test_by_lag_and_reach_count_from_each_rows_last_step():
    norms = np.zeros((1, 5, 2))
    norms[0, :, 0] = [1e-4, 1e-3, 5e-3, 0.5, 1.0]  # last step 4
    norms[0, :, 1] = [2e-3, 0.5, 1.0, 0.0, 0.0]  # last step 2
    flow = diagnostics.Flow("layer 1", ("h",), norms, np.array([4, 2]))
    np.testing.assert_allclose(flow.by_lag()[0], [1.0, 0.5, np.sqrt(5e-3 * 2e-3)], rtol=1e-12)
    assert flow.reach() == [2]
    assert flow.reach(1e-3) == [None]
    whole = flow._replace(last=np.array([-1, -1]))
    with pytest.raises(UsageError, match="of the last scored step"):
        whole.by_lag()


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_shares_of_the_steps_add_up_to_the_gradient(cell):
    probe, params, batch = probed(cell, lengths=LENGTHS)
    found = {one.layer: one for one in diagnostics.shares(probe, params, (), batch)}

    def loss(params):
        return stack_by_hand(probe.net, params, batch, {}, LENGTHS)

    whole = jax.jit(jax.grad(loss))(params)
    wanted = {f"layer {i + 1}": layer for i, layer in enumerate(whole["layers"])}
    wanted["readout"] = whole["readout"]
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        one = found[name]
        assert one.parts.keys() == gradient.keys()
        for key in gradient:
            np.testing.assert_allclose(one.parts[key].sum(), 1, rtol=1e-9)
            assert one.norms[key].sum() >= np.linalg.norm(gradient[key]) * (1 - 1e-9)
    # Of the readout each step's own gradient is known: x_t d_t.
    start = probe.net.carry(B, jnp.float64)
    *_, seen = probe.net.watch(params, start, **probe.inputs(batch))

    def by_outputs(outputs):
        values, weights = probe.losses(outputs, batch)
        return (values * weights).sum() / weights.sum()

    _, outputs = probe.net.apply(params, start, **probe.inputs(batch))
    d = jax.grad(by_outputs)(outputs)
    top = jnp.where((np.arange(T)[:, None] < LENGTHS)[..., None], seen[-1].states.h, 0)
    each = jnp.einsum("tbh,tbv->thv", top, d)
    np.testing.assert_allclose(
        found["readout"].norms["kernel"], np.linalg.norm(each, axis=(1, 2)), rtol=1e-9, atol=1e-15
    )


def test_the_embedding_has_its_shares_too():
    net = stack.stack_cells(
        input_size=3, output_size=V, cell="rnn", hidden=H, layers=1, input="embedding",
        embedding_size=2,
    )  # fmt: skip
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 3, (T, B)))

    def losses(outputs, batch):
        return (outputs**2).sum(-1), jnp.ones((T, B), outputs.dtype)

    probe = Probe(net, lambda batch: {"x": batch["x"]}, losses)
    params = net.init(jax.random.key(0), jnp.float64)
    found = diagnostics.shares(probe, params, (), {"x": tokens})
    assert [one.layer for one in found] == ["layer 1", "embedding", "readout"]
    for one in found:
        for parts in one.parts.values():
            np.testing.assert_allclose(parts.sum(), 1, rtol=1e-9)


@pytest.mark.slow
def test_truncation_is_what_training_by_windows_computes():
    probe, params, batch = probed()
    windows = (1, 2, 3, 6)
    found = diagnostics.truncation(probe, params, (), batch, windows=windows)

    def by_windows(params, length):
        total = 0.0
        carry = probe.net.carry(B, jnp.float64)
        for start in range(0, T, length):
            part = {k: v[start : start + length] for k, v in batch.items()}
            carry = jax.lax.stop_gradient(carry)
            carry, outputs = probe.net.apply(params, carry, part["x"])
            total = total + ((outputs - part["targets"]) ** 2).sum()
        return total / (T * B)

    gradients = {
        w: np.concatenate(
            [
                np.ravel(leaf)
                for leaf in jax.tree.leaves(
                    jax.jit(jax.grad(lambda p, w=w: by_windows(p, w)))(params)
                )
            ]
        )
        for w in windows
    }
    whole = gradients[T]
    for i, w in enumerate(windows):
        g = gradients[w]
        cosine = g @ whole / np.linalg.norm(g) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.cosine[i], cosine, rtol=1e-10)
        bias = np.linalg.norm(g - whole) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.bias[i], bias, rtol=1e-8, atol=1e-12)
        ratio = np.linalg.norm(g) / np.linalg.norm(whole)
        np.testing.assert_allclose(found.ratio[i], ratio, rtol=1e-10)
    assert found.cosine[0] < 1 - 1e-4
    np.testing.assert_allclose(found.recurrent[-1], 1, rtol=1e-12)
    with pytest.raises(UsageError, match="at least 1 step"):
        diagnostics.truncation(probe, params, (), batch, windows=(0,))


@pytest.mark.parametrize("kind", optim.CLIPS)
def test_clipping_measures_what_the_clip_does(kind):
    probe, params, batch = probed("rnn")
    batches = [batch | {"targets": (k + 1) * batch["targets"]} for k in range(3)]

    def loss(params, carry, batch, key):
        _, outputs = probe.net.apply(params, probe.net.carry(B, jnp.float64), batch["x"])
        values, weights = probe.losses(outputs, batch)
        return carry + 1, {"loss": ((values * weights).sum(), weights.sum())}

    grads, carry = diagnostics.gradients(loss, params, jnp.zeros(()), batches)
    assert carry == 3
    whole = jax.grad(lambda p: diagnostics._loss(probe, (), batch)(p, None))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), grads[0], whole)
    norms = [float(optim.global_norm(g)) for g in grads]
    threshold = 0.01 if kind in ("adaptive", "value") else norms[1] * 1.001
    found = diagnostics.clipping(grads, params, kind=kind, threshold=threshold)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    assert (found.factor <= 1 + 1e-12).all()
    if kind == "global_norm":
        expected = [min(1, threshold / n) for n in norms]
        np.testing.assert_allclose(found.factor, expected, rtol=1e-12)
    if kind == "soft":
        expected = [threshold / (threshold + n) for n in norms]
        np.testing.assert_allclose(found.factor, expected, rtol=1e-12)
    if kind in ("global_norm", "soft"):
        np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)
    if kind in ("value", "adaptive"):
        assert (found.cosine < 1 - 1e-6).all()


def test_what_has_two_directions_is_refused_where_there_is_no_order():
    probe, params, batch = probed(bidirectional=True, layers=1)
    assert len(diagnostics.flow(probe, params, (), batch)) == 2
    with pytest.raises(UsageError, match="one direction"):
        diagnostics.shares(probe, params, (), batch)
    with pytest.raises(UsageError, match="one direction"):
        diagnostics.truncation(probe, params, (), batch, windows=(2,))
