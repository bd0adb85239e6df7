"""The train step: the gradient, the update, what it reports, and how steps are grouped."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.train.state import TALLY, eval_params, initial_state, tally_means
from rnnlab.train.step import REDUCTIONS, make_train_step, steps_per_dispatch
from tests.train.steps import (
    SETTINGS,
    B,
    T,
    batch,
    loss,
    machinery,
    mean_gradient,
    norm,
    optimiser,
    plain_sgd,
    same_bits,
    snapshot,
    task,
)

pytestmark = pytest.mark.exact

# The start


def test_start():
    start, _ = machinery()
    state = start()
    assert (int(state.step), int(state.fault["step"])) == (0, 0)
    assert same_bits(snapshot(state.average), snapshot(state.params))
    assert same_bits(snapshot(start()), snapshot(state))
    assert not same_bits(snapshot(start(1).params), snapshot(state.params))
    assert not same_bits(snapshot(start(1).key), snapshot(state.key))
    assert start(2**32 - 1).params.keys() == state.params.keys()  # the largest seed
    assert plain_sgd()[0]().average is None


def test_served_is_the_average_where_there_is_one():
    state = machinery()[0]()
    assert eval_params(state) is state.average
    assert eval_params(state.replace(average=None)) is state.params


# A step


def test_the_loss_decreases():
    start, train_step = machinery()
    state, losses = start(), []
    for _ in range(60):
        state, report = train_step(state, batch())
        if int(state.step) % 3 == 1:  # the first step of an interval: a tally of one
            losses.append(float(report["loss"] / report["count"]))
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.step) == 60
    assert int(report["fault"]) == 0


def test_the_state_is_donated_and_compiled_for_once():
    start, train_step = machinery()
    state, _ = train_step(start(), batch())
    compiled = train_step._cache_size()
    donated, reports = state, []
    for seed in range(4):
        state, report = train_step(state, batch(seed))
        reports.append(report)
    # What a step hands on is of the kind that it takes: no second compilation, no promotion.
    assert train_step._cache_size() == compiled
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    # Reports are read after the state that came with them is gone.
    assert [int(report["step"]) for report in reports] == [2, 3, 4, 5]


@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_the_loss():
    start, train_step = plain_sgd(dtype=np.float64)
    state = start()
    for number in range(3):
        given = batch(number, np.float64, noise=0.1)
        before = snapshot((state.params, state.carry))
        key = jax.random.fold_in(state.key, number)
        _, grads = mean_gradient(*before, given, key)
        state, _ = train_step(state, given)
        for p, q, g in zip(
            *map(jax.tree.leaves, (before[0], snapshot(state.params), grads)), strict=True
        ):
            assert q.dtype == np.float64
            np.testing.assert_allclose(p - q, g, rtol=0, atol=1e-15)
    assert train_step._cache_size() == 1


def test_the_carry_goes_from_window_to_window():
    start, train_step = machinery()
    state = start()
    before = snapshot((state.params, state.carry))
    state, _ = train_step(state, batch())
    expected, _ = loss(*before, batch(), state.key)
    np.testing.assert_allclose(state.carry["h"], expected["h"], rtol=1e-5, atol=1e-6)


def test_the_average_follows_the_parameters():
    start, train_step = machinery()
    state = start()
    average = snapshot(state.average)
    for number in range(1, 5):
        state, _ = train_step(state, batch(number))
        rate = min(0.9, (1 + number) / (10 + number))
        average = jax.tree.map(
            lambda a, p, r=rate: r * a + (1 - r) * p, average, snapshot(state.params)
        )
        for found, wanted in zip(*map(jax.tree.leaves, (state.average, average)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_report_sums_over_the_interval():
    start, train_step = machinery()
    state, seen = start(), []
    for number in range(8):
        before = snapshot((state.params, state.carry))
        given = batch(number, factor=0.1 + number % 2)
        value, grads = mean_gradient(*before, given, state.key)
        state, report = train_step(state, given)
        moved = jax.tree.map(np.subtract, snapshot(state.params), before[0])
        seen.append(
            {
                "loss": float(value) * T * B,
                "count": T * B,
                "norm": norm(grads),
                "norm_large": 0.0,
                "norm_max": norm(grads),
                "clipped": float(norm(grads) > SETTINGS["clip_norm"]),
                "ratio": norm(moved) / norm(state.params),
                "steps": 1.0,
            }
        )
        interval = seen[number // 3 * 3 :]
        for name in seen[0]:
            total = (max if name == "norm_max" else sum)(row[name] for row in interval)
            np.testing.assert_allclose(report[name], total, rtol=1e-4, err_msg=name)
        assert (int(report["step"]), int(report["fault"])) == (number + 1, 0)
        assert set(report) == {*seen[0], "step", "fault"}
    assert 0 < sum(row["clipped"] for row in seen) < len(seen)


def test_sum_over_time_is_the_mean_times_T():
    outcomes = {}
    for reduction in REDUCTIONS:
        start, train_step = plain_sgd(reduction=reduction)
        state = start()
        before = snapshot(state.params)
        state, report = train_step(state, batch())
        moved = jax.tree.map(np.subtract, before, snapshot(state.params))
        outcomes[reduction] = (moved, report)
    (one, mean), (many, total) = outcomes["mean"], outcomes["sum_over_time"]
    assert (float(total["loss"]), float(total["count"])) == (
        float(mean["loss"]),
        float(mean["count"]),
    )
    assert float(total["norm"]) == T * float(mean["norm"])  # T is a power of two: not a bit is lost
    for a, b in zip(*map(jax.tree.leaves, (one, many)), strict=True):
        np.testing.assert_allclose(b, T * a, rtol=1e-5, atol=1e-6)


# Randomness


def test_a_step_folds_its_number_into_the_key():
    start, train_step = plain_sgd()

    def reported(seed, number):
        state = start(seed)
        state = state.replace(step=jnp.asarray(number, jnp.int32), params=start(0).params)
        key = snapshot(state.key)
        state, report = train_step(state, batch(noise=1.0))
        assert same_bits(snapshot(state.key), key)  # never advanced
        return float(report["loss"])

    losses = [reported(0, 0), reported(0, 3), reported(0, 6), reported(1, 0)]
    assert len(set(losses)) == 4
    assert losses == [reported(0, 0), reported(0, 3), reported(0, 6), reported(1, 0)]


def test_steps_from_a_copy_of_a_state_give_the_same_bits():
    start, train_step = machinery()
    state = start()
    for number in range(5):
        if number == 2:
            kept = snapshot(state.replace(key=jax.random.key_data(state.key)))
        state, _ = train_step(state, batch(number, noise=0.1))
    again = jax.tree.map(jnp.array, kept)
    again = again.replace(key=jax.random.wrap_key_data(again.key))
    for number in range(2, 5):
        again, _ = train_step(again, batch(number, noise=0.1))
    assert same_bits(snapshot(again), snapshot(state))


def test_the_mean_of_norms_whose_sum_float32_cannot_hold():
    steep = task()._replace(
        init=lambda key: {"bias": jnp.zeros(1)},
        loss=lambda params, carry, batch, key: (
            carry,
            {"loss": (params["bias"][0] * batch["factor"], jnp.ones(()))},
        ),
    )
    made = optimiser(name="sgd", rate=1e-6)
    train_step = make_train_step(steep, made, average_decay=0.9, reduction="mean", log_every=3)
    state, norms = initial_state(steep, made, seed=0, average=True), (2e38, 3e38, 7.0)
    for size in norms:
        state, report = train_step(state, batch(factor=size))
    assert int(report["fault"]) == 0
    assert sum(norms) > float(np.finfo(np.float32).max)
    means = tally_means({name: float(value) for name, value in report.items()})
    assert 3 * means["grad_norm"] == pytest.approx(sum(norms), rel=1e-6)
    assert means["grad_norm_max"] == np.float32(3e38)
    assert float(report["norm"]) == 7
    assert float(report["norm_max"]) == np.float32(3e38)


def test_make_refuses():
    for change in ({"reduction": "sum"}, {"ema": 1.0}, {"ema": -0.1}, {"ema": float("nan")}):
        with pytest.raises(UsageError, match=r"optim\.(reduction|ema) must be"):
            machinery(**change)


def test_steps_a_dispatch():
    assert [steps_per_dispatch(w) for w in (1e3, 5e6, 25e6, 1e9)] == [16, 8, 1, 1]


def test_how_steps_are_grouped_changes_no_bit():
    made, ends = optimiser(), []
    for group, sizes in ((1, [1] * 7), (4, [4, 3]), (4, [1, 1, 2, 3]), (4, [1] * 7)):
        state = initial_state(task(), made, seed=0, average=True)
        take = make_train_step(
            task(), made, average_decay=0.9, reduction="mean", log_every=3, group=group
        )
        done = 0
        for size in sizes:
            these = [batch(n, noise=0.1) for n in range(done, done + size)]
            state, report = take(state, these if group > 1 else these[0])
            done += size
        assert int(report["step"]) == done == 7
        ends.append((snapshot(state), snapshot(report)))
    # The loop's program by itself; that it also has the bits of the single step is the compiler's
    # doing, which tests/train/test_session.py sees on a whole run.
    assert all(same_bits(ends[1], end) for end in ends[2:])
    for a, b in zip(*map(jax.tree.leaves, (ends[0], ends[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_means_of_an_interval_whose_steps_were_all_skipped():
    assert all(math.isnan(value) for value in tally_means(dict.fromkeys(TALLY, 0.0)).values())
