"""The shape of the code base, as its architecture promises it."""

import ast
import re
import sys
from pathlib import Path

import pytest

from rnnlab.run import config as configuration
from rnnlab.run.limits import validate
from tests.support import ROOT

PACKAGE = ROOT / "rnnlab"

# A file imports siblings of its own package and packages of lower rows, never one of its own row.
ROWS = (
    ("types", "errors"),
    ("cells", "recurrence", "data", "run"),
    ("models",),
    ("tasks",),
    ("train",),
    ("sweep", "bench"),
    ("diagnose",),
    ("__main__",),
    ("launch",),
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
REGISTRIES = ("cells", "tasks")  # the two packages whose __init__ is more than a docstring


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES["launch"] = ROOT / "launch.py"
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
EXPERIMENTS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")

every_module = pytest.mark.parametrize("name", SOURCES)
every_experiment = pytest.mark.parametrize("name", EXPERIMENTS)


def imported(name, tree):
    """The full names of the modules that a module imports, at the top or inside a function."""
    found = set()
    package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found |= {full if full in SOURCES else base for full in whole}
    return found


def package(name):
    """rnnlab.cells.lstm belongs to cells; launch to launch."""
    return name.removeprefix("rnnlab").strip(".").partition(".")[0]


@every_module
def test_imports_flow_downwards(name):
    own = package(name)
    if not own:  # rnnlab itself: importing it must cost nothing
        lazy = [n for n in TREES[name].body if not isinstance(n, ast.If)]  # `if TYPE_CHECKING:`
        assert imported(name, ast.Module(lazy, [])) <= {"importlib", "typing"}
        return
    assert own in ROW, f"{own} is new: give it a place in ROWS"
    for other in imported(name, TREES[name]):
        root = other.partition(".")[0]
        assert root not in ("experiments", "tests", "launch"), f"{name} imports {other}"
        if root != "rnnlab" or package(other) in ("", own):
            continue
        assert ROW[package(other)] < ROW[own], f"{name} imports {other}"


def test_errors_are_told_without_jax():
    roots = {n.partition(".")[0] for n in imported("rnnlab.errors", TREES["rnnlab.errors"])}
    assert roots <= sys.stdlib_module_names


@every_module
def test_no_private_name_leaves_its_package(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rnnlab"):
            if package(node.module) == package(name):
                continue
            private = [alias.name for alias in node.names if re.match("_[^_]", alias.name)]
            assert not private, f"{name} imports {private} of {node.module}"


@every_module
def test_the_init_of_a_package_is_a_docstring(name):
    if SOURCES[name].name == "__init__.py" and package(name) not in ("", *REGISTRIES):
        assert len(TREES[name].body) == 1, f"{name} is for a docstring alone"


def test_the_check_of_imports_sees_them():
    found = imported("rnnlab.train.session", TREES["rnnlab.train.session"])
    assert {"rnnlab.run.arrays", "rnnlab.train.loop", "rnnlab.types", "jax"} <= found
    code = "from . import a\nfrom .types import X\nfrom ..data import y\ndef f():\n    import rnnlab.z\n"
    found = imported("rnnlab.tasks.dyck", ast.parse(code))
    assert found == {"rnnlab.tasks", "rnnlab.tasks.types", "rnnlab.data", "rnnlab.z"}


def unit(name):
    """The cell or task that a module belongs to: "rnnlab.tasks.speech" of rnnlab.tasks.speech.ctc."""
    return ".".join(name.split(".")[:3])


@every_module
def test_a_cell_knows_no_task_and_no_other_cell(name):
    shared = ("rnnlab.cells.parts", "rnnlab.tasks.kinds", "rnnlab.tasks.metrics")
    if package(name) in REGISTRIES and unit(name).count(".") == 2 and unit(name) not in shared:
        others = {unit(n) for n in imported(name, TREES[name]) if package(n) in REGISTRIES}
        known = {unit(name), *shared, "rnnlab.cells", "rnnlab.tasks"}
        assert others <= known, f"{name} imports {others - known}"


@every_module
def test_what_is_public_is_documented(name):
    tree, own = TREES[name], package(name)
    assert ast.get_docstring(tree)
    if name == "launch":
        return
    for node in tree.body:
        # A cell's Carry is its fields, which the cell's docstring explains.
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not (
            node.name.startswith("_") or (own == "cells" and node.name == "Carry")
        ):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@every_module
def test_a_file_can_be_held_in_the_head(name):
    longest = 420 if name == "rnnlab.diagnose.page" else 400  # that one is a page of HTML
    assert len(SOURCES[name].read_text(encoding="utf-8").splitlines()) <= longest


def test_nothing_depends_on_where_the_checkout_lies():
    # Neither a path that leaves the repository nor one that only some machines have.
    outside = re.compile(r"(^|[^\w./])\.\./|(^|[\s'\"(=])/(home|root|work|mnt|data|srv|Users)/")
    assert outside.search("see ../elsewhere")
    assert outside.search("/" + "home/me")
    assert not outside.search("a .../b, https://x.org/data/y and c/../d")
    files = [p for f in ("rnnlab", "experiments", "tests") for p in (ROOT / f).rglob("*.py")]
    for path in [*files, ROOT / "launch.py"]:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not outside.search(line), f"{path.name}:{number}: {line.strip()}"


# The experiments


@pytest.fixture
def load(monkeypatch):
    """As the launcher loads them: from the repository's root, which is on sys.path."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: configuration.load(f"experiments/{name}.py", [])


def base_of(task):
    """The experiment that explains the keys of a task."""
    if task == "language_model":
        return "default"
    return (
        task if task in EXPERIMENTS and task != "adding" and task != "temporal_order" else "memory"
    )


@every_experiment
def test_an_experiment_differs_from_the_default_in_values_alone(name, load):
    config, default = load(name), load("default")
    validate(config)
    own = configuration.flat(config)
    parts = ("data", "eval", "sample", "encoder", "decoder")
    of_task = [key for key in own if key.partition(".")[0] in parts]
    # What a task reads and shows has keys of its own: those of the experiment that explains them.
    base = load(base_of(config.task))
    assert [key for key in configuration.flat(base) if key in of_task] == of_task
    rest = [key for key in own if key not in of_task]
    assert [key for key in configuration.flat(default) if key in rest] == rest
    assert own.keys() == configuration.flat(base).keys()
    changed = configuration.difference(default, config)
    assert bool(changed) == (name != "default")
    for key, (before, after) in changed.items():
        assert before is None or after is None or type(after) is type(before), key
    saved = configuration.from_json(configuration.to_json(config))
    assert configuration.difference(saved, config) == {}


@every_experiment
def test_an_experiment_says_how_it_is_run(name):
    path = ROOT / "experiments" / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = " ".join((ast.get_docstring(tree) or "").split()) + " "
    sweeps = any(isinstance(node, ast.FunctionDef) and node.name == "sweep" for node in tree.body)
    verb = "sweep" if sweeps else "train"
    assert f" python launch.py {verb} --config=experiments/{name}.py " in words
