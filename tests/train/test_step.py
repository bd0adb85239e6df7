import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.train import optim
from rnnlab.train.faults import quantities, unsound
from rnnlab.train.state import LARGE, TOLD, eval_params, initial_state
from rnnlab.train.step import REDUCTIONS, make_train_step, steps_per_dispatch
from rnnlab.types import Task

T, B, D = 8, 2, 3
SETTINGS = {
    "name": "adam",
    "clip": "global_norm",
    "clip_norm": 0.05,
    "momentum": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "epsilon": 1e-8,
    "rms_decay": 0.9,
    "weight_decay": 0.0,
}


def never(*_):
    raise AssertionError("a step has no use for this")


def loss(params, carry, batch, key):
    """A tanh network follows a target; what a batch adds to it makes the loss go wrong."""
    noise = batch["noise"] * jax.random.normal(key, (B, D))

    def advance(h, x):
        h = jnp.tanh(h @ params["kernel"] + params["bias"] + x)
        return h, h

    h, outputs = jax.lax.scan(advance, carry["h"], batch["inputs"])
    total = jnp.sum((outputs + noise - batch["targets"]) ** 2) * batch["factor"]
    # At root = 0 this is 0, and its gradient is NaN.
    total += jnp.sqrt(jnp.sum((batch["root"] * params["kernel"]) ** 2))
    return {"h": h * batch["blow"]}, {"loss": (total, jnp.asarray(T * B, total.dtype))}


def task(dtype=np.float32):
    def init(key):
        return {"bias": jnp.zeros(D, dtype), "kernel": 0.5 * jax.random.normal(key, (D, D), dtype)}

    return Task(
        init=init,
        carry=lambda: {"h": jnp.zeros((B, D), dtype)},
        batch=never,
        loss=loss,
        evaluate=never,
        finish=never,
        show=never,
        layers=(),
        keep=never,
        facts=never,
        fingerprint={},
        unit="step",
    )


def batch(seed=0, dtype=np.float32, **odd):
    """As of a task: time-major arrays, and what has no time axis and sorts before them."""
    rng = np.random.default_rng(seed)
    scalars = {"blow": 1.0, "factor": 1.0, "noise": 0.0, "root": 1e-3} | odd
    return {name: dtype(value) for name, value in scalars.items()} | {
        "fresh": np.zeros(B, bool),
        "inputs": rng.normal(size=(T, B, D)).astype(dtype),
        "targets": rng.normal(size=(T, B, D)).astype(dtype) / 2,
    }


def optimiser(rate=0.01, **changes):
    return optim.make_optimiser(schedule=lambda count: rate, **SETTINGS | changes)


@functools.cache
def machinery(*, reduction="mean", ema=0.9, log_every=3, dtype=np.float32, skip=0, **changes):
    """(seed -> state, the train step): compiled once for all tests that use it."""
    made = optimiser(**changes)

    def start(seed=0):
        return initial_state(task(dtype), made, seed=seed, average=ema > 0)

    return start, make_train_step(
        task(dtype),
        made,
        average_decay=ema,
        reduction=reduction,
        log_every=log_every,
        skip=skip,
    )


def plain_sgd(**changes):
    """The parameters move by minus the gradient."""
    return machinery(name="sgd", rate=1.0, clip_norm=float("inf"), ema=0.0, **changes)


def snapshot(tree):
    """A copy on the host, which outlives a donation."""

    def copy(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(copy, tree)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def norm(tree):
    return np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))


mean_gradient = jax.jit(
    jax.value_and_grad(lambda p, c, b, k: jnp.divide(*loss(p, c, b, k)[1]["loss"]))
)


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


# What is not finite

FAULTS = {
    "the loss is NaN": {"factor": np.nan},
    "the loss overflows": {"factor": 3e38},  # and not its gradient
    "the gradient is NaN": {"root": 0.0},
    "the carry is inf": {"blow": np.inf},
}


def run_into(fault, start, train_step):
    """Two good steps, the bad one, another bad one, a good one."""
    state = start()
    for number in range(2):
        state, _ = train_step(state, batch(number))
    good = snapshot(state)
    assert int(good.fault["step"]) == 0
    state, report = train_step(state, batch(2, **fault))
    after = snapshot(state)
    assert same_bits(after.replace(fault=good.fault), good)
    assert int(after.fault["step"]) == int(report["fault"]) == 3
    assert int(report["step"]) == 2
    for later in (batch(3, factor=np.nan), batch(4)):
        state, report = train_step(state, later)
        assert same_bits(snapshot(state), after)
        assert int(report["fault"]) == 3
    return after.fault


@pytest.mark.parametrize("what", FAULTS)
def test_after_a_fault_nothing_changes(what):
    fault = run_into(FAULTS[what], *machinery())
    assert np.isfinite(fault["loss"]) == (what in ("the gradient is NaN", "the carry is inf"))
    assert np.isfinite(fault["norm"]) == (what in ("the loss overflows", "the carry is inf"))


NAMES = {
    "the loss is NaN": "the loss",
    "the loss overflows": "the loss",
    "the gradient is NaN": "the gradient of kernel",
    "the carry is inf": "the carried state h",
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_named(what):
    start, train_step = machinery()
    fault = run_into(FAULTS[what], start, train_step)
    assert quantities(start())[fault["where"]] == NAMES[what]


def test_quantities_are_all_that_is_checked():
    assert quantities(machinery()[0]()) == [
        "the loss",
        "the gradient of bias",
        "the gradient of kernel",
        "the norm of the gradient",
        "the updated parameter bias",
        "the updated parameter kernel",
        "the average of bias",
        "the average of kernel",
        "the optimiser's 0/norm",
        *(f"the optimiser's 1/0/{m}/{p}" for m in ("mu", "nu") for p in ("bias", "kernel")),
        "the carried state h",
    ]


def poisoned(state, part):
    leaves, tree = jax.tree.flatten(getattr(state, part))
    at = next(i for i, leaf in enumerate(leaves) if leaf.ndim == 2)
    leaves[at] = leaves[at].at[0, 0].set(np.nan)
    return state.replace(**{part: jax.tree.unflatten(tree, leaves)})


@pytest.mark.parametrize("part", ["params", "average", "optimiser", "carry"])
@pytest.mark.parametrize("skip", [0, 5])
def test_a_damaged_state_is_a_fault_and_never_skipped(part, skip):
    start, train_step = machinery(skip=skip)
    state, _ = train_step(start(), batch(0))
    assert unsound(state) == ""
    state, report = train_step(poisoned(state, part), batch(1))
    assert int(report["fault"]) == 2
    words = {"params": "the parameter", "average": "the average of", "carry": "the carried state"}
    assert unsound(state).startswith(words.get(part, "the optimiser's"))


@pytest.mark.parametrize("what", FAULTS)
def test_a_step_that_is_skipped_is_left_out(what):
    start, train_step = machinery(skip=2)
    ends = []
    for faults in (True, False):
        state, reports = start(), []
        for number in range(7):  # an interval begins with step 4, of number 3
            if number not in (3, 5):
                state, report = train_step(state, batch(number, noise=0.1))
            elif faults:
                state, report = train_step(state, batch(number, **FAULTS[what]))
            else:
                tally = jax.tree.map(jnp.zeros_like, state.tally) if number == 3 else state.tally
                state = state.replace(step=state.step + 1, tally=tally)
            reports.append(snapshot(report))
        ends.append((snapshot(state), reports))
    (one, reports), (other, _) = ends
    assert same_bits(one.replace(skips=other.skips), other)
    assert [int(report["skips"]["count"]) for report in reports] == [0, 0, 0, 1, 1, 2, 2]
    assert list(one.skips["steps"][:3]) == [4, 6, 0]
    names = quantities(one)
    assert [names[i] for i in one.skips["where"][:2]] == [NAMES[what]] * 2
    state, report = train_step(state.replace(skips=one.skips), batch(9, **FAULTS[what]))
    assert int(report["fault"]) == 8  # beyond the budget
    _, report = train_step(state, batch(10))
    assert int(report["fault"]) == 8


def test_of_many_skipped_steps_the_last_are_known():
    start, train_step = machinery(skip=TOLD + 4)
    state = start()
    for number in range(TOLD + 3):
        state, report = train_step(state, batch(number, factor=np.nan))
    assert int(report["fault"]) == 0
    assert int(report["steps"]) == 0
    assert sorted(report["skips"]["steps"]) == list(range(4, TOLD + 4))


def test_an_optimiser_that_overflows_is_a_fault():
    # The loss and the gradient are finite, but Adam's second moment is not, and would never be again.
    fault = run_into({"factor": 1e22}, *machinery(clip_norm=float("inf")))
    assert np.isfinite(fault["loss"])
    assert 1e20 < fault["norm"] < 1e30


def test_a_huge_gradient_that_is_clipped_is_no_fault():
    start, train_step = machinery()
    state, report = train_step(start(), batch(factor=1e22))
    assert (int(state.step), int(report["fault"]), float(report["clipped"])) == (1, 0, 1)
    assert float(report["norm"]) > 1e20


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
    total = float(report["norm"]) + LARGE * float(report["norm_large"])
    assert total == pytest.approx(sum(norms), rel=1e-6)
    assert float(report["norm"]) == 7
    assert float(report["norm_max"]) == np.float32(3e38)


def test_parameters_that_are_all_zero_are_no_fault():
    zero = task()._replace(
        init=lambda key: {"bias": jnp.zeros(D)},
        loss=lambda params, carry, batch, key: (
            carry,
            {"loss": (params["bias"].sum() * 0, jnp.ones(()))},
        ),
    )
    made = optimiser()
    state = initial_state(zero, made, seed=0, average=False)
    train_step = make_train_step(zero, made, average_decay=0.0, reduction="mean", log_every=1)
    state, report = train_step(state, batch())
    assert (int(report["fault"]), float(report["ratio"])) == (0, 0)


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
    # doing, which tests/test_train.py sees on a whole run.
    assert all(same_bits(ends[1], end) for end in ends[2:])
    for a, b in zip(*map(jax.tree.leaves, (ends[0], ends[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_fault_within_a_group_ends_it():
    made = optimiser()
    kept = []
    for group in (1, 4):
        state = initial_state(task(), made, seed=0, average=True)
        take = make_train_step(
            task(), made, average_decay=0.9, reduction="mean", log_every=3, group=group
        )
        these = [batch(n, factor=np.nan if n == 2 else 1.0) for n in range(4)]
        for given in [these] if group > 1 else these:
            state, report = take(state, given)
        assert (int(report["step"]), int(report["fault"])) == (2, 3)
        kept.append(snapshot(state.params))
    for a, b in zip(*map(jax.tree.leaves, kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
