"""What a config file may import, be asked for, and give; and what is told of one that fails."""

import enum
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run import config_file

HEAD = """\
import enum
import os
import pathlib
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder, required_placeholder


class Level(enum.Enum):
    CHAR = "char"


class Empty(enum.Enum):
    NONE = object()


"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder, which is not that of the config files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def written(folder, body, head=HEAD, name="mine.py"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(head + body)
    return path


def values(path, *overrides):
    return configuration.flat(configuration.load(path, overrides))


def refused(path, *overrides):
    with pytest.raises(UsageError) as error:
        configuration.load(path, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


# ---- imports


def neighbours(folder, value, name="mine_base"):
    """A folder with a config file that starts from the file beside it."""
    base = f"from ml_collections import ConfigDict\nVALUE = {value}\n"
    base += "def get_config():\n    return ConfigDict({'value': VALUE})\n"
    written(folder, base, "", f"{name}.py")
    return written(folder, f"import {name}\nget_config = {name}.get_config\n", "")


def test_a_config_imports_its_neighbour(folder):
    assert values(neighbours(folder / "a", 1)) == {"value": 1}


@pytest.mark.parametrize("name", ["mine_base", "default", "base", "common", "tests"])
def test_two_folders_have_neighbours_of_one_name(folder, name):
    before, modules = [*sys.path], dict(sys.modules)
    first, second = (neighbours(folder / part, v, name) for part, v in (("a", 1), ("b", 2)))
    for path, value in ((first, 1), (second, 2), (first, 1)):
        assert values(path) == {"value": value}
    assert sys.path == before
    assert not any(isinstance(f, config_file._Finder) for f in sys.meta_path)
    assert all(sys.modules[n] is m for n, m in modules.items() if "config_mine" not in n)
    assert name in modules or name not in sys.modules


def test_a_name_that_the_caller_has_imported_stays_the_callers(folder, monkeypatch):
    other = neighbours(folder / "notebook", 7)
    monkeypatch.syspath_prepend(str(other.parent))
    import mine_base  # type: ignore

    try:
        assert values(neighbours(folder / "a", 1)) == {"value": 1}
        assert sys.modules["mine_base"] is mine_base
    finally:
        del sys.modules["mine_base"]


def test_a_folder_is_found_by_its_name_wherever_it_lies(folder):
    for part, value in (("a", 1), ("b", 2)):
        place = folder / part / "recipes"
        place.parent.mkdir()
        neighbours(place, value)
        path = written(
            place, "from recipes import mine_base\nget_config = mine_base.get_config\n", ""
        )
        assert values(path) == {"value": value}


def test_what_get_config_imports_is_the_neighbour_too(folder):
    path = neighbours(folder / "a", 1)
    body = "def get_config():\n    import mine_base\n    from mine_base import get_config as base\n"
    path.write_text(body + "    mine_base.VALUE += 1\n    return base()\n")
    assert values(path) == {"value": 2}


def test_a_neighbour_never_hides_what_is_installed(folder):
    path = written(folder / "a", "import json, jax\nget_config = 3\n", "")
    for name in ("json", "jax", "ml_collections", "rnnlab"):
        (path.parent / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    assert "get_config() must return" in refused(path)


def test_the_line_of_a_neighbour_that_fails_is_told(folder):
    path = neighbours(folder / "a", 1)
    (path.parent / "mine_base.py").write_text("\n\ndef get_config():\n    return 1 / 0\n")
    told = refused(path)
    assert "division by zero (mine_base.py, line 4)" in told
    path.write_text("\nimport mine_base\ndef get_config():\n    return mine_base.get_config()\n")
    assert (
        f"'{path}', line 4: ZeroDivisionError: division by zero (mine_base.py, line 4)"
        in refused(path)
    )


# ---- arguments


def test_file_and_argument(folder):
    body = "def get_config(size):\n    return ConfigDict({'size': size})\n"
    path = written(folder / "a", body)
    for argument in ("small", "a:b", "x/y.py", ""):
        assert values(f"{path}:{argument}") == {"size": argument}
    assert values(f"{path}:small", "size=large") == {"size": "large"}
    told = refused(path)
    assert told.startswith(f"config file '{path}': TypeError: get_config() missing 1 required")
    assert told.endswith("give it one by --config=FILE:ARGUMENT")
    assert "does not exist" in refused(f"{path.parent / 'none.py'}:small")


def test_an_argument_of_a_config_that_takes_none(folder):
    path = written(folder / "a", "def get_config():\n    return ConfigDict()\n")
    assert "takes 0 positional arguments but 1 was given" in refused(f"{path}:small")
    path.write_text(HEAD + "def get_config(size='x'):\n    return ConfigDict({'size': size})\n")
    assert values(path) == {"size": "x"}
    assert values(f"{path}:y") == {"size": "y"}


def test_a_run_is_called_by_file_and_argument():
    names = {"a/mine.py": "mine", "a/mine.py:small": "mine_small", "mine.py:a/b c": "mine_a-b-c"}
    for path, name in names.items():
        assert config_file.run_name(path) == name


# ---- what get_config gives


@pytest.mark.parametrize(
    ("spelt", "value"),
    [
        ("[1, [2, 'x']]", (1, (2, "x"))),
        ("(1, 2)", (1, 2)),
        ("range(3)", (0, 1, 2)),
        ("pathlib.Path('a') / 'b'", "a/b"),
        ("Level.CHAR", "char"),
        ("np.float64(0.5)", 0.5),
        ("np.int32(3)", 3),
        ("np.bool_(True)", True),
        ("np.array([1, 2])", (1, 2)),
        ("(np.float32(0.5), pathlib.Path('x'))", (0.5, "x")),
        ("None", None),
        ("placeholder(list)", None),
    ],
)
@pytest.mark.parametrize("kind", ["ConfigDict", "FrozenConfigDict"])
def test_values_of_every_kind(folder, kind, spelt, value):
    path = written(
        folder / "a",
        f"def get_config():\n    return {kind}({{'one': {{'key': {spelt}}}, 'n': 1}})\n",
    )
    found = values(path)["one.key"]
    assert (found, type(found)) == (value, type(value))
    assert values(path, "n=2")["n"] == 2
    config = configuration.load(path)
    assert (
        configuration.difference(configuration.from_json(configuration.to_json(config)), config)
        == {}
    )


@pytest.mark.parametrize(
    "spelt", ["object()", "{1, 2}", "b'x'", "1j", "len", "Empty.NONE", "[{}]", "np.float32", "str"]
)
def test_a_value_that_cannot_be_kept_is_refused_with_its_line(folder, spelt):
    body = "def get_config():\n    config = ConfigDict()\n    config.part = ConfigDict()\n"
    path = written(folder / "a", body + f"    config.part.key = {spelt}\n    return config\n")
    line = HEAD.count("\n") + 4
    told = refused(path)
    assert told.startswith(
        f"config file '{path}', line {line}: config key 'part.key' cannot be kept: "
    )


@pytest.mark.parametrize(
    "spelt",
    [
        "FrozenConfigDict({'a': 1, 'b': {'c': 2.0}})",
        "ConfigDict({'a': 1, 'b': FrozenConfigDict({'c': 2.0})})",
        "ConfigDict({'a': 1, 'b': {'c': 2.0}}).lock()",
        "ConfigDict({'a': 1, 'b': {'c': 2.0}}, convert_dict=False)",
    ],
)
def test_configs_of_every_kind_take_overrides(folder, spelt):
    path = written(folder / "a", f"def get_config():\n    return {spelt}\n")
    assert values(path, "a=3", "b.c=4") == {"a": 3, "b.c": 4.0}
    assert "takes a float" in refused(path, "b.c=x")


def test_an_unset_key_of_a_frozen_config_has_no_type_and_takes_what_is_spelt(folder):
    path = written(
        folder / "a",
        "def get_config():\n    return FrozenConfigDict({k: placeholder(float) for k in 'abcd'})\n",
    )
    found = values(path, "a=0.5", "b=torch", "c=(1, 2)", "d=None")
    assert found == {"a": 0.5, "b": "torch", "c": (1, 2), "d": None}


def test_none_is_given_back_to_a_placeholder(folder):
    body = "def get_config():\n    config = ConfigDict()\n"
    for name, kind, value in (("f", "float", 1.0), ("s", "str", "'x'"), ("t", "tuple", (1,))):
        body += f"    config.{name} = placeholder({kind})\n    config.{name} = {value}\n"
    body += "    config.fixed, config.text = 1, 'x'\n    return config\n"
    path = written(folder / "a", body)
    assert values(path)["f"] == 1.0
    found = values(path, "f=None", "s=None", "t=None", "text=None")
    assert found == {"f": None, "s": None, "t": None, "fixed": 1, "text": "None"}
    assert values(path, "f=None", "f=2")["f"] == 2.0
    assert "takes an int, got 'None'" in refused(path, "fixed=None")


def test_a_reference_follows_an_override(folder):
    body = "def get_config():\n    config = ConfigDict({'hidden': 8})\n"
    body += "    config.same = config.get_ref('hidden')\n    config.twice = config.get_ref('hidden') * 2\n"
    path = written(folder / "a", body + "    return config\n")
    assert values(path) == {"hidden": 8, "same": 8, "twice": 16}
    assert values(path, "hidden=24") == {"hidden": 24, "same": 24, "twice": 48}


def test_a_required_key_must_be_given(folder):
    body = "def get_config():\n    return ConfigDict({'a': {'n': required_placeholder(int)}})\n"
    path = written(folder / "a", body)
    assert refused(path) == "config key 'a.n' has no value yet: give --config.a.n=VALUE"
    assert values(path, "a.n=3") == {"a.n": 3}


def test_a_key_that_is_no_text(folder):
    path = written(folder / "a", "def get_config():\n    return ConfigDict({'a': {1: 2}})\n")
    assert "the name of a key is text" in refused(path)


# ---- a config that is handed over


class Size(enum.IntEnum):
    SMALL = 3


def test_a_copy_apart_shares_nothing():
    given = ConfigDict({"a": 1, "unset": placeholder(int), "size": Size.SMALL, "l": [1]})
    given.b = given.get_ref("a")
    copy = configuration.plain_config(given, apart=True)
    assert configuration.flat(copy) == {"a": 1, "b": 1, "unset": None, "size": 3, "l": (1,)}
    assert type(copy.size) is int
    copy.a = 2
    assert (copy.b, given.a, given.b) == (1, 1, 1)
    configuration.assign(copy, "unset", "4")
    assert (copy.unset, given.unset) == (4, None)
    assert configuration.flat(configuration.plain_config(FrozenConfigDict(given)))["a"] == 1


# ---- paths


def test_paths_are_absolute(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    body = "def get_config():\n    config = ConfigDict({'data': {'path': '', 'my_path': 'x', 'glob': '*'}})\n"
    body += "    config.model = ConfigDict({'path': 'auto'})\n    return config\n"
    path, here = written(folder / "a", body), folder / "elsewhere"
    unset = {"data.path": "", "data.my_path": f"{here}/x", "data.glob": "*", "model.path": "auto"}
    assert values(path) == unset
    for given, full in {
        "~/t.txt": folder / "t.txt",
        "t.txt": here / "t.txt",
        os.path.join(os.pardir, "t"): folder / "t",
        "./d/": here / "d",
        str(folder): folder,
    }.items():
        assert values(path, f"data.path={given}")["data.path"] == str(full)
    nobody = "~nobody-of-that-name/x"
    assert values(path, f"data.path={nobody}")["data.path"] == nobody


def test_a_path_object_is_spelt_as_its_text():
    assert configuration.spell(Path("a/b")) == "a/b"
    assert configuration.spell(np.float32(0.5)) == "0.5"
    for value in ((1.0, float("inf")), (-float("inf"), ("x", None, True)), (), (1,)):
        assert configuration.parse("key", configuration.spell(value), tuple) == value
    with pytest.raises(UsageError, match="is no value of a config"):
        configuration.spell({1})
