"""Examples by number, and the encoders of pictures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.data.draws import ORDER, Random
from rnnlab.errors import UsageError
from rnnlab.models import encoders, stack
from rnnlab.tasks.kinds import examples


def of(size, lengths=None):
    return examples.Examples(
        lambda numbers: {"x": np.stack([numbers, numbers])}, lambda number: number, size, lengths
    )


def test_an_epoch_is_all_examples_once():
    batch, steps = examples.training(of(23), batch_size=4, seed=1)
    assert steps == 5
    epochs = [[int(n) for step in range(5) for n in batch(5 * e + step)["x"][0]] for e in range(3)]
    for numbers in epochs:
        assert len({*numbers}) == 20
    assert epochs[0] != epochs[1] != epochs[2]
    again, _ = examples.training(of(23), batch_size=4, seed=1)
    for step in (14, 0, 7, 13):  # in any order
        np.testing.assert_array_equal(again(step)["x"], batch(step)["x"])
    assert batch(0)["there"].tolist() == [True] * 4
    with pytest.raises(UsageError, match="there are 23 examples"):
        examples.training(of(23), batch_size=24, seed=0)


def test_examples_without_end_are_new_at_every_step():
    batch, steps = examples.training(of(None), batch_size=3, seed=0)
    assert steps == 0
    found = [n for step in range(4) for n in batch(step)["x"][0].tolist()]
    assert found == [*range(12)]


def test_examples_of_like_length_come_together():
    lengths = Random(0, ORDER).integers(1, 100, (1000,))
    batch, steps = examples.training(of(1000, lengths), batch_size=8, seed=0)
    numbers = [batch(step)["x"][0] for step in range(steps)]
    spread = [int(np.ptp(lengths[n])) for n in numbers]
    assert np.mean(spread) < 6  # 78 where they come as drawn
    assert len({*itertools.chain(*map(list, numbers))}) == 1000
    means = np.array([lengths[n].mean() for n in numbers])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # and the batches in no order


def test_chunks_have_each_example_once():
    seen, there = [], []
    for numbers, batch in examples.chunks(of(10), 7, 3):
        assert batch["x"].shape == (2, 3)
        seen += numbers.tolist()
        there += batch["there"].tolist()
    assert seen == [*range(7)]
    assert there == [True] * 7 + [False] * 2


# ---- encoders


@pytest.mark.usefixtures("float64")
def test_a_convolution_is_that_of_its_definition():
    one = encoders.conv(shape=(5, 4, 2), channels=(3,), features=0)
    params = one.init(jax.random.key(0), jnp.float64)
    assert (one.size, one.places) == (3, 6)
    x = np.random.default_rng(0).integers(0, 256, (2, 1, 5, 4, 2), dtype=np.uint8)
    found = one.apply(params, x)
    assert found.shape == (2, 1, 6, 3)
    kernel, bias = np.asarray(params["Conv_0"]["kernel"]), np.asarray(params["Conv_0"]["bias"])
    # Stride 2 and "SAME": 5 rows are padded by 1 and 1, 4 columns by 0 and 1.
    padded = np.pad(x[:, 0] / 255, ((0, 0), (1, 1), (0, 1), (0, 0)))
    for row, column in itertools.product(range(3), range(2)):
        patch = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected = np.maximum(np.einsum("bhwc,hwcd->bd", patch, kernel) + bias, 0)
        np.testing.assert_allclose(found[:, 0, 2 * row + column], expected, rtol=1e-9, atol=1e-12)


def test_encoders_are_shared_and_checked():
    options = {"shape": (4, 4, 1), "channels": (2,), "features": 3}
    assert encoders.conv(**options) is encoders.conv(**options)
    one = encoders.conv(**options)
    params = one.init(jax.random.key(0), jnp.float32)
    assert one.apply(params, np.zeros((7, 2, 4, 4, 1), np.uint8)).shape == (7, 2, 3)
    with pytest.raises(UsageError, match="reads pictures"):
        one.apply(params, np.zeros((2, 5, 4, 1)))
    for wrong in ({"channels": ()}, {"channels": (0,)}, {"features": -1}):
        with pytest.raises(UsageError, match="encoder"):
            encoders.conv(**{**options, **wrong})
    dense = encoders.dense(inputs=5, features=3)
    assert dense.apply(dense.init(jax.random.key(0)), np.ones((2, 5))).shape == (2, 3)
    with pytest.raises(UsageError, match="features"):
        encoders.dense(inputs=5, features=0)


def test_a_model_with_an_encoder_is_the_model_of_what_it_encodes():
    encoder = encoders.dense(inputs=5, features=3)
    net = stack.stack_cells(
        input_size=3, output_size=2, cell="gru", hidden=4, layers=1, input="dense"
    )
    both = stack.encoded(net, encoder)
    assert stack.encoded(net, encoder) is both
    params = both.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 2, 5))
    _, found = both.apply(params, both.carry(2), x)
    _, expected = net.apply(params, net.carry(2), encoder.apply(params["encoder"], x))
    np.testing.assert_array_equal(found, expected)
    assert ("encoder.kernel", "5 x 3") in both.layers
