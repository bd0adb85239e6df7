"""Steps that are not finite: the run stops there, or leaves them out, and both are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.train.faults import quantities, unsound
from rnnlab.train.state import TOLD, initial_state
from rnnlab.train.step import make_train_step
from tests.train.steps import (
    D,
    batch,
    machinery,
    optimiser,
    same_bits,
    snapshot,
    task,
)

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
