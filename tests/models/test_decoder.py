"""The decoder: all steps at once against one after the other, attention, scheduled sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.models import decoder
from rnnlab.run import config as configuration
from tests.support import ROOT

V, W, M, S, T, B = 7, 5, 6, 4, 5, 3


def settings(*changes):
    return configuration.load(
        str(ROOT / "experiments" / "translation.py"), ["model.hidden=8", *changes]
    )


def made(attention, *changes, tied=False, **values):
    return decoder.make_decoder(
        settings(*changes),
        vocabulary=V,
        summary=W,
        memory=M,
        attention=attention,
        size=8,
        embedding=8 if tied else 6,
        tied=tied,
        values=values or None,
    )


def jitted(*how, **options):
    """Compiled as wholes; and parameters for which no initialiser has to be compiled."""
    one = made(*how, **options)
    rng = np.random.default_rng(0)

    def init(key, dtype=jnp.float32):
        shapes = jax.eval_shape(one.init, key)
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), dtype), shapes)

    return decoder.Decoder(init, *map(jax.jit, one[1:]))


def inputs(dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(3), 3)
    summary = jax.random.normal(keys[0], (B, W), dtype)
    memory = jax.random.normal(keys[1], (S, B, M), dtype)
    there = jnp.arange(S)[:, None] < jnp.array([4, 2, 3])
    tokens = jax.random.randint(keys[2], (T, B), 0, V)
    return summary, memory, there, tokens


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cell", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("attention", "tied"), [("none", False), ("luong", True), ("bahdanau", False)]
)
def test_all_steps_at_once_are_one_after_the_other(attention, tied, cell):
    one = jitted(attention, f"model.cell={cell}", "model.layers=2", tied=tied)
    params = one.init(jax.random.key(0), jnp.float64)
    summary, memory, there, tokens = inputs()
    kept, state = one.start(params, summary, memory, there)
    logits, weights = one.teach(params, kept, state, tokens)
    assert logits.shape == (T, B, V)
    for t in range(T):
        state, here, looked = one.advance(params, kept, state, tokens[t])
        np.testing.assert_allclose(here, logits[t], rtol=1e-9, atol=1e-12)
        if attention == "none":
            assert looked is None
            assert weights is None
            continue
        np.testing.assert_allclose(looked, weights[t], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(looked.sum(-1), 1.0, rtol=1e-9)
        assert (np.asarray(looked)[~np.asarray(there).T] == 0).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("attention", ["luong", "bahdanau"])
def test_places_that_do_not_exist_change_nothing(attention):
    one = jitted(attention)
    params = one.init(jax.random.key(0), jnp.float64)
    summary, memory, there, tokens = inputs()
    other = jnp.where(there[..., None], memory, 77.0)
    rows = [
        one.teach(params, *one.start(params, summary, m, there), tokens)[0] for m in (memory, other)
    ]
    np.testing.assert_array_equal(*rows)


@pytest.mark.usefixtures("float64")
def test_attention_is_that_of_the_papers():
    summary, memory, there, tokens = inputs()
    luong = jitted("luong")
    params = luong.init(jax.random.key(1), jnp.float64)
    kept, state = luong.start(params, summary, memory, there)
    state, logits, weights = luong.advance(params, kept, state, tokens[0])
    keys = np.asarray(memory) @ params["keys"]["kernel"] + params["keys"]["bias"]  # [S, B, A]
    # The query is the stack's readout of its state; solved for from the equations backwards.
    h = np.asarray(state[-1][0].h)
    query = h @ params["stack"]["readout"]["kernel"] + params["stack"]["readout"]["bias"]
    scores = np.where(there, np.einsum("ba,sba->sb", query, keys), -np.inf)
    expected = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
    np.testing.assert_allclose(weights.T, expected, rtol=1e-9, atol=1e-12)
    context = np.einsum("sb,sbm->bm", expected, memory)
    combined = np.tanh(
        np.concatenate([context, query], -1) @ params["combine"]["kernel"]
        + params["combine"]["bias"]
    )
    np.testing.assert_allclose(
        logits, combined @ params["readout"]["kernel"] + params["readout"]["bias"], rtol=1e-9
    )
    bahdanau = jitted("bahdanau")
    params = bahdanau.init(jax.random.key(1), jnp.float64)
    kept, state = bahdanau.start(params, summary, memory, there)
    _, _, weights = bahdanau.advance(params, kept, state, tokens[0])
    keys = np.asarray(memory) @ params["keys"]["kernel"] + params["keys"]["bias"]
    asked = np.asarray(state[-1][0].h) @ params["query"]["kernel"] + params["query"]["bias"]
    scores = np.where(there, np.tanh(asked + keys) @ params["score"], -np.inf)
    expected = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
    np.testing.assert_allclose(weights.T, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("attention", ["none", "luong"])
def test_scheduled_sampling_reads_its_own_symbols(attention):
    one = jitted(attention)
    params = one.init(jax.random.key(0))
    summary, memory, there, tokens = inputs(jnp.float32)
    begun = one.start(params, summary, memory, there)
    key = jax.random.key(5)
    plain, _ = one.teach(params, *begun, tokens)
    never, _ = one.teach(params, *begun, tokens, key, jnp.float32(0.0))
    np.testing.assert_allclose(never, plain, rtol=1e-5, atol=1e-6)
    always, _ = one.teach(params, *begun, tokens, key, jnp.float32(1.0))
    np.testing.assert_allclose(always[0], plain[0], rtol=1e-5, atol=1e-6)
    assert np.abs(always[1:] - plain[1:]).max() > 1e-3
    # Then the true symbols do not matter but for the first.
    other, _ = one.teach(params, *begun, tokens.at[1:].set(0), key, jnp.float32(1.0))
    np.testing.assert_array_equal(other, always)


def test_dropout_is_on_in_training_alone():
    one = jitted("luong", "model.output_dropout=0.5")
    params = one.init(jax.random.key(0))
    summary, memory, there, tokens = inputs(jnp.float32)
    begun = one.start(params, summary, memory, there)
    first, again = (
        one.teach(params, *begun, tokens, k)[0] for k in jax.random.split(jax.random.key(0))
    )
    assert np.abs(first - again).max() > 1e-3
    np.testing.assert_array_equal(*(one.teach(params, *begun, tokens)[0] for _ in range(2)))


@pytest.mark.parametrize(
    ("attention", "size", "tied", "told"),
    [("additive", 8, False, "decoder.attention must be"), ("luong", 8, True, "decoder.tied needs")],
)
def test_what_does_not_fit_is_one_line(attention, size, tied, told):
    with pytest.raises(UsageError, match=told):
        decoder.make_decoder(
            settings(), vocabulary=V, summary=W, memory=M, attention=attention, size=size, embedding=6,
            tied=tied,
        )  # fmt: skip
    with pytest.raises(UsageError, match="nothing to attend over"):
        decoder.make_decoder(
            settings(), vocabulary=V, summary=W, attention="luong", size=8, embedding=6, tied=False
        )
