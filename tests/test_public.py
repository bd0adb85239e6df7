"""What `import rnnlab` offers: every name there, documented, and imported when it is first used."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rnnlab

TREE = ast.parse(Path(rnnlab.__file__).read_text(encoding="utf-8"))
NAMES = [name for name in rnnlab.__all__ if name != "__version__"]


def child(code):
    """What a process of its own prints."""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def test_importing_costs_nothing_and_imports_no_jax():
    code = """
import sys, time
before = set(sys.modules)
began = time.process_time()
import rnnlab
seconds = time.process_time() - began
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(seconds < 0.1, sorted(new - set(sys.stdlib_module_names)))
"""
    assert child(code) == "True ['rnnlab']"


def test_a_name_is_imported_when_it_is_used():
    code = """
import sys
import rnnlab
rnnlab.UsageError, rnnlab.__version__
print("jax" in sys.modules, "rnnlab.cells" in sys.modules)
rnnlab.cell
print("jax" in sys.modules, "rnnlab.cells" in sys.modules, "rnnlab.train" in sys.modules)
"""
    assert child(code).split("\n") == ["False False", "True True False"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(rnnlab, name)
    assert callable(found)
    assert (inspect.getdoc(found) or "").strip()
    assert name in (rnnlab.__doc__ or "").split()
    assert name in dir(rnnlab)
    assert getattr(rnnlab, name) is found


def test_a_type_checker_is_told_the_same():
    told = {}
    for node in TREE.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                told |= {a.asname or a.name: (line.module, a.name) for a in line.names}
    assert told == rnnlab._HOMES
    assert set(told) == set(NAMES)
    assert rnnlab.__all__ == sorted(rnnlab.__all__)


def test_no_public_name_is_that_of_a_package():
    packages = {module.name for module in pkgutil.iter_modules(rnnlab.__path__)}
    assert not packages & set(NAMES)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'rnnlab' has no attribute 'cel'"):
        rnnlab.cel  # noqa: B018
    with pytest.raises(ImportError):
        from rnnlab import no_such_name  # noqa: F401
