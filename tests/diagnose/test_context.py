"""How many characters a model uses: of models whose memory is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from rnnlab.diagnose import context, reading
from rnnlab.run import figure as figures
from rnnlab.types import Model
from tests.diagnose.by_hand import net_of

pytestmark = pytest.mark.usefixtures("strict_dtypes")

DEEP, V = 3, 4


def deep_carry(batch, dtype=jnp.float32):
    return (jnp.zeros((batch, DEEP), dtype),)  # the last tokens, + 1; 0 is none


def deep_apply(params, carry, x):
    history = jnp.concatenate([carry[0].T, x.astype(jnp.float32) + 1.0])  # [DEEP + T, B]
    time = x.shape[0]
    index = sum(history[DEEP - k : DEEP - k + time] * (V + 1.0) ** k for k in range(DEEP))
    return (history[-DEEP:].T,), params["table"][index.astype(jnp.int32)]


# The logits are those of the last 3 tokens, whatever was before.
HISTORY = Model(
    init=lambda key: {},
    carry=deep_carry,
    apply=deep_apply,
    watch=None,
    cell=None,
    names=(),
    causal=True,
    layers=(),
)


def written():
    """A text that the table's model has written, and its losses."""
    random = np.random.default_rng(0)
    table = 3.0 * random.normal(size=((V + 1) ** DEEP, V)).astype(np.float32)
    text, losses = [0, 1, 2], [np.nan, 1.0, 1.0]
    while len(text) < 400:
        index = sum((text[-1 - k] + 1) * (V + 1) ** k for k in range(DEEP))
        p = np.exp(table[index] - np.logaddexp.reduce(table[index]))
        text.append(int(random.choice(V, p=p / p.sum())))
        losses.append(-np.log(p[text[-1]]))
    return {"table": jnp.asarray(table)}, np.array(text, np.uint8), np.array(losses)


def test_memory_of_a_model_that_sees_3_characters():
    params, text, losses = written()
    kept = context.measure(HISTORY, params, text, losses, longest=17, positions=150, seed=3)
    assert kept.lengths == (1, 2, 3, 4, 6, 8, 12, 16)
    assert kept.characters == 3
    assert kept.positions == 150
    np.testing.assert_allclose(kept.losses[2:], kept.full, rtol=1e-5)
    np.testing.assert_allclose(kept.errors[2:], 0.0, atol=1e-6)
    assert kept.losses[1] > 1.1 * kept.full
    assert kept.errors[0] > 0.05
    short = context.measure(HISTORY, params, text, losses, longest=2, positions=150, seed=3)
    assert short.lengths == (1, 2)
    assert short.characters is None
    assert context.sentence(short, "character") == (
        f"the memory of the model is longer than 2 characters: with so many its loss is "
        f"{short.losses[1]:.3f} nats per character, more than 1% above the {short.full:.3f} with all "
        f"the text before (150 random positions)"
    )


def test_losses_of_a_shortened_context_one_by_one():
    net, params = net_of(5, cell="rnn", layers=2)
    tokens = np.random.default_rng(0).integers(0, 5, 30)
    losses = reading.read(net, params, tokens).losses
    kept = context.measure(net, params, tokens, losses, longest=4, positions=100, seed=0)
    assert kept.positions == 26  # all there are
    np.testing.assert_allclose(kept.full, losses[4:].mean(), rtol=1e-6)
    step = jax.jit(net.apply)
    for n, mean, error in zip(kept.lengths, kept.losses, kept.errors, strict=True):
        found = []
        for t in range(4, 30):
            x = jnp.asarray(tokens[t - n : t], jnp.int32)[:, None]
            logits = step(params, net.carry(1), x)[1][-1, 0]
            found.append(-float(jax.nn.log_softmax(logits)[tokens[t]]))
        np.testing.assert_allclose(mean, np.mean(found), rtol=1e-5)
        wanted = np.std(np.array(found) - losses[4:]) / np.sqrt(26)
        np.testing.assert_allclose(error, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ((3.0, 2.0, 1.01, 1.0), 4),
        ((1.0, 2.0, 1.0, 0.5), 4),
        ((0.9,) * 4, 1),
        ((1.0, 1.02) * 2, None),
    ],
)
def test_the_rule_of_the_memory(losses, wanted):
    # From the length on, all must be within 1%.
    kept = context.Memory((1, 2, 4, 8), losses, (0.0,) * 4, 1.0, 10)
    assert kept.characters == wanted


@pytest.mark.parametrize("characters", [4, None])
def test_context_draws(characters, tmp_path):
    losses = (2.0, 1.5, 1.005 if characters else 1.5)
    memory = context.Memory((1, 2, 4), losses, (0.1, 0.1, 0.0), 1.0, 9)
    assert memory.characters == characters
    path = tmp_path / "context.png"
    context.draw(memory, path, title="50$ and \\frac$, under 月", unit="byte")
    assert [each.name for each in tmp_path.iterdir()] == ["context.png"]
    image = imread(path)[..., :3]
    assert image.shape[1] > 900
    for colour in (figures.BLUE, figures.ORANGE):
        exact = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(image - exact).max(-1) < 0.01).sum() > 100
    # The dashed line is a column of grey from bottom to top, in the plot and not in the legend.
    grey = abs(image - 0x77 / 255).max(-1) < 0.06
    assert (grey.sum(axis=0).max() > 150) == (characters is not None)
