"""What a train step needs, against what XLA gives it; what does not fit is refused before it begins."""

import random
import tracemalloc
from pathlib import Path

import jax
import pytest

from rnnlab.errors import OutOfMemoryError, UsageError, exhausted, out_of_memory
from rnnlab.run import config, machine
from rnnlab.train import memory, single
from rnnlab.train.from_config import build
from rnnlab.train.session import fit
from rnnlab.train.state import configured_state
from rnnlab.train.step import make_train_step
from tests.support import ROOT

HUGE = 10**9
GIB = 2**30


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(draw.choice("abcdefgh ") for _ in range(80_000)))
    return path


@pytest.fixture
def load(text, monkeypatch):
    """(experiment, changes) -> its config."""
    monkeypatch.syspath_prepend(ROOT)

    def loaded(*changes, experiment="default"):
        small = ["model.hidden=32", "model.layers=1", "train.batch_size=8", "eval.random_window=32"]
        if experiment == "default":
            small.append(f"data.path={text}")
        else:
            small.pop()
        path = ROOT / "experiments" / f"{experiment}.py"
        return config.load(str(path), [*small, *changes])

    return loaded


def compiled(settings) -> int:
    """The bytes that XLA gives the train step."""
    task, optimiser = build(settings)
    state = jax.eval_shape(lambda: configured_state(settings, task, optimiser))
    step = make_train_step(
        task,
        optimiser,
        average_decay=settings.optim.ema,
        reduction=settings.optim.reduction,
        log_every=50,
    )
    found = step.lower(state, task.batch(0)).compile().memory_analysis()
    sizes = (found.temp_size_in_bytes, found.argument_size_in_bytes, found.output_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes


slow = pytest.mark.slow

# What is there


def limited(folder: Path, one: bool, limit: str, used: int, files: int) -> None:
    """A control group, of version 1 or 2, as the kernel shows it."""
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if one
        else ("memory.max", "memory.current", "inactive_file")
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 5\n{names[2]} {files}\n")


@pytest.mark.parametrize("one", [True, False], ids=["version 1", "version 2"])
def test_memory_is_what_the_control_groups_leave(tmp_path, one):
    own, root = tmp_path / "cgroup", tmp_path / "root"
    own.write_text("7:cpu,cpuacct:/else\n" + ("4:memory" if one else "0:") + ":/job/step\n")
    left = lambda: sorted(machine._left_in_groups(own, root))  # noqa: E731
    base = root / "memory" if one else root
    assert left() == []
    limited(base, one, "max", 500, 0)  # no limit
    assert left() == []
    limited(base / "job" / "step", one, "1000", 600, 150)
    assert left() == [550]
    limited(base / "job", one, "700", 600, 150)  # the group above may have less
    assert left() == [250, 550]
    limited(base / "job" / "step", one, "1000", 1600, 0)
    assert left() == [0, 250]
    # In a container its group is at the root, and the path is that of the host.
    own.write_text(("4:memory" if one else "0:") + ":/docker/0123\n")
    limited(base, one, "900", 500, 100)
    assert left() == [500]


def test_memory_where_nothing_tells_of_groups(tmp_path):
    assert machine._left_in_groups(tmp_path / "nothing", tmp_path) == []
    assert 0 < machine.available_memory() < 2**50


# The estimate


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        ("default", ["train.window=512"]),
        pytest.param("default", ["train.window=512", "model.remat=True"], marks=slow),
        pytest.param("default", ["model.hidden=512", "train.window=256"], marks=slow),
        pytest.param("default", ["model.hidden=512", "train.window=16"], marks=slow),
        pytest.param("default", ["model.layers=3", "train.batch_size=64"], marks=slow),
        pytest.param("default", ["model.cell=gru", "train.window=512"], marks=slow),
        pytest.param("default", ["model.cell=rnn", "model.dropout=0.3"], marks=slow),
        pytest.param("default", ["model.keep=states", "train.window=512"], marks=slow),
        pytest.param("default", ["model.path=plain", "model.options.layer_norm=True"], marks=slow),
        pytest.param("adding", [], marks=slow),
        pytest.param("captions", [], marks=slow),
        pytest.param("tracking", [], marks=slow),
    ],
)
def test_the_estimate_is_of_what_xla_takes(load, monkeypatch, experiment, changes):
    settings = load(*changes, experiment=experiment)
    needs, taken = sum(memory.estimate(settings, *build(settings))), compiled(settings)
    assert 0.4 < needs / taken < 1.15
    # What fits is never refused: not even without a byte to spare.
    monkeypatch.setattr(machine, "available_memory", lambda: taken)
    memory.check(settings, *build(settings))
    monkeypatch.setattr(machine, "available_memory", lambda: taken // 4)
    with pytest.raises(UsageError, match="a train step needs"):
        memory.check(settings, *build(settings))


def test_what_does_not_fit_is_refused_before_anything_is_written(load, monkeypatch, tmp_path):
    settings = load("train.window=512")
    build(settings)
    monkeypatch.setattr(machine, "available_memory", lambda: 2 << 20)
    monkeypatch.setattr(single, "make_train_step", lambda *_, **__: pytest.fail)  # which compiles
    with pytest.raises(UsageError) as error:
        fit(settings, tmp_path / "run", [])
    told = str(error.value)
    assert "and 0.0 GiB are there" in told
    assert (
        "8 rows (lower train.batch_size, train.window, model.hidden, or set model.remat=Tr" in told
    )
    assert "\n" not in told
    assert not (tmp_path / "run").exists()


def refused(settings, there):
    with pytest.raises(UsageError) as error:
        memory._refuse(settings, memory.Need(*there), GIB)
    return str(error.value)


def test_the_largest_need_comes_first_and_small_ones_not_at_all(load):
    settings = load("model.remat=True", "model.input=embedding", "model.embedding_size=4")
    rows, widths = "(lower train.batch_size, train.window, model.hidden)", "model.embedding_size)"
    told = refused(settings, (2 * GIB, 6 * GIB))
    assert "needs 8.0 GiB of memory or more, and 1.0 GiB are there: 6.0 GiB for what" in told
    assert told.index(rows) < told.index(widths)
    told = refused(settings, (6 * GIB, 2 * GIB))
    assert told.index(widths) < told.index(rows)
    assert rows not in refused(settings, (9 * GIB, GIB // 2))
    memory._refuse(settings, memory.Need(GIB, GIB // 5), GIB)  # within the margin


@pytest.mark.parametrize(
    ("experiment", "changes"),
    [
        ("default", [f"model.hidden={HUGE}"]),
        ("default", [f"model.hidden={HUGE // 10}"]),
        ("default", [f"model.layers={HUGE}"]),
        ("default", [f"train.batch_size={HUGE}"]),
        ("default", [f"train.window={HUGE}"]),
        ("default", [f"train.steps={10 * HUGE}"]),
        ("default", [f"eval.random_windows={HUGE}"]),
        ("default", ["model.input=embedding", f"model.embedding_size={HUGE // 10}"]),
        ("adding", [f"train.batch_size={HUGE}"]),
        ("adding", [f"train.window={HUGE}"]),
        ("captions", [f"train.batch_size={HUGE}"]),
        ("captions", [f"train.window={HUGE}"]),
        ("translation", [f"train.batch_size={HUGE}"]),
    ],
)
def test_huge_values_are_one_line_and_take_no_memory(load, tmp_path, experiment, changes):
    settings = load(*changes, experiment=experiment)
    tracemalloc.start()  # NumPy's arrays are among what it sees
    try:
        with pytest.raises(UsageError) as error:
            fit(settings, tmp_path / "run", [])
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# When it runs out all the same


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.45 GiB for an array"),
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8066240328 bytes."),
    ],
)
def test_out_of_memory_says_what_to_lower(load, error):
    with pytest.raises(OutOfMemoryError) as told, memory.explained(load()):
        raise error
    assert told.value.exit_code == 7
    assert "lower train.batch_size, train.window, model.hidden" in str(told.value)
    assert "\n" not in str(told.value)
    assert "ask for less at once" in out_of_memory(error)


def test_other_errors_are_not_of_memory(load):
    for error in (RuntimeError("INTERNAL: it broke"), KeyError("out of memory")):
        with pytest.raises(type(error)), memory.explained(load()):
            raise error
        assert not exhausted(error)


def test_a_device_says_what_it_has_left():
    class Device:
        platform = "gpu"

        def __init__(self, **stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    one, two = Device(bytes_limit=100, bytes_in_use=30), Device(bytes_limit=100, bytes_in_use=60)
    assert memory.available([one, two]) == 40
    assert memory.available([Device()]) > 2**60  # one that does not say
