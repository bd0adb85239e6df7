"""The shape of the code base, as its architecture promises it."""

import ast
import re
from pathlib import Path

import pytest

from rnnlab import config as configuration

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rnnlab"

# A module may import those of the rows above its own; a package's name stands for all in it.
LAYERS = (
    ("types", "machine", "slurm_task", "solved"),
    ("archives", "draws", "optional"),
    (
        *("audio", "morse", "ctc", "media", "scenes", "moving", "mot", "words", "dates", "latex"),
        *("initialisers", "vocabulary", "cache", "config", "display", "host", "plots", "leaves"),
        *("parallel", "precision", "search", "labels", "page", "gallery", "ranking", "ngrams"),
    ),
    (
        "parts",
        "primitive",
        "taps",
        "decoding",
        "encoders",
        "flickr",
        "ucf",
        "task_figures",
        "runfolder",
    ),
    ("bptt", "cudnn", "saturation", "dynamics", "serialise"),
    (
        *("cells", "unroll", "data", "corpora", "optim", "metrics", "checkpoint"),
        "fixed_points",
    ),
    ("model", "sample", "interop", "initialisation", "reading"),
    ("omega", "seen", "diagnostics", "sequences", "examples", "decoder"),
    ("tasks", "step", "dynamics_figures"),
    ("record", "memory"),
    ("diagnosis_figures", "train"),
    ("sections",),
    ("layer_sections",),
    ("population", "diagnose", "latex_report", "doctor"),
    ("sweep",),
    ("report", "slurm"),
    ("executors", "flows"),
    ("contenders",),
    ("worker",),
    ("measure",),
    ("bench",),
    ("launch",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Narrower than the rows say.
ONLY = {"interop": {"types", "cells", "unroll"}}


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


def layer(name):
    """rnnlab.cells.lstm belongs to cells."""
    return name.removeprefix("rnnlab").strip(".").partition(".")[0]


@every_module
def test_imports_flow_one_way(name):
    own = layer(name)
    if not own:  # the package itself: importing it must cost nothing
        assert imported(name, TREES[name]) == set()
        return
    assert own in LEVEL, f"{name} is new: give it a place in LAYERS"
    for other in imported(name, TREES[name]):
        root = other.partition(".")[0]
        assert root not in ("experiments", "tests", "launch"), f"{name} imports {other}"
        if root != "rnnlab" or layer(other) in ("", own):
            continue
        assert LEVEL[layer(other)] < LEVEL[own], f"{name} imports {other}"
        assert layer(other) in ONLY.get(own, LEVEL), f"{name} imports {other}"


def test_the_check_of_imports_sees_them():
    found = imported("rnnlab.train", TREES["rnnlab.train"])
    assert {"rnnlab.checkpoint", "rnnlab.step", "rnnlab.types", "jax"} <= found
    code = "from . import a\nfrom .types import X\nfrom ..data import y\ndef f():\n    import rnnlab.z\n"
    found = imported("rnnlab.tasks.language_model", ast.parse(code))
    assert found == {"rnnlab.tasks", "rnnlab.tasks.types", "rnnlab.data", "rnnlab.z"}


@every_module
def test_a_cell_knows_no_task_and_no_other_cell(name):
    if layer(name) in ("cells", "tasks") and SOURCES[name].name != "__init__.py":
        siblings = {n for n in SOURCES if layer(n) in ("cells", "tasks")} - {name, "rnnlab.cells"}
        assert not imported(name, TREES[name]) & siblings


@every_module
def test_what_is_public_is_documented(name):
    tree, own = TREES[name], layer(name)
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
    assert len(SOURCES[name].read_text(encoding="utf-8").splitlines()) <= 650


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
    configuration.validate(config)
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
