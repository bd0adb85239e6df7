"""Sampling against NumPy, and beam search against all texts there are."""

import functools
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError
from rnnlab.models import sample, stack
from rnnlab.tasks.language_model.text import prime_tokens, text_samples
from rnnlab.types import Model

pytestmark = [pytest.mark.exact, pytest.mark.usefixtures("strict_dtypes")]

V = 5
VOCABULARY = Vocabulary("char", tuple(" abde"))
BYTES = Vocabulary("byte", tuple(range(256)))


def no_carry(batch, dtype=jnp.float32):
    return (jnp.zeros((batch, 1), dtype),)


def table_apply(params, carry, x, *, key=None):
    assert key is None, "dropout is on"
    return carry, params["table"][x]


# The next token's logits are a row of params["table"] [V, V], that of the token before it.
TABLE = Model(init=lambda key: {}, carry=no_carry, apply=table_apply, causal=True, layers=())


def sum_apply(params, carry, x, *, key=None):
    sums = carry[0][:, 0] + jnp.cumsum(x.astype(jnp.float32), axis=0)  # [T, B]
    nearest = jax.nn.one_hot(sums.astype(jnp.int32) % V, V)
    return (sums[-1][:, None],), 100.0 * nearest * params["scale"]


# The next token is the sum of all tokens before it, modulo V: the state decides everything.
SUM = Model(init=lambda key: {}, carry=no_carry, apply=sum_apply, causal=True, layers=())
ONE = {"scale": jnp.ones(())}


def sum_text(prime, length):
    text = list(prime)
    for _ in range(length):
        text.append(sum(text) % V)
    return text[len(prime) :]


@functools.cache
def lstm(size=V, **options):
    """A model and parameters large enough for texts that are no rounding matter."""
    made = stack.stack_cells(
        input_size=size, output_size=size, cell="lstm", hidden=8, layers=1, **options
    )
    shapes, rng = jax.eval_shape(made.init, jax.random.key(0)), np.random.default_rng(1)
    return made, jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


def run(net, params, prime, **options):
    """All pieces, int [length, count]."""
    return np.concatenate(list(sample.generate(net, params, prime, **options)))


# What a token is drawn from

GRID = 1 << 15  # finer than the least probable token of the tests below, e^(-6 / 0.7) / 6
UNIFORM = np.arange(GRID, dtype=np.float32) / GRID


@jax.jit
def chosen(logits, uniform, knobs):
    return sample._choose(jnp.broadcast_to(logits, (len(uniform), len(logits))), uniform, knobs)


def frequencies(logits, temperature=1.0, top_k=0, top_p=1.0):
    """How often each token is chosen, over a grid of uniform numbers: exact to 1 / GRID."""
    knobs = sample.Knobs(np.float32(temperature), np.int32(top_k), np.float32(top_p))
    tokens = chosen(np.asarray(logits, np.float32), UNIFORM, knobs)
    return np.bincount(tokens, minlength=len(logits)) / GRID


def expected(logits, temperature=1.0, top_k=0, top_p=1.0):
    """(probabilities, the nearest that a sum over the nucleus comes to top_p)."""
    logits = np.asarray(logits, np.float64) / temperature
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    kept = ranked[: top_k or None]
    weights = np.exp(logits - logits.max())
    nucleus, total, margin = [], 0.0, np.inf
    for token in kept:
        nucleus.append(token)
        total += weights[token] / weights[kept].sum()
        margin = min(margin, abs(total - top_p))
        if total >= top_p:
            break
    if top_p == 1.0:
        nucleus, margin = kept, np.inf
    result = np.zeros(len(logits))
    result[nucleus] = weights[nucleus] / weights[nucleus].sum()
    return result, margin


LOGITS = st.lists(st.integers(-300, 300).map(lambda n: n / 100), min_size=6, max_size=6)


@given(
    LOGITS,
    st.sampled_from([0.7, 1.0, 1.3, 100.0]),
    st.integers(0, 8),
    st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
)
def test_probabilities_against_numpy(logits, temperature, top_k, top_p):
    probabilities, margin = expected(logits, temperature, top_k, top_p)
    assume(margin > 1e-5)
    found = frequencies(logits, temperature, top_k, top_p)
    np.testing.assert_allclose(found, probabilities, atol=1 / GRID + 1e-6)
    # Each kept token has more than 1 / GRID here, so the sets are compared too.
    assert probabilities[probabilities > 0].min() > 1 / GRID
    np.testing.assert_array_equal(found > 0, probabilities > 0)


def test_nucleus_is_the_smallest_set():
    logits = np.log([0.1, 0.5, 0.25, 0.15])
    for top_p, kept in ((0.49, [1]), (0.51, [1, 2]), (0.76, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        np.testing.assert_array_equal(np.flatnonzero(frequencies(logits, top_p=top_p)), kept)
    # In halves and quarters the sums are exact: 0.5 is reached by the first alone.
    logits = np.log2([0.25, 0.5, 0.25]) * np.log(2)
    np.testing.assert_array_equal(np.flatnonzero(frequencies(logits, top_p=0.5)), [1])


@pytest.mark.parametrize("top_p", [1e-50, 1e-6])
def test_most_probable_stays(top_p):
    assert frequencies([1.0, 3.0, 2.0], top_p=top_p)[1] == 1.0


def test_ties_go_to_the_lower_tokens():
    np.testing.assert_allclose(frequencies([0, 1, 1, 0, 1], top_k=2), [0, 0.5, 0.5, 0, 0])
    np.testing.assert_allclose(frequencies([0, 0, 0, 0], top_p=0.4), [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(frequencies([1, 2, 2], temperature=0), [0, 1, 0])


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-38, 1e-5])
def test_no_temperature_is_too_small(temperature):
    assert frequencies([-80.0, 3.0, 2.9, 90.0, 89.0], temperature)[3] == 1.0


def test_large_temperature_is_uniform_and_top_k_still_ranks_by_the_logits():
    np.testing.assert_allclose(frequencies([0, 1, 2, 3], 1e30), 0.25)
    np.testing.assert_array_equal(frequencies([0, 1e-3, 1, 1 + 1e-6], 1e30, top_k=1), [0, 0, 0, 1])


@pytest.mark.parametrize("top_k", [0, 40])
def test_what_is_impossible_is_never_drawn(top_k):
    # Sums over a thousand weights are rounded so that they even fall where a weight is 0.
    rows, size = np.arange(2000), 1000
    logits = np.random.default_rng(0).normal(size=(len(rows), size)).astype(np.float32)
    logits[:, ::3] = logits[:, -20:] = -np.inf
    knobs = sample.Knobs(np.float32(1), np.int32(top_k), np.float32(1))
    for end in (0.0, 1 - 2.0**-24):
        uniform = np.full(len(rows), end, np.float32)
        tokens = np.asarray(jax.jit(sample._choose)(logits, uniform, knobs))
        drawn = logits[rows, tokens][:, None]
        assert np.isfinite(drawn).all()
        assert ((logits > drawn).sum(axis=1) < (top_k or size)).all()


def check_binomial(count, total, probability):
    spread = np.sqrt(total * probability * (1 - probability))
    assert np.all(np.abs(count - total * probability) <= 4.5 * spread)


def test_draws_follow_the_distribution():
    p = np.array([0.05, 0.4, 0.25, 0.1, 0.2])
    params = {"table": jnp.tile(jnp.log(jnp.asarray(p, jnp.float32)), (V, 1))}
    tokens = run(TABLE, params, [0], length=100, count=100, seed=7)
    check_binomial(np.bincount(tokens.reshape(-1), minlength=V), 10_000, p)
    # Independent in time and between the texts: pairs have the product of the probabilities.
    for first, second in ((tokens[:-1], tokens[1:]), (tokens[:, :-1], tokens[:, 1:])):
        pairs = np.bincount((first * V + second).reshape(-1), minlength=V * V)
        check_binomial(pairs, first.size, np.outer(p, p).reshape(-1))


def test_filters_reach_the_text():
    params = {"table": jax.random.normal(jax.random.key(2), (V, V))}
    for options in ({"top_k": 2}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.7, "temperature": 2.0}):
        tokens = run(TABLE, params, [0], length=400, count=2, **options)
        before = np.concatenate([np.zeros((1, 2), int), tokens[:-1]])
        for token in range(V):
            wanted, _ = expected(params["table"][token], **options)
            np.testing.assert_array_equal(
                np.unique(tokens[before == token]), np.flatnonzero(wanted)
            )


# The loop


def test_greedy_is_the_argmax_chain():
    net, params = lstm()
    step = jax.jit(net.apply)
    carry, text = net.carry(1), [1, 3, 2]
    for i in range(22):
        carry, logits = step(params, carry, jnp.array([[text[i]]]))
        if i >= 2:
            text.append(int(np.argmax(logits[0, 0])))
    for seed in (0, 1):
        tokens = run(net, params, text[:3], length=20, temperature=0.0, seed=seed)
        np.testing.assert_array_equal(tokens[:, 0], text[3:])


def test_the_prime_is_read_statefully():
    net, params = lstm()
    text = [1, 3, 2, 2, 0, 4]
    _, logits = jax.jit(net.apply)(params, net.carry(1), jnp.array(text)[:, None])
    long = run(net, params, text, length=8, temperature=0.0)[:, 0]
    assert long[0] == np.argmax(logits[-1, 0])
    later = run(net, params, [*text, *long[:3]], length=5, temperature=0.0)
    np.testing.assert_array_equal(later[:, 0], long[3:])


@pytest.mark.parametrize("prime", [[3], [1, 2], [4, 0, 3, 1, 1]])
def test_the_state_goes_from_step_to_step_and_from_piece_to_piece(prime):
    tokens = run(SUM, ONE, prime, length=10, chunk=4)
    np.testing.assert_array_equal(tokens[:, 0], sum_text(prime, 10))


def test_each_text_may_have_its_own_prime():
    primes = np.array([[1, 2, 3], [4, 0, 1]])
    tokens = run(SUM, ONE, primes, length=9, count=3)
    for column, prime in zip(tokens.T, primes.T, strict=True):
        np.testing.assert_array_equal(column, sum_text(prime.tolist(), 9))


def test_pieces_have_the_size_asked_for():
    pieces = list(sample.generate(SUM, ONE, [1], length=10, count=3, chunk=4))
    assert [piece.shape for piece in pieces] == [(4, 3), (4, 3), (2, 3)]
    assert {piece.dtype for piece in pieces} == {np.dtype(np.int32)}


def test_a_seed_is_one_text_in_whatever_pieces():
    net, params = lstm()
    whole = run(net, params, [1, 2], length=40, count=3, seed=5, chunk=40)
    for chunk in (1, 3, 64):
        pieces = run(net, params, [1, 2], length=40, count=3, seed=5, chunk=chunk)
        np.testing.assert_array_equal(pieces, whole)
    for compiled in (sample._start, sample._extend):
        compiled.clear_cache()
    np.testing.assert_array_equal(run(net, params, [1, 2], length=40, count=3, seed=5), whole)
    assert (run(net, params, [1, 2], length=40, count=3, seed=6) != whole).any()
    assert (whole[:, 0] != whole[:, 1]).any()


PROCESS = """
import jax
from rnnlab.models import sample, stack
made = stack.stack_cells(input_size=5, output_size=5, cell="gru", hidden=8, layers=1)
params = made.init(jax.random.key(1))
print([piece.tolist() for piece in sample.generate(made, params, [1, 2], length=200, seed=5)])
"""


@pytest.mark.slow
def test_a_seed_is_one_text_in_every_process():
    texts = {
        subprocess.run([sys.executable, "-c", PROCESS], check=True, capture_output=True).stdout
        for _ in range(2)
    }
    assert len(texts) == 1


def test_a_text_draws_the_same_numbers_among_few_and_among_many():
    # No matrix product here, whose last bits could depend on the number of rows.
    params = {"table": jnp.zeros((V, V))}
    few = run(TABLE, params, [0], length=30, count=4, seed=3)
    many = run(TABLE, params, [0], length=30, count=9, seed=3)
    np.testing.assert_array_equal(many[:, :4], few)


def test_other_values_compile_nothing():
    traces = []

    def apply(params, carry, x, *, key=None):
        traces.append(x.shape)
        return table_apply(params, carry, x)

    net = TABLE._replace(apply=apply)
    params = {"table": jnp.zeros((V, V))}
    run(net, params, [0, 1], length=30, chunk=8)
    first = list(traces)
    assert first
    for temperature, top_k, top_p, seed in itertools.product((0, 0.5, 2), (0, 3), (1, 0.5), (0, 9)):
        run(
            net,
            params,
            [1, 2],
            length=20,
            chunk=8,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
    assert traces == first


def test_dropout_is_off():
    net, params = lstm()
    wet, _ = lstm(dropout=0.5, input_dropout=0.5, output_dropout=0.5)
    for options in ({"temperature": 0.0}, {"seed": 4}):
        dry = run(net, params, [1, 2], length=20, **options)
        np.testing.assert_array_equal(run(wet, params, [1, 2], length=20, **options), dry)


def test_float64_and_bfloat16(float64):
    net, params = lstm()
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    tokens = run(net, params, [1, 2], length=10, top_p=0.9, count=2)
    assert tokens.dtype == np.int32
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    assert run(net, half, [1, 2], length=10).shape == (10, 1)


# Texts


def test_text_samples_decode_what_generate_draws():
    net, params = lstm()
    texts = text_samples(net, params, VOCABULARY, prime="bad", length=20, count=2, seed=3)
    tokens = run(net, params, VOCABULARY.encode("bad"), length=20, count=2, seed=3)
    assert texts == ["bad" + VOCABULARY.decode(column) for column in tokens.T]


def test_without_a_prime_each_text_starts_with_a_letter():
    texts = text_samples(SUM, ONE, VOCABULARY, length=4, count=30, seed=1)
    assert {text[0] for text in texts} == set("abde")
    for text in texts:
        tokens = VOCABULARY.encode(text).tolist()
        assert tokens[1:] == sum_text(tokens[:1], 4)


def test_random_letters_depend_on_the_seed_and_the_text_alone():
    few = prime_tokens(VOCABULARY, "", count=5, seed=1)
    many = prime_tokens(VOCABULARY, "", count=50, seed=1)
    assert few.shape == (1, 5)
    np.testing.assert_array_equal(many[:, :5], few)
    assert (prime_tokens(VOCABULARY, "", count=50, seed=2) != many).any()


def test_random_letters_are_ascii_at_byte_level_and_symbols_where_there_are_no_letters():
    drawn = prime_tokens(BYTES, "", count=400)[0]
    assert BYTES.decode(drawn).isalpha()
    assert len(set(drawn.tolist())) == 52
    digits = Vocabulary("char", tuple("0123"))
    assert set(prime_tokens(digits, "", count=50)[0].tolist()) == {0, 1, 2, 3}


def test_a_prime_is_encoded_for_every_text():
    np.testing.assert_array_equal(prime_tokens(BYTES, "é", count=2), [[0xC3, 0xC3], [0xA9, 0xA9]])
    with pytest.raises(UsageError, match="'x', 'z'"):
        prime_tokens(VOCABULARY, "axz")


# Beam search

SMALL, LENGTH, PRIME = 4, 4, [2, 0, 1]


@functools.cache
def everything():
    """All SMALL^LENGTH texts [N, L] and log p(text | PRIME) [N], read from the first character."""
    net, params = lstm(SMALL)
    texts = np.array(list(itertools.product(range(SMALL), repeat=LENGTH)))
    whole = np.concatenate([np.tile(PRIME, (len(texts), 1)), texts], axis=1).T
    _, logits = jax.jit(net.apply)(params, net.carry(len(texts)), jnp.asarray(whole[:-1]))
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)[len(PRIME) - 1 :]
    return texts, np.take_along_axis(log_p, texts.T[..., None], axis=2)[..., 0].sum(axis=0)


def log_probability(text):
    """log p(text | PRIME), summed over all ways to go on."""
    texts, log_p = everything()
    return np.logaddexp.reduce(log_p[(texts[:, : len(text)] == text).all(axis=1)])


@pytest.mark.parametrize("width", [SMALL ** (LENGTH - 1), SMALL**LENGTH])
def test_a_wide_beam_finds_the_best_of_all(width):
    texts, log_p = everything()
    order = np.argsort(-log_p)[:width]
    tokens, scores = sample.beam_search(*lstm(SMALL), PRIME, length=LENGTH, width=width)
    assert tokens.dtype == np.int32
    np.testing.assert_allclose(scores, log_p[order], atol=1e-5)
    np.testing.assert_allclose([log_probability(row) for row in tokens], scores, atol=1e-5)
    np.testing.assert_array_equal(tokens[0], texts[order[0]])
    assert len({tuple(row) for row in tokens.tolist()}) == width


def test_a_beam_wider_than_there_are_texts():
    tokens, scores = sample.beam_search(*lstm(SMALL), PRIME, length=2, width=30)
    assert tokens.shape == (16, 2)
    assert len({tuple(row) for row in tokens.tolist()}) == 16
    np.testing.assert_allclose(np.exp(scores).sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3])
def test_a_narrow_beam_against_a_plain_one(width):
    beams = [[]]
    for _ in range(LENGTH):
        longer = [[*text, token] for text in beams for token in range(SMALL)]
        beams = sorted(longer, key=log_probability, reverse=True)[:width]
    tokens, scores = sample.beam_search(*lstm(SMALL), PRIME, length=LENGTH, width=width)
    assert tokens.tolist() == beams
    np.testing.assert_allclose(scores, [log_probability(text) for text in beams], atol=1e-5)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"temperature": -0.1}, "temperature must be .* got -0.1"),
        ({"temperature": float("nan")}, "temperature must be .* got nan"),
        ({"temperature": float("inf")}, "temperature must be .* got inf"),
        ({"top_k": -1}, "top_k must be .* got -1"),
        ({"top_p": 0.0}, "top_p must be .* got 0.0"),
        ({"top_p": 1.01}, "top_p must be .* got 1.01"),
        ({"top_p": float("nan")}, "top_p must be .* got nan"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": 2**32}, "seed must be .* got 4294967296"),
        ({"count": 2**20 + 1}, "count must be at most 1048576"),
        ({"count": 2**20, "length": 1000}, "1048576 texts of length 1000 are more than fit"),
    ],
)
def test_generate_refuses(options, message):
    # At once, and not when the first piece is asked for.
    with pytest.raises(UsageError, match=message) as caught:
        sample.generate(SUM, ONE, [1], **({"length": 5} | options))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("prime", [[], np.zeros((0, 2), int)])
def test_an_empty_prime_is_refused(prime):
    with pytest.raises(UsageError, match="the prime is empty"):
        sample.generate(SUM, ONE, prime, length=5, count=2)
    with pytest.raises(UsageError, match="the prime is empty"):
        sample.beam_search(SUM, ONE, [], length=5, width=2)


@pytest.mark.parametrize(("name", "value"), [("length", 0), ("width", 0), ("width", -2)])
def test_beam_search_refuses(name, value):
    with pytest.raises(UsageError, match="width must be at most 1048576"):
        sample.beam_search(SUM, ONE, [1], length=5, width=10**9)
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got {value}"):
        sample.beam_search(SUM, ONE, [1], **({"length": 5, "width": 2} | {name: value}))


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("seed", -1)])
def test_prime_tokens_refuses(name, value):
    with pytest.raises(UsageError, match=name):
        prime_tokens(VOCABULARY, "", **{name: value})


def test_a_bidirectional_model_cannot_generate():
    both = stack.stack_cells(
        input_size=V, output_size=V, cell="rnn", hidden=3, layers=1, bidirectional=True
    )
    with pytest.raises(UsageError, match="bidirectional"):
        sample.generate(both, {}, [1], length=5)
    with pytest.raises(UsageError, match="bidirectional"):
        sample.beam_search(both, {}, [1], length=5, width=2)


def test_a_top_k_beyond_the_vocabulary_keeps_all():
    params = {"table": jax.random.normal(jax.random.key(0), (V, V))}
    plain = run(TABLE, params, [0], length=30, seed=3)
    for top_k in (V, V + 1, 2**40):
        np.testing.assert_array_equal(
            run(TABLE, params, [0], length=30, seed=3, top_k=top_k), plain
        )
