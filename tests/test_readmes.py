"""What the READMEs say that can be checked: links, files, modules, verbs, commands, code, sizes."""

import ast
import contextlib
import io
import re
import types

import jax
import numpy as np
import pytest

import launch
from rnnlab import cells
from rnnlab.recurrence.unrolling import unroll
from rnnlab.run import command
from tests.support import ROOT

TOP = ROOT / "README.md"
READMES = [
    TOP,
    *sorted(p for f in ("rnnlab", "experiments", "tests") for p in (ROOT / f).rglob("README.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in READMES]
PACKAGES = sorted(path.parent.name for path in (ROOT / "rnnlab").glob("*/__init__.py"))
# Files that a README tells the reader to make.
THEIRS = {"rnnlab/tasks/modulo.py", "rnnlab/cells/mine.py", "experiments/mine.py"}

every_readme = pytest.mark.parametrize("name", NAMES)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def code(text):
    """The fenced blocks of a README and the `code` in its lines."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.S | re.M)
    return fenced, re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def anchors(text):
    """The anchors that GitHub gives to the headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def there(path, name):
    """Whether a README's file is there, seen from its folder or from the root."""
    return (ROOT / name).parent.joinpath(path).exists() or (ROOT / path).exists()


@every_readme
def test_links_lead_to_files_and_headings(name):
    text = read(name)
    for target in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    ):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        full = (ROOT / name).parent / path if path else ROOT / name
        assert full.resolve().is_relative_to(ROOT), target
        assert full.exists(), target
        if anchor:
            assert anchor in anchors(full.read_text(encoding="utf-8")), target


@every_readme
def test_files_that_are_named_are_there(name):
    fenced, inline = code(read(name))
    for text in (*fenced, *inline):
        # An upper-case name is the reader's: NAME.py, FILE, TASK/figure.py.
        for path in re.findall(r"(?<![\w./{*-])[a-z_][\w./-]*\.(?:py|ipynb|toml)\b", text):
            if path not in THEIRS and not re.search(r"[A-Z]{4}", path):
                assert there(path, name), path
    for text in inline:
        if re.fullmatch(r"(rnnlab|experiments|tests)/[a-z_/]*", text):
            assert there(text, name), text


def defined(module):
    """The names at the top level of a module, the fields of its classes left out."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@every_readme
def test_modules_that_are_named_are_there(name):
    fenced, inline = code(read(name))
    for dotted in re.findall(r"\brnnlab(?:\.\w+)+", "\n".join((*fenced, *inline))):
        place, rest = ROOT / "rnnlab", dotted.split(".")[1:]
        while rest and (place / rest[0]).is_dir():
            place /= rest.pop(0)
        if rest and (place / f"{rest[0]}.py").exists():
            module = place / f"{rest.pop(0)}.py"
        else:
            module = place / "__init__.py"
        if rest:
            public = defined(module) | set(
                re.findall(r'"(\w+)"', module.read_text(encoding="utf-8"))
            )
            assert rest[0] in public, dotted


def printed(*arguments):
    """What the launcher prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        launch.main([*arguments])
    return out.getvalue()


@pytest.fixture(scope="module")
def verbs():
    """verb -> its --help, of the launcher."""
    listed = printed("--help").partition("VERB\n")[2].partition("\n\n")[0]
    names = re.findall(r"^ {4}(\w+)", listed, re.M)
    return {name: printed(name, "--help") for name in names}


def commands(text):
    """The commands `python launch.py VERB ...` that a README shows, each as (verb, flags)."""
    fenced, inline = code(re.sub(r"\\\n", " ", text))
    lines = [line.partition("  #")[0] for block in fenced for line in block.splitlines()]
    for line in (*lines, *inline):
        for part in line.split("&&"):
            if found := re.search(r"launch\.py ([a-z]\w*)(.*)", part):
                yield found[1], re.findall(r"--(?!config\.)(\w+)", found[2])


@every_readme
def test_commands_are_the_launchers(name, verbs):
    for verb, flags in commands(read(name)):
        assert verb in verbs, verb
        for flag in flags:
            assert re.search(rf"--{flag}\b", verbs[verb]), f"{verb} --{flag}"


def example(name, heading):
    """The names that the first Python block below a heading defines."""
    text = read(name).partition(f"\n{heading}\n")[2]
    found = {"__name__": "example"}
    exec(re.search(r"^```python\n(.*?)^```", text, re.S | re.M)[1], found)
    return found


def test_the_cell_of_the_architecture_is_a_cell():
    mine, known = example("rnnlab/README.md", "### A cell")["make_cell"], cells.get
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (5, 2, 3))
    found, expected = (
        unroll(cell, cell.init(key, 3), x)[1] for cell in (mine(hidden=4), known("ugrnn", hidden=4))
    )
    np.testing.assert_array_equal(found, expected)


def test_the_verb_of_the_architecture_is_a_verb(tmp_path, capsys):
    verb = example("rnnlab/README.md", "### A verb")["SIZE"]
    (tmp_path / "config.json").write_text("{}")
    program = launch.PROGRAM._replace(verbs=(verb,), prepare=lambda: None)
    assert command.main(program, ["size", f"--workdir={tmp_path}"]) == 0
    assert capsys.readouterr().out == "2 bytes\n"


def test_the_section_of_the_architecture_is_a_section(tmp_path):
    section = example("rnnlab/README.md", "### A section of the diagnosis")["SECTION"]
    subject = types.SimpleNamespace(params={"kernel": np.full((2, 3), -2.0, np.float32)})
    found = section.examine(subject, tmp_path)
    assert (section.title, found.sentences) == ("Size of the weights", ["['kernel']: 2."])


def test_the_first_page_is_one_screen():
    assert len(TOP.read_bytes()) <= 8192


def test_the_first_page_lists_every_verb(verbs):
    section = re.search(r"^## Verbs\n(.*?)^## ", read("README.md"), re.S | re.M)
    assert section
    assert {verb for verb, _ in commands(section[1])} == set(verbs)


def test_the_first_page_names_every_package():
    section = re.search(r"^## Packages\n(.*?)^## ", read("README.md"), re.S | re.M)
    assert section
    named = re.findall(r"\]\(rnnlab/(\w+)/(?:__init__.py|README.md)?\)", section[1])
    assert sorted(named) == PACKAGES


@every_readme
def test_every_readme_is_linked_to(name):
    if name == "README.md":
        return
    target = (ROOT / name).resolve()
    for other in NAMES:
        links = re.findall(r"\]\(([^)#\s]+)", read(other))
        if other != name and any(
            (ROOT / other).parent.joinpath(t).resolve() == target for t in links
        ):
            return
    raise AssertionError(f"no README links to {name}")
