"""What the train step sees of its own gradients, in each way of training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.recurrence import taps
from rnnlab.run import config
from rnnlab.sweep import population
from rnnlab.train import optim, parallel
from rnnlab.train import single as crew
from rnnlab.train import watch as seen
from rnnlab.train.from_config import build, build_optimiser
from rnnlab.train.omega import penalty
from rnnlab.train.session import fit
from rnnlab.train.state import configured_state, initial_state
from rnnlab.train.step import make_train_step
from tests.support import small_config
from tests.train.splits import split_of, two_devices

pytestmark = pytest.mark.exact

NO_DROPOUT = ("model.dropout=0.0", "model.output_dropout=0.0", "data.forget=0.0")


def looks(folder):
    return [json.loads(line) for line in (folder / "diagnosis.jsonl").read_text().splitlines()]


def taken(text, kind, watch, steps=3):
    """(the report's "seen" after some steps, the task, the state before the last, its batch)."""
    settings = small_config(text, {}, *NO_DROPOUT)
    task, optimiser = build(settings)
    split = split_of(kind)
    state = parallel.place_state(split, configured_state(settings, task, optimiser))
    step = make_train_step(
        task,
        optimiser,
        average_decay=0.9,
        reduction="mean",
        log_every=10,
        watch=watch,
        split=split,
    )
    before = None
    for number in range(steps):
        before = jax.tree.map(jnp.copy, parallel.gather_state(split, state))
        state, report = step(state, task.batch(number))
        jax.block_until_ready(report)
    return report["seen"], task, before, task.batch(steps - 1)


@pytest.fixture(scope="module")
def single(text):
    return taken(text, "single", "all")


def test_the_flow_is_the_gradient_at_each_state(single):
    found, task, state, batch = single
    net = task.probe.net
    rows = batch["inputs"].shape[1]

    def loss(slots):
        _, sums = task.loss(state.params, state.carry, batch, None, taps=slots)
        total, count = sums["loss"]
        return total / count

    slots = [taps.nudge(net.cell, batch["inputs"].shape[0], rows) for _ in net.names]
    for each, norms in zip(jax.grad(loss)(slots), found["flow"], strict=True):
        parts = jax.tree.leaves(each.nudge)
        assert norms.shape == (len(parts), batch["inputs"].shape[0])
        for part, row in zip(parts, norms, strict=True):
            expected = np.linalg.norm(np.asarray(part, np.float64), axis=2).mean(1)
            np.testing.assert_allclose(row, expected, rtol=1e-4)


@pytest.mark.slow
@two_devices
@pytest.mark.parametrize("kind", ["apart", pytest.param("mesh", marks=pytest.mark.slow)])
def test_over_two_devices_it_is_the_same(text, single, kind):
    found, *_ = taken(text, kind, "all")
    for name in ("flow", "saturated"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
            jax.device_get(found[name]),
            jax.device_get(single[0][name]),
        )


@pytest.mark.slow
def test_flow_alone_has_no_saturation(text):
    found, *_ = taken(text, "single", "flow", steps=1)
    assert found["saturated"] == [{}, {}]
    # The inner state of the last step reaches no output of the window.
    assert (np.asarray(found["flow"])[:, 1] > 0).all()
    assert (np.asarray(found["flow"])[:, 0, :-1] > 0).all()


@pytest.mark.slow
def test_looking_changes_the_training_by_rounding_alone(text, tmp_path):
    folders = []
    for every in (0, 7):
        folder = tmp_path / str(every)
        fit(small_config(text, {"diagnose.every": every}), folder, [])
        folders.append(folder)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in folders
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert not (folders[0] / "diagnosis.jsonl").exists()
    rows = looks(folders[1])
    assert [row["step"] for row in rows] == list(range(7, 61, 7))
    for row in rows:
        assert row["flow"].keys() == row["saturated"].keys() == {"layer 1", "layer 2"}
        assert row["flow"]["layer 1"].keys() == {"c", "h"}
        assert len(row["flow"]["layer 2"]["c"]) == 8
        assert "forget gate" in row["saturated"]["layer 1"]


@pytest.mark.slow
def test_a_resumed_run_has_the_same_rows(text, tmp_path, monkeypatch):
    changes = {"diagnose.every": 4, "train.steps_per_dispatch": 3, "train.checkpoint_every": 10}
    settings = small_config(text, changes)
    fit(settings, tmp_path / "straight", [])
    make = make_train_step

    def killed(*arguments, **options):
        inner = make(*arguments, **options)

        def step(state, batch):
            if int(state.step) >= 25:
                raise RuntimeError("power cut")
            return inner(state, batch)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(crew, "make_train_step", killed)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(settings, tmp_path / "killed", [])
    assert looks(tmp_path / "killed")  # they are made again
    fit(settings, tmp_path / "killed", [])
    assert looks(tmp_path / "killed") == looks(tmp_path / "straight")


@pytest.mark.slow
def test_the_members_of_a_population_see_what_they_see_alone(text, tmp_path):
    changes = ({"seed": 0}, {"seed": 1, "optim.clip_norm": 0.05})
    folders = [tmp_path / f"member{i}" for i in range(2)]
    same = {"diagnose.every": 20, "optim.schedule": "constant"}
    configs = [small_config(text, {**same, **change}) for change in changes]
    tasks = [build(one)[0] for one in configs]
    for mapped in ("loop", "vmap"):
        crew = population.Population(
            configs, tasks, jax.local_devices()[:1], lambda: None, mapped=mapped
        )
        crew.compile()
        records = [
            configured_state(c, t, build_optimiser(c, {}))
            for c, t in zip(configs, tasks, strict=True)
        ]

        class Held:
            def __init__(self, state):
                self.state, self.start = state, 0

            def take_state(self):
                return self.state

        crew.begin([Held(state) for state in records], display=None)
        for number in range(20):
            report, _ = crew.advance(number, 60)
        found = crew.gradients_seen(report)
        for index, (one, task) in enumerate(zip(configs, tasks, strict=True)):
            alone = folders[index]
            if not alone.exists():
                config.assign(one, "train.steps", "20")
                fit(one, alone, [])
                config.assign(one, "train.steps", "60")
            row = looks(alone)[0]
            mine = seen.diagnosis_row(
                task.probe, taps.part_names(task.probe.net.cell), found[index]
            )
            for layer, parts in row["flow"].items():
                for part, values in parts.items():
                    np.testing.assert_allclose(mine["flow"][layer][part], values, rtol=5e-3)


def test_what_has_no_layers_cannot_be_looked_into(text):
    task, optimiser = build(small_config(text))
    bare = task._replace(probe=None)
    options = {"average_decay": 0.0, "reduction": "mean", "log_every": 1}
    with pytest.raises(UsageError, match=r"set diagnose\.every to 0"):
        make_train_step(bare, optimiser, watch="flow", **options)
    with pytest.raises(UsageError, match=r"set optim\.omega to 0"):
        make_train_step(bare, optimiser, omega=1.0, **options)
    with pytest.raises(UsageError, match=r"optim\.omega must be at least 0, got -1"):
        make_train_step(task, optimiser, omega=-1.0, **options)
    with pytest.raises(UsageError, match=r"set parallel\.devices to 1"):
        make_train_step(task, optimiser, omega=1.0, split=parallel.Split((1, 2)), **options)


@pytest.mark.slow
def test_omega_is_part_of_what_is_differentiated(text):
    """One step of plain descent moves the weights by the gradient of loss + weight * Omega."""
    settings = small_config(text, {"optim.clip_norm": float("inf")}, *NO_DROPOUT)
    task, _ = build(settings)
    plain = optim.make_optimiser(
        name="sgd",
        clip="global_norm",
        clip_norm=float("inf"),
        momentum=0.0,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        rms_decay=0.9,
        weight_decay=0.0,
        schedule=lambda step: 1.0,
    )
    moved = {}
    for weight in (0.0, 2.0):
        state = initial_state(task, plain, seed=0, average=False)
        before = jax.tree.map(np.array, state.params)
        step = make_train_step(
            task, plain, average_decay=0.0, reduction="mean", log_every=1, omega=weight
        )
        state, _ = step(state, task.batch(0))
        moved[weight] = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    state = initial_state(task, plain, seed=0, average=False)
    expected = jax.grad(lambda p: penalty(task.probe, p, state.carry, task.batch(0)))(state.params)
    jax.tree.map(
        lambda with_it, without, g: np.testing.assert_allclose(
            with_it - without, -2.0 * np.asarray(g), rtol=1e-2, atol=1e-5
        ),
        moved[2.0],
        moved[0.0],
        expected,
    )
    assert float(optim.global_norm(expected)) > 0
