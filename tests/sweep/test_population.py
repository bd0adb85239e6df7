"""A member of a population is the run alone: the same numbers, whatever becomes of the others."""

import functools

import jax
import numpy as np
import pytest

from rnnlab.run import machine
from rnnlab.run.display import Display
from rnnlab.sweep import population
from rnnlab.train.from_config import build
from rnnlab.train.state import configured_state
from rnnlab.train.step import make_train_step
from tests.support import small_config
from tests.train.splits import two_devices

pytestmark = pytest.mark.exact

# What members may differ in, one or more each; all of it is one program.
MEMBERS = (
    {"optim.clip_norm": 0.05, "seed": 3},
    {"optim.clip_norm": float("inf"), "optim.learning_rate": 0.02},
    {"optim.weight_decay": 0.1, "optim.final_fraction": 0.5, "optim.ema": 0.9},
    {"optim.beta1": 0.8, "optim.beta2": 0.95, "optim.epsilon": 1e-3},
    {"model.dropout": 0.3, "model.output_dropout": 0.2, "seed": 1},
    {"model.options.kernel_h_init": "identity:0.9", "model.options.gate_bias": 0.0},
    {"model.readout_init": "uniform:0.2", "optim.clip_norm": 0.2},
)


def as_dtype(state, dtype):
    names = ("params", "average", "optimiser", "carry")
    cast = functools.partial(
        jax.tree.map, lambda x: x.astype(dtype) if x.dtype == np.float32 else x
    )
    return state.replace(**{name: cast(getattr(state, name)) for name in names})


class Start:
    """A record that only hands over the state of step 0."""

    def __init__(self, state):
        self.state = state

    def take_state(self):
        return self.state


def begun(configs, *, dtype=np.float32, devices=1, mapped=None, poison=()):
    """A population at step 0. poison: members whose parameters are huge."""

    class Cast(population.Population):
        def _initial(self, index):
            return as_dtype(super()._initial(index), dtype)

    tasks = [build(settings)[0] for settings in configs]
    crew = Cast(configs, tasks, jax.local_devices()[:devices], lambda: None, mapped)
    crew.compile()
    states = [crew._initial(i) for i in range(len(configs))]
    for i in poison:
        states[i] = states[i].replace(params=jax.tree.map(lambda x: x * np.inf, states[i].params))
    crew.begin([Start(state) for state in states], Display(60, "char", quiet=True))
    return crew


def stepped(crew, steps):
    report = None
    for number in range(steps):
        report, _ = crew.advance(number, 60)
        jax.block_until_ready(report)
    return crew.reports(report)


def alone(settings, steps, dtype=np.float32):
    """(state, losses' sum and the rest of the last report) of the run by itself, on one device."""
    task, optimiser = build(settings)
    step = make_train_step(
        task,
        optimiser,
        average_decay=settings.optim.ema,
        reduction=settings.optim.reduction,
        log_every=settings.train.log_every,
    )
    state, report = as_dtype(configured_state(settings, task, optimiser), dtype), None
    for number in range(steps):
        state, report = step(state, task.batch(number))
        jax.block_until_ready(report)
    assert report is not None
    return state, {name: float(value) for name, value in report.items()}


def worst(a, b) -> float:
    """The largest difference of two states, relative to the largest entry of its leaf."""
    a, b = (jax.tree.leaves(s.replace(key=jax.random.key_data(s.key))) for s in (a, b))

    def of(x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return np.abs(x - y).max() / max(np.abs(x).max(), 1e-30)

    return max(of(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@two_devices
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mapped", ["loop", "vmap"])
@pytest.mark.parametrize("members", [MEMBERS[2:5], MEMBERS], ids=["three", "all"])
def test_each_member_is_the_run_alone_in_float64(text, mapped, members):
    configs = [small_config(text, changes) for changes in members]
    # An odd number on two devices: a slot is empty.
    crew = begun(configs, dtype=np.float64, devices=2, mapped=mapped)
    assert crew.slots == len(members) + 1
    reports = stepped(crew, 50)
    for i, settings in enumerate(configs):
        state, report = alone(settings, 50, np.float64)
        assert worst(state, crew.state(i)) <= 1e-9
        assert reports[i] == pytest.approx(report, rel=1e-6)  # its sums are float32


@pytest.mark.slow
@pytest.mark.parametrize("mapped", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
@pytest.mark.parametrize("cell", ["rnn", pytest.param("gru", marks=pytest.mark.slow)])
def test_each_member_is_the_run_alone_in_float32(text, mapped, cell):
    configs = [small_config(text, changes, f"model.cell={cell}") for changes in MEMBERS[:4]]
    reports = stepped(begun(configs, mapped=mapped), 50)
    for settings, report in zip(configs, reports, strict=True):
        _, own = alone(settings, 50)
        assert report["loss"] / report["count"] == pytest.approx(
            own["loss"] / own["count"], abs=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("mapped", ["loop", "vmap"])
def test_a_member_that_diverges_is_frozen_and_touches_no_other(text, mapped):
    configs = [small_config(text, {"seed": seed}) for seed in range(3)]
    well, ill = begun(configs, mapped=mapped), begun(configs, mapped=mapped, poison=(1,))
    before = jax.tree.leaves(ill.state(1).params)
    fine, reports = stepped(well, 12), stepped(ill, 12)
    assert [report["fault"] for report in reports] == [0, 1, 0]
    assert [report["step"] for report in reports] == [12, 0, 12]
    after = jax.tree.leaves(ill.state(1).params)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))
    for i in (0, 2):
        assert reports[i] == fine[i]
        assert worst(well.state(i), ill.state(i)) == 0.0


@pytest.mark.slow
@two_devices
def test_devices_and_neighbours_change_no_bit_of_a_member(text):
    configs = [small_config(text, {"seed": s, "optim.clip_norm": 0.1 * (s + 1)}) for s in range(4)]
    one, two = begun(configs), begun(configs, devices=2)
    assert stepped(one, 6) == stepped(two, 6)
    for i in range(4):
        assert worst(one.state(i), two.state(i)) == 0.0


def test_what_is_one_program(text):
    def signature(changes):
        settings = small_config(text, changes)
        return population.signature(settings, build(settings)[0])

    base = signature({})
    for changes in MEMBERS:
        assert signature(changes) == base
    for changes in (
        {"model.hidden": 9},
        {"model.cell": "gru"},
        {"model.dropout": 0.0},  # no masks are drawn
        {"optim.ema": 0.0},  # no average is kept
        {"optim.reduction": "sum_over_time"},
        {"train.window": 4},
        {"optim.name": "adam"},
    ):
        assert signature(changes) != base


def test_only_what_differs_is_an_argument(text):
    configs = [small_config(text, {"optim.clip_norm": 0.5, "seed": seed}) for seed in range(2)]
    task = build(configs[0])[0]
    assert population.varied(configs, task) == {}
    configs.append(small_config(text, {"model.dropout": 0.2, "optim.clip_norm": 0.5}))
    found = population.varied(configs, task)
    assert {key: list(row) for key, row in found.items()} == {"model.dropout": [0.1, 0.1, 0.2]}


def test_the_budget_is_a_share_of_what_is_there(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    assert population.budget(jax.local_devices()) == 700
