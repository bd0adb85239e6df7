"""The memory tasks: each answer recomputed from its inputs, baselines simulated, padding, training."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from rnnlab import tasks
from rnnlab.data import draws
from rnnlab.errors import UsageError
from rnnlab.tasks.metrics import tokens
from rnnlab.train import single
from rnnlab.train.from_config import build
from rnnlab.train.state import initial_state
from rnnlab.train.step import make_train_step
from tests.support import ROOT
from tests.tasks.kinds.small import QUICK, made, settings
from tests.tasks.small import QUICK as QUICK_TASKS

TASKS = tuple(
    name
    for name in tasks.names()
    if {"sequences", "patterns"} & {*vars(tasks.module(name))}
    and name not in {"mnist", *QUICK_TASKS}
)


def rows_of(batch):
    """(inputs, {t: answer}) of every sequence, as Python sees it."""
    time, count = batch["weights"].shape
    lengths = batch.get("lengths", np.full(count, time))
    for row, length in enumerate(lengths):
        asked = np.flatnonzero(batch["weights"][:, row])
        assert (asked < length).all()
        answers = {int(t): batch["targets"][t, row].ravel()[0] for t in asked}
        yield batch["inputs"][:length, row], answers


# ---- every answer, from the inputs alone


def check_copy(inputs, answers, count=10, symbols=8, cue=11):
    length, word = len(inputs), list(inputs[:count])
    assert max(word) < symbols
    assert list(inputs[count:]) == [
        symbols + 1 if t == length - cue else symbols for t in range(count, length)
    ]
    assert answers == dict(enumerate([symbols] * (length - count) + word))


def check_noiseless_memorisation(inputs, answers):
    check_copy(inputs, answers, count=5, symbols=2, cue=5)


def pair(inputs):
    (first, second), half = np.flatnonzero(inputs[:, 1]), len(inputs) // 2
    assert first < half <= second
    assert ((inputs[:, 0] >= 0) & (inputs[:, 0] < 1)).all()
    return float(inputs[first, 0]), float(inputs[second, 0])


def check_adding(inputs, answers):
    assert answers == {len(inputs) - 1: pytest.approx(sum(pair(inputs)), abs=1e-6)}


def check_multiplication(inputs, answers):
    assert answers == {len(inputs) - 1: pytest.approx(math.prod(pair(inputs)), abs=1e-6)}


def check_temporal_order(inputs, answers):
    length = len(inputs)
    places = np.flatnonzero(inputs < 2)
    assert len(places) == 2
    for place, tenth in zip(places, (1, 5), strict=True):
        assert tenth * length // 10 <= place < tenth * length // 10 + length // 10
    first, second = inputs[places]
    assert answers == {length - 1: 2 * first + second}


def check_random_permutation(inputs, answers):
    assert inputs[0] < 2
    assert ((inputs[1:] >= 2) & (inputs[1:] < 5)).all()
    assert answers == {len(inputs) - 1: inputs[0]}


def check_parity(inputs, answers):
    assert set(inputs) <= {0, 1}
    assert answers == {len(inputs) - 1: list(inputs).count(1) % 2}


def check_dyck(inputs, answers, kinds=2, depth=4):
    stack, expected = [], {}
    for t, symbol in enumerate(inputs):
        if symbol < kinds:
            stack.append(symbol)
            assert len(stack) <= depth
        else:
            assert stack.pop() == symbol - kinds
            expected[t - 1] = symbol - kinds
    assert not stack
    assert answers == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shortest", [0, 22])
def test_the_answers_are_those_of_the_definition(task, shortest):
    one = made(task, f"data.shortest={shortest}", "train.batch_size=40")
    check, lengths = globals().get(f"check_{task}"), set()
    assert check, f"write check_{task} here: it finds the answers from the inputs by another way"
    for step in range(3):
        for inputs, answers in rows_of(one.batch(step)):
            check(inputs, answers)
            lengths.add(len(inputs))
    assert lengths == ({24} if not shortest else {22, 24} if task == "dyck" else {22, 23, 24})


def test_three_symbols_of_temporal_order():
    batch = made("temporal_order", "data.symbols=3", "train.batch_size=64").batch(0)
    seen = set()
    for inputs, answers in rows_of(batch):
        a, b, c = inputs[np.flatnonzero(inputs < 2)]
        assert answers == {23: 4 * a + 2 * b + c}
        seen |= set(answers.values())
    assert seen == set(range(8))


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_a_pure_function_of_seed_and_step(task):
    one, again, other = made(task), made(task), made(task, "seed=1")

    def same(a, b):
        return all((a[name] == b[name]).all() for name in a)

    for step in (3, 0, 7):
        assert same(one.batch(step), again.batch(step))
    assert not same(one.batch(3), one.batch(4))
    assert not same(one.batch(3), other.batch(3))
    again.batch(5)
    assert same(one.batch(5), again.batch(5))


# What a person without memory answers: [T, B, V], the best there is.
GUESSES = {
    "adding": lambda inputs, size: np.full((*inputs.shape[:2], 1), 1.0),
    "multiplication": lambda inputs, size: np.full((*inputs.shape[:2], 1), 0.25),
}


def logits_by_chance(task, inputs):
    """log-probabilities of the predictor that the task's docstring describes."""
    time, rows = inputs.shape[:2]
    if task in ("copy", "noiseless_memorisation"):
        symbols, count = (8, 10) if task == "copy" else (2, 5)
        found = np.full((time, rows, symbols + 1), -np.inf)
        found[: time - count, :, symbols] = 0.0
        found[time - count :, :, :symbols] = -math.log(symbols)
        return found
    if task == "random_permutation":
        found = np.full((time, rows, 5), -np.inf)
        found[..., :2] = -math.log(2)
        return found
    size = {"temporal_order": 4, "parity": 2, "dyck": 2}[task]
    return np.full((time, rows, size), -math.log(size))


@pytest.mark.parametrize("task", TASKS)
def test_the_baseline_is_what_one_does_without_memory(task):
    one = made(task, "train.batch_size=4000")
    batch = one.batch(0)
    _, expected = one.baseline
    if task in GUESSES:
        outputs = GUESSES[task](batch["inputs"], 1)
        lost = (outputs - batch["targets"])[batch["weights"]] ** 2
    else:
        logs = logits_by_chance(task, batch["inputs"])
        lost = -np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0][batch["weights"]]
    assert np.isfinite(lost).all()
    assert abs(lost.mean() - expected) <= 4 * lost.std() / math.sqrt(lost.size) + 1e-9
    # The loss of the task, at those very answers, is the same number.
    values, weights = one.probe.losses(jnp.asarray(outputs if task in GUESSES else logs), batch)
    total = float((values * weights).sum() / weights.sum())
    np.testing.assert_allclose(total, lost.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    "task",
    ["temporal_order", *(pytest.param(t, marks=pytest.mark.slow) for t in ("adding", "copy"))],
)
def test_padding_changes_nothing(task):
    one = made(task, "data.shortest=21")
    batch, params = one.batch(0), one.init(jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p, b: (s := one.loss(p, (), b, None)[1]["loss"])[0] / s[1]))
    plain = gradient(params, batch)
    noisy = dict(batch)
    there = np.arange(24)[:, None] < batch["lengths"]
    inputs = np.array(batch["inputs"])
    inputs[~there] = 1 if inputs.dtype == np.int32 else np.nan
    targets = np.array(batch["targets"])
    targets[~there] = 1
    noisy |= {"inputs": inputs, "targets": targets}
    jax.tree.map(np.testing.assert_array_equal, gradient(params, noisy), plain)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(t, marks=() if t in ("temporal_order", "adding") else pytest.mark.slow)
        for t in TASKS
    ],
)
def test_a_few_steps_bring_the_loss_down(task):
    one = settings(task, "optim.learning_rate=0.01", "train.steps=40")
    task_, optimiser = build(one)
    state = initial_state(task_, optimiser, seed=0, average=False)
    before = task_.evaluate(state.params)
    take = make_train_step(task_, optimiser, average_decay=0.0, reduction="mean", log_every=100)
    for step in range(40):
        state, _ = take(state, task_.batch(step))
    after = task_.evaluate(state.params)
    assert after["loss"] < before["loss"]
    assert after["baseline_loss"] == task_.baseline[1]
    assert 0 <= after["error"] <= 1
    assert task_.show(state.params, 40).count("\n") >= 1


def test_the_error_of_a_sequence_is_any_wrong_answer():
    right = jnp.asarray([[1, 1, 0, 1], [1, 0, 1, 0]], jnp.float32)
    weights = jnp.asarray([[True, True, True, False], [True, True, False, False]])
    wrong, count = tokens.sequence_error(right, weights)
    assert (float(wrong), float(count)) == (2.0, 3.0)  # the last sequence is not asked


def test_longer_sequences_have_a_number_of_their_own():
    one = made("parity", "eval.lengths=(30,50)", "eval.longer=7")
    found = one.finish(one.init(jax.random.key(0)))
    assert found.keys() == {"error_at_30", "error_at_50"}
    assert all((7 * value) % 1 == pytest.approx(0, abs=1e-5) for value in found.values())


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("adding", "data.symbols=3", "has no use for data.symbols"),
        ("temporal_order", "data.symbols=4", "data.symbols must be 2 or 3"),
        ("temporal_order", "train.window=5", "has at least 10 steps"),
        ("dyck", "train.window=23", "is a multiple of 2"),
        ("copy", "data.shortest=30", "more than train.window"),
        ("noiseless_memorisation", "data.bits=7", "data.bits must be 5 or 20"),
        ("parity", "eval.longer=0", "eval.longer must be at least 1"),
        ("dyck", "data.kinds=1", "data.kinds must be at least 2"),
    ],
)
def test_what_does_not_fit_is_one_line(task, change, told):
    with pytest.raises(UsageError, match=told) as error:
        made(task, change)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_from_the_command_line_resumes_to_the_same_end(tmp_path, monkeypatch, capsys):
    arguments = [f"--config.{change}" for change in [*QUICK, "task=temporal_order"]]
    flags = [f"--config={ROOT / 'experiments' / 'memory.py'}", *arguments]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert launch.main(["train", *flags, f"--workdir={straight}"]) == 0
    assert "baseline" in capsys.readouterr().out
    make = single.make_train_step

    def failing(*args, **kwargs):
        inner = make(*args, **kwargs)

        def step(state, batch):
            if int(state.step) >= 40:
                raise RuntimeError("power cut")
            return inner(state, batch)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(single, "make_train_step", failing)
        with pytest.raises(RuntimeError):
            launch.main(["train", *flags, f"--workdir={stopped}"])
    assert launch.main(["train", *flags, f"--workdir={stopped}"]) == 0

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"]) for row in rows]

    assert losses(straight) == losses(stopped)
    assert launch.main(["evaluate", f"--workdir={straight}"]) == 0
    assert "error" in capsys.readouterr().out


def test_random_numbers_are_even():
    found = draws.Random(0, draws.TRAIN, 3).integers(2, 7, (20000,))
    assert set(found) == {2, 3, 4, 5, 6}
    assert abs(found.mean() - 4) < 0.05
    uniform = draws.Random(0, draws.TRAIN, 4).uniform((20000,))
    assert abs(uniform.mean() - 0.5) < 0.01
    with pytest.raises(UsageError):
        draws.Random(-1, draws.TRAIN)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_diagnosed_is_the_loss_that_trains(task):
    one = made(task, "data.shortest=22")
    params, batch = one.init(jax.random.key(0)), one.batch(0)
    total, count = one.loss(params, (), batch, None)[1]["loss"]
    outputs = one.probe.net.apply(params, one.probe.net.carry(8), **one.probe.inputs(batch))[1]
    values, weights = one.probe.losses(outputs, batch)
    np.testing.assert_allclose((values * weights).sum() / weights.sum(), total / count, rtol=1e-5)
