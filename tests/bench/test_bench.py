"""The benchmark: it times nothing that computes something else, and says what it did."""

import copy
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import launch
from rnnlab.bench import measure, output, suites, verbs
from rnnlab.bench.contenders.contender import Case, Contender, draw_tokens, flops
from rnnlab.bench.contenders.flax_nnx import Flax
from rnnlab.bench.contenders.own import Own, make_model
from rnnlab.bench.worker import Worker, WorkerDied, receive, send
from rnnlab.errors import UsageError
from rnnlab.run import machine
from rnnlab.run import process as host
from rnnlab.tasks.metrics import tokens as metrics
from tests.support import ROOT

TINY = Case("lstm", layers=2, hidden=6, batch=3, time=5, vocabulary=7)
FLAGS = ["--shapes=1x6xB3xT5", "--vocabulary=7", "--seconds=0.05", "--threads=1"]
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch):
    """The launcher and the contenders set up their own process; this one is the test runner's."""
    monkeypatch.setattr(host, "retain_memory", lambda: True)
    monkeypatch.setattr(host, "keep_compiled", lambda folder: None)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


class Here:
    """A worker without a process of its own. `lies` changes answers: (library, request) -> how."""

    lies = {}  # noqa: RUF012, a test sets it

    def __init__(self, library, *, threads, retain):
        path = "plain" if library == "rnnlab-plain" else "auto"
        self.library = library
        self.contender = Flax(threads=1) if library == "flax" else Own(threads=1, path=path)
        if library == "torch":
            from rnnlab.bench.contenders.torch_nn import Torch

            self.contender = Torch(threads=1, compiled=False)

    def ask(self, request, /, **arguments):
        answer = getattr(self.contender, request)(**arguments)
        return self.lies.get((self.library, request), lambda same: same)(answer)

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(measure, "Worker", Here)
    monkeypatch.setattr(Here, "lies", {})
    monkeypatch.setattr(Own, "peak_flops", lambda self, seconds: 1e12)
    return Here


def ran(capsys, *arguments):
    """(exit code, the JSON object, standard error) of the benchmark."""
    code = launch.main(["bench", *arguments, "--json"])
    output = capsys.readouterr()
    return code, json.loads(output.out), output.err


# The whole, with real workers


@pytest.mark.slow
def test_the_step_suite_from_command_to_tables(tmp_path, capsys):
    libraries = ["rnnlab", "rnnlab-plain", "flax"] + ["torch"] * HAS_TORCH
    path = tmp_path / "found.json"
    arguments = [f"--libraries={','.join(libraries)}", f"--json={path}", *FLAGS]
    code = launch.main(["bench", "step", "--cells=rnn", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    found = json.loads(path.read_text())
    assert set(found) == {"suite", "machine", "options", "tables", "notes", "peak_flops"}
    assert found["suite"] == "step"
    described = found["machine"]
    assert described["threads"] == found["options"]["threads"] == 1
    assert described["memory"] == "stock"
    assert described["versions"]["jax"] == jax.__version__
    assert described["cores"] >= 1
    assert described["processor"] in lines[0]
    assert described["date"] in lines[0]
    (table,) = found["tables"]
    rows = {row["library"]: row for row in table["rows"]}
    assert list(rows) == libraries
    for row in rows.values():
        assert row["shape"] == "1x6xB3xT5"
        assert 0 < row["quartile 1"] <= row["ms a step"] <= row["quartile 3"]
        work = flops(Case("rnn", 1, 6, 3, 5, 7))
        assert row["GFLOP/s"] == pytest.approx(work / row["ms a step"] / 1e6)
        assert row["of peak"] == pytest.approx(
            row["GFLOP/s"] * 1e9 / max(found["peak_flops"][0].values())
        )
        assert row["first step s"] > 0
        assert row["difference"] <= 1e-5
    assert rows["flax"]["x flax"] == 1.0
    assert rows["rnnlab"]["x flax"] > 0
    assert (rows["rnnlab"]["x torch"] is not None) == HAS_TORCH
    header = next(line for line in lines if line.startswith("| cell"))
    assert lines[lines.index(header) + 1] == "| " + " | ".join(["---"] * len(rows["flax"])) + " |"
    assert sum(line.startswith("| rnn |") for line in lines) == len(libraries)


def test_a_worker_that_dies_is_one_line_and_the_others_go_on():
    report = output.Report("-", {"machine": machine.facts(threads=1, memory="stock")})
    with measure.open_team(report, threads=1, retain=False) as crew:
        assert crew.ask("flax", "nonsense") is None
        assert "nonsense" in report.content["notes"][0]
        assert "flax" in report.content["notes"][0]
        assert len(report.content["notes"][0].splitlines()) == 1
        assert not report.failed
        assert crew.ask("flax", "peak_bytes") > 0  # a fresh one
        process = crew.workers["flax"].process
        assert process.poll() is None
    assert process.returncode is not None
    worker = Worker("rnnlab", threads=1, retain=True)
    worker.process.kill()
    with pytest.raises(WorkerDied, match="exit code -9"):
        worker.ask("peak_bytes")
    worker.close()


def test_a_message_is_what_was_sent():
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(2, 3).T, "b": [np.float32(0.1)]}
    message = [
        *arrays.items(),
        {"nan": math.nan, "none": None, "é\n": ["x", 1, 0.1, True]},
        np.ones((0, 3)),
    ]
    pipe = io.BytesIO()
    send(pipe, message)
    send(pipe, "next")
    content = pipe.getvalue()
    pipe.seek(0)
    (a, b, rest, empty), after = receive(pipe), receive(pipe)
    assert (a[0], b[0], after) == ("a", "b", "next")
    assert a[1].dtype == np.int32
    np.testing.assert_array_equal(a[1], arrays["a"])
    a[1][0, 0] = 7  # it is the receiver's own
    assert b[1][0].dtype == np.float32
    assert b[1][0] == np.float32(0.1)
    assert math.isnan(rest.pop("nan"))
    assert rest == {"none": None, "é\n": ["x", 1, 0.1, True]}
    assert empty.shape == (0, 3)
    with pytest.raises(EOFError):
        receive(pipe)
    for cut in (5, content.index(b"\n") + 3):  # inside the line, inside an array
        with pytest.raises(EOFError):
            receive(io.BytesIO(content[:cut]))
    for odd in (object(), {1, 2}, [np.array([object()])]):
        with pytest.raises(TypeError):
            send(io.BytesIO(), odd)


def test_an_interrupt_ends_the_workers(monkeypatch, capsys):
    started = []

    class Watched(Worker):
        def ask(self, request, /, **arguments):
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(measure, "Worker", Watched)
    assert launch.main(["bench", *FLAGS]) == 130
    assert capsys.readouterr().err == "rnnlab: interrupted\n"
    (worker,) = started
    assert worker.process.poll() is not None


def test_a_worker_sets_its_process_up_before_any_library_is_imported():
    code = (
        "import sys, rnnlab.bench.worker, rnnlab.bench.contenders.torch_nn\n"
        "assert not {'jax', 'torch'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


# Comparison


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", ["lstm", *(pytest.param(c, marks=pytest.mark.slow) for c in ("rnn", "gru", "ugrnn"))]
)
def test_contenders_agree_in_logits_loss_and_every_gradient(here, cell):
    report = output.Report("-", {"machine": machine.facts(threads=1, memory="stock")})
    libraries = ["rnnlab", "rnnlab-plain", "flax"] + ["torch"] * HAS_TORCH
    with measure.open_team(report, threads=1, retain=False) as crew:
        case = TINY._replace(cell=cell, layers=1 + (cell == "lstm"))
        fine = measure.verified(crew, case, libraries)
        assert list(fine) == (libraries if cell != "ugrnn" else libraries[:2])
        assert max(agreed.difference for agreed in fine.values()) < 1e-5
        assert all(agreed.first > 0 for agreed in fine.values())
        reference = crew.workers["rnnlab-plain"].contender
        found = crew.ask("rnnlab", "check") | crew.ask("rnnlab", "trained")
        names = set(reference.compare(library="rnnlab", found=found))
        assert {"logits", "loss"} <= names
        last = f"layers.{case.layers - 1}"
        leaves = [f"{last}.{n}" for n in ("kernel_x", "kernel_h", "bias")] + ["readout.kernel"]
        for tree in ("grads", "weights", "moment"):
            assert {f"{tree}.{leaf}" for leaf in leaves} <= names
        # The biases are no zeros, or a gate out of place could hide.
        assert np.ptp(reference.weights["layers"][0]["bias"]) > 0.05
        if "torch" in fine:
            found = crew.ask("torch", "check")
            assert "grads.layers.0.bias_h" in reference.compare(library="torch", found=found)


def test_plain_is_plain_and_rnnlab_is_not():
    def program(path):
        net = make_model(TINY, path)
        loss = lambda params: net.apply(params, net.carry(3), draw_tokens(TINY)[0])[1].sum()  # noqa: E731
        return str(jax.make_jaxpr(loss)(net.init(jax.random.key(0))))

    assert "rnn_scan" not in program("plain")
    assert "rnn_scan" in program("auto")


@pytest.fixture(scope="module")
def answers():
    """What the workers of the reference, rnnlab and Flax answer, and the reference itself."""
    case = TINY._replace(cell="rnn", layers=1)
    reference = Own(threads=1, path="plain")
    reference.reference(case=case)
    found = {}
    for library, contender in {
        "rnnlab": Own(threads=1, path="auto"),
        "flax": Flax(threads=1),
    }.items():
        contender.setup(case=case, weights=reference.exported(library=library))
        found[library] = contender.check()
        contender.times(steps=1)
        found[library] |= contender.trained()
    return case, reference, found


def scaled(path, factor):
    def lie(found):
        *way, last = path
        for key in way:
            found = found[key]
        found[last] = np.array(found[last]) * factor

    return lie


def unclipped(found):
    """Adam forgets the length of a gradient, its moments do not."""
    found["moment"] = jax.tree.map(lambda leaf: leaf * 3, found["moment"])


def twice(found):
    """The weights after a step twice as long."""
    after, shape = jax.tree.flatten(found["weights"])
    before = jax.tree.leaves(found.pop("before"))
    twice = [2 * a - b for a, b in zip(after, before, strict=True)]
    found["weights"] = jax.tree.unflatten(shape, twice)


def turned(found):
    kernel = found["grads"]["layers"][0]
    kernel["dense_h" if "dense_h" in kernel else "kernel_h"] = (
        {"kernel": kernel["dense_h"]["kernel"].T} if "dense_h" in kernel else kernel["kernel_h"].T
    )


@pytest.mark.parametrize("library", ["flax", "rnnlab"])
@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (scaled(["grads", "readout", "kernel"], 1.002), "readout.kernel"),
        (scaled(["grads", "readout", "bias"], [1, 1, np.nan, 1, 1, 1, 1]), "readout.bias"),
        (scaled(["loss"], 1.1), "loss"),
        (scaled(["logits"], -1.0), "logits"),
        (lambda found: found.update(logits=found["logits"][1:]), "logits"),
        (lambda found: found["grads"]["readout"].pop("bias"), "readout.bias"),
        (turned, "layers.0.kernel_h"),
        (unclipped, "moment."),
        (twice, "weights."),
    ],
)
def test_what_computes_something_else_is_refused(answers, library, lie, said):
    case, reference, found = answers
    told = copy.deepcopy(found[library])
    if lie is twice:
        told["before"] = reference.exported(library=library)
    lie(told)

    class Told(measure.Team):
        def attempt(self, name, action):
            class One:
                def ask(self, request, /, **arguments):
                    if name == "rnnlab-plain" and request != "reference":
                        return getattr(reference, request)(**arguments)
                    return {"check": told, "times": [1.0], "trained": {}}.get(request)

            self.workers[name] = One()
            return action(self.workers[name])

    report = output.Report("-", {"machine": machine.facts(threads=1, memory="stock")})
    crew = Told(report, threads=1, retain=False)
    assert measure.verified(crew, case, [library]) == {}
    (line,) = report.content["notes"]
    assert line.startswith(f"{library}: refused")
    assert re.search(rf"{re.escape(said)}\S* differs", line)
    assert "1e-03" in line
    assert report.failed == (library == "rnnlab")
    told = found[library]  # the truth
    assert measure.verified(crew, case, [library])[library].difference < 1e-5


@pytest.mark.slow
def test_a_refused_contender_is_in_no_table(here, capsys):
    here.lies["rnnlab", "check"] = lambda found: found | {"loss": found["loss"] + 1}
    code, found, error = ran(capsys, "--cells=rnn", "--libraries=rnnlab,rnnlab-plain", *FLAGS)
    assert [row["library"] for row in found["tables"][0]["rows"]] == ["rnnlab-plain"]
    assert found["notes"][-1] in error  # a person sees it too
    assert code == 1
    assert error.splitlines()[-1].startswith("rnnlab: rnnlab itself failed")


# Counting and reckoning


def products(jaxpr):
    """Floating-point operations of the matrix products in a jaxpr, loops counted in full."""
    total = 0
    for equation in jaxpr.eqns:
        axes = {"dot_general": "dimension_numbers", "precise_dot_general": "axes"}
        if name := axes.get(equation.primitive.name):
            ((contracted, _), _) = equation.params[name]
            left = equation.invars[0].aval.shape
            depth = int(np.prod([left[axis] for axis in contracted]))
            total += 2 * depth * int(np.prod(equation.outvars[0].aval.shape))
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += turns * products(inner)
    return total


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "ugrnn"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_formula_counts_the_products_of_a_train_step(cell, layers):
    case = TINY._replace(cell=cell, layers=layers)
    net = make_model(case, "plain")
    inputs, targets = draw_tokens(case)

    def loss(params):
        _, logits = net.apply(params, net.carry(case.batch), inputs)
        total, count = metrics.sums(("loss",), logits, targets)["loss"]
        return total / count

    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(net.init(jax.random.key(0)))
    assert flops(case) == products(jaxpr.jaxpr)


def test_the_formula_by_hand():
    # 3 x 512, batch 64, 128 steps: 5 kernels of 512 x 2048 and a readout of 512 x 65, 8192 tokens.
    case = Case("lstm", 3, 512, 64, 128, 65)
    assert flops(case) == 6 * 8192 * (5 * 512 * 2048 + 512 * 65)
    assert case.shape == "3x512xB64xT128"


def test_ratios_are_taken_within_a_round():
    # The machine is ten times slower in the second round: the ratio does not see it.
    rounds = {"a": [[1.0, 1.0], [10.0]], "b": [[2.0], [20.0, 20.0]]}
    assert measure.speedup(rounds, "a", "b") == 2.0
    assert measure.speedup(rounds, "b", "a") == 0.5
    assert measure.speedup(rounds, "a", "c") is None
    assert measure.quartiles([[1.0, 2.0], [3.0, 4.0, 5.0]]) == (3.0, 2.0, 4.0)
    assert measure.quartiles([[7.0]]) == (7.0, 7.0, 7.0)


def test_a_library_is_asked_only_for_what_it_does():
    for suite, library in (("step", "torch-compile"), ("generation", "flax")):
        with pytest.raises(UsageError, match=f"no '{library}'"):
            suites.options_for(suite, {"libraries": library})


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 4, 7])
def test_each_step_is_timed_from_end_to_end(ahead, steps, monkeypatch):
    """On a clock of its own: step k takes k + 1 seconds, a dispatch a hundredth."""

    class Clocked(Contender):
        now, done, begun = 0.0, 0.0, 0

        def step(self):
            before, self.now = self.done, self.now + 0.01
            self.begun += 1
            self.done = max(self.now, self.done) + self.begun
            self.now = max(self.now, before) if ahead else self.done

        def settle(self):
            self.now = max(self.now, self.done)

    one = Clocked()
    one.ahead = ahead
    monkeypatch.setattr("time.perf_counter", lambda: one.now)
    first = 1 if steps < 4 else 2  # the one that goes before them
    found = one.times(steps=steps)
    assert found == pytest.approx(np.arange(first, first + steps), abs=0.02)
    assert one.now == one.done  # nothing is under way when another's turn comes


def test_a_slow_and_a_fast_contender_get_as_many_rounds():
    steps, rounds = measure.plan_rounds({"fast": 0.01, "slow": 2.0}, 10.0)
    assert steps == {"fast": 50, "slow": 1}
    assert rounds == 5
    assert measure.plan_rounds({"slow": 9.0}, 1.0) == ({"slow": 1}, measure.ROUNDS)


def test_turns_rotate_and_a_dead_contender_drops_out():
    asked = []

    class Crew:
        def ask(self, library, request, /, **arguments):
            asked.append(library)
            return None if len(asked) == 4 else [1.0]

    found = measure.time_in_turns(Crew(), {"a": {}, "b": {}, "c": {}}, "times", 3)  # type: ignore
    assert asked == ["a", "b", "c", "b", "c", "a", "a", "c"]
    assert found == {"a": [[1.0]] * 3, "c": [[1.0]] * 3}


def test_fields_of_a_table():
    shown = [0.0, 1234.5, 99.95, 1.0, 0.01234, 2e-7, float("inf"), None, 3, "x"]
    assert [output.format_field(value) for value in shown] == [
        "0", "1,234", "100.0", "1.00", "0.0123", "2.0e-07", "inf", "", "3", "x"
    ]  # fmt: skip
    assert output.to_markdown([{"a": 1, "b": None}]) == "| a | b |\n| --- | --- |\n| 1 |  |"


# The other suites


@pytest.mark.slow
def test_scaling(here, capsys):
    code, found, _ = ran(
        capsys,
        "scaling",
        "--cells=rnn",
        "--hidden=4",
        "--batch=2",
        "--max_time=64",
        "--seconds=0.01",
    )
    assert code == 0
    by_time, by_batch = (table["rows"] for table in found["tables"])
    assert [row["shape"] for row in by_time] == ["1x4xB2xT64"]
    assert [row["shape"] for row in by_batch] == ["1x4xB2xT256"]
    for row in by_time + by_batch:
        steps = int(row["shape"].rpartition("T")[2])
        assert row["us a time step"] == pytest.approx(row["ms a step"] * 1e3 / steps)


@pytest.mark.slow
def test_memory_says_what_it_did_not_run(here, capsys, monkeypatch):
    available = iter([1 << 10, 1 << 40])
    monkeypatch.setattr(machine, "available_memory", lambda: next(available))
    code, found, _ = ran(
        capsys, "memory", "--cells=rnn", "--hidden=16", "--batch=4", "--max_time=64"
    )
    assert code == 0
    kept, rematerialised = found["tables"][0]["rows"]
    assert (kept["remat"], rematerialised["remat"]) == ("no", "yes")
    assert kept["XLA's buffer, GiB"] > rematerialised["XLA's buffer, GiB"] > 0
    assert kept["peak, GiB"] == "not run: over 0.0 GiB"
    assert kept["ms a step"] is None
    assert rematerialised["peak, GiB"] >= rematerialised["before the step, GiB"]
    assert rematerialised["ms a step"] > 0


@pytest.mark.slow
def test_generation(here, capsys):
    libraries = "rnnlab,torch" if HAS_TORCH else "rnnlab"
    code, found, _ = ran(
        capsys, "generation", f"--libraries={libraries}", "--cells=gru", "--layers=1", "--hidden=8",
        "--length=6", "--batch=3", "--seconds=0.01",
    )  # fmt: skip
    assert code == 0
    rows = found["tables"][0]["rows"]
    assert [(row["library"], row["batch"]) for row in rows] == [
        (library, 3) for library in libraries.split(",")
    ]
    assert all(row["quartile 1"] <= row["characters/s"] <= row["quartile 3"] for row in rows)


@pytest.mark.slow
def test_startup(capsys):
    code, found, _ = ran(capsys, "startup", "--repeats=1")
    assert code == 0
    cold, warm = found["tables"][0]["rows"]
    assert (cold["compilation cache"], warm["compilation cache"]) == ("cold", "warm")
    assert warm["seconds to the first step"] > 0


@pytest.mark.slow
def test_sweep(capsys):
    code, found, _ = ran(capsys, "sweep", "--members=2", "--hidden=8", "--steps=3")
    assert code == 0
    rows = found["tables"][0]["rows"]
    assert [row["members"] for row in rows] == ["one after the other", "local", "vmap"]
    assert rows[0]["of one by one"] == 1.0
    assert all(row["seconds"] > 0 for row in rows)


# Flags


def test_a_library_that_is_not_installed_is_one_line(here, capsys, monkeypatch):
    monkeypatch.setattr(suites, "installed", lambda library: library != "torch")
    code, found, _ = ran(capsys, "--cells=rnn", "--libraries=rnnlab,torch", *FLAGS)
    assert code == 0
    assert next(note for note in found["notes"] if "not installed" in note).startswith("torch: ")
    assert [row["library"] for row in found["tables"][0]["rows"]] == ["rnnlab"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speed"], "there is no suite 'speed'"),
        (["--cells=lstm,lstn"], "no 'lstn'"),
        (["--cells="], "--cells"),
        (["--libraries=keras"], "no 'keras'"),
        (["--shapes=3x512"], "--shapes"),
        (["--shapes=0x512xB1xT1"], "--shapes"),
        (["--memory=plenty"], "--memory"),
        (["--seconds=0"], "--seconds"),
        (["--seconds=nan"], "--seconds"),
        (["--threads=0"], "--threads"),
        (["--hidden=4"], "bench step takes no --hidden"),
        (["memory", "--libraries=rnnlab"], "bench memory takes no --libraries"),
        (["memory", "--batch=1,none"], "--batch"),
        (["startup", "--repeats=-1"], "--repeats"),
        (["--json", "memory"], "--json last"),
        (["--cells=ugrnn", "--libraries=flax,torch"], "nothing to measure: none of flax, torch"),
    ],
)
def test_a_bad_flag_is_one_line(arguments, said, capsys):
    assert launch.main(["bench", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_file_that_cannot_be_written_is_known_at_once(tmp_path, capsys):
    assert launch.main(["bench", f"--json={tmp_path / 'none' / 'file'}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_flag_of_the_launcher_belongs_to_a_suite():
    flags = {name for name, *_ in verbs.BENCH_FLAGS}
    known = {name for suite in suites.SUITES.values() for name in suite.defaults}
    assert flags == known | {"threads"}
    for suite in suites.SUITES:
        suites.options_for(suite, {})
    with pytest.raises(UsageError, match="greater than 0"):
        suites.options_for("step", {"vocabulary": 0})
