"""Configs: read from a file, overridden, compared, kept as JSON."""

import json
import math
import os
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from rnnlab.run import config as configuration
from tests.run.configs import BASE, load, refused


def refused_file(text, name="mine.py"):
    Path(name).write_text(text)
    message = refused(configuration.load, name, [])
    assert message.startswith(f"config file '{name}'")
    return message.removeprefix(f"config file '{name}'")


INHERIT = "import base\ndef get_config():\n    config = base.get_config()\n"


# Reading a file


def test_a_config_finds_its_neighbours_from_any_working_folder(folder, monkeypatch):
    neighbours = folder / "recipes"
    neighbours.mkdir()
    (neighbours / "base.py").write_text(BASE)
    inherit = INHERIT.replace("import base", "from recipes import base")
    (neighbours / "mine.py").write_text(inherit + "    return config\n")
    monkeypatch.undo()
    monkeypatch.chdir(neighbours)
    before = [*sys.path]
    for path in ("mine.py", neighbours / "mine.py", os.path.join(os.pardir, "recipes", "mine.py")):
        assert configuration.load(path).name == "one"
    assert sys.path == before


def test_load_gives_the_config_of_the_file(folder):
    config = load()
    assert isinstance(config, ConfigDict)
    assert config.is_locked
    assert (config.seed, config.train.steps, config.cell.preset) == (0, 1, None)
    assert configuration.load(str(folder / "base.py"), []).to_dict() == config.to_dict()


def test_a_file_may_start_from_another_one(folder):
    Path("mine.py").write_text(INHERIT + "    config.optim.clip_norm = 5.0\n    return config\n")
    assert configuration.load("mine.py", ["train.steps=7"]).optim.clip_norm == 5.0
    assert load().optim.clip_norm == 1.0


@pytest.mark.usefixtures("folder")
def test_a_missing_file():
    assert "'none.py' does not exist" in refused(configuration.load, "none.py", [])


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_not_python():
    assert "must end in .py" in refused_file(BASE, "base.txt")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            INHERIT + "    config.optim.clip_nrom = 5.0\n    return config\n",
            ", line 4: unknown config key 'clip_nrom': did you mean 'clip_norm'?",
        ),
        (
            INHERIT + "    config.optim.zzz = 5.0\n    return config\n",
            ", line 4: unknown config key 'zzz'",
        ),
        (INHERIT + "    config.train.steps = 3.5\n    return config\n", ", line 4: TypeError: "),
        (INHERIT + "    config.seed = 'one'\n    return config\n", ", line 4: TypeError: "),
        ("\n\ndef get_config(:\n    pass\n", ", line 3: SyntaxError: "),
        (
            "\ndef get_config():\n    return 1 / 0\n",
            ", line 3: ZeroDivisionError: division by zero",
        ),
        ("\n\nimport no_such_module\n", ", line 3: ModuleNotFoundError: "),
        ("import sys\nsys.exit('done')\n", ", line 2: SystemExit: done"),
        (
            "def get_config():\n    raise ValueError('''two\n  lines''')\n",
            ", line 2: ValueError: two lines",
        ),
        ("def get_config(which):\n    pass\n", ": TypeError: get_config() missing 1 required "),
        ("config = 1\n", " defines no get_config()"),
        (
            "def get_config():\n    return {}\n",
            ", line 1: get_config() must return an ml_collections.ConfigDict, and returns a ",
        ),
        (
            "def get_config():\n    pass\n",
            ", line 1: get_config() must return an ml_collections.ConfigDict, and returns a ",
        ),
        ("get_config = 3\n", ": get_config() must return an ml_collections.ConfigDict"),
    ],
)
def test_a_file_that_fails(text, told):
    assert refused_file(text).startswith(told)


@pytest.mark.usefixtures("folder")
def test_the_line_is_that_of_the_file_itself():
    Path("helper.py").write_text("\n\n\n\ndef f(:\n")
    message = refused_file("\nimport helper\n")
    assert message.startswith(", line 2: SyntaxError: ")
    assert "helper.py, line 5" in message


@pytest.mark.usefixtures("folder")
def test_an_error_for_the_user_keeps_its_words():
    text = "from rnnlab.errors import UsageError\nraise UsageError('choose a corpus')\n"
    Path("mine.py").write_text(text)
    assert refused(configuration.load, "mine.py", []) == "choose a corpus"


# Overrides


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=7", 7),
        ("seed=-7", -7),
        ("train.steps=1e3", 1000),
        ("train.steps=1_000", 1000),
        ("train.steps=12345678901234567890", 12345678901234567890),
        ("train.steps=2.0", 2),
        ("optim.clip_norm=5", 5.0),
        ("optim.clip_norm=1e-3", 0.001),
        ("optim.clip_norm=inf", math.inf),
        ("name=two words", "two words"),
        ("name=", ""),
        ("name=a=b", "a=b"),
        ("name=3", "3"),
        ("on=false", False),
        ("on=False", False),
        ("on=0", False),
        ("on=1", True),
        ("sizes=(3,)", (3,)),
        ("sizes=[1, 2]", (1, 2)),
        ("sizes=()", ()),
        ("cell.preset=torch", "torch"),
        ("cell.gate_bias=1", 1.0),
        ("cell.layer_norm=true", True),
        ("cell.groups=2", 2),
    ],
)
def test_overrides(override, value):
    key = override.partition("=")[0]
    config = load(override)
    found = configuration.flat(config)[key]
    assert (found, type(found)) == (value, type(value))
    before = configuration.flat(load())
    assert configuration.flat(config) == before | {key: value}
    assert config.is_locked


@pytest.mark.usefixtures("folder")
def test_the_last_override_wins():
    assert load("seed=1", "seed=2").seed == 2


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("seed=1.5", "an int"),
        ("seed=True", "an int"),
        ("seed=", "an int"),
        ("seed=inf", "an int"),
        ("seed=nan", "an int"),
        ("seed=1e400", "an int"),
        ("seed=1__0", "an int"),
        ("seed=0x10", "an int"),
        ("optim.clip_norm=one", "a float"),
        ("optim.clip_norm=True", "a float"),
        ("on=yes", "a bool"),
        ("on=2", "a bool"),
        ("on=", "a bool"),
        ("sizes=3", "a tuple"),
        ("sizes=(1", "a tuple"),
        ("sizes='ab'", "a tuple"),
        ("sizes={1: 2}", "a tuple"),
        ("cell.gate_bias=none", "a float"),
        ("cell.groups=1.5", "an int"),
    ],
)
def test_overrides_of_another_type_are_refused(override, kind):
    key, _, text = override.partition("=")
    assert refused(load, override) == f"config key '{key}' takes {kind}, got '{text}'"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("optim.clip_nrom=1", "optim.clip_norm"),
        ("optimiser.clip_norm=1", "optim.clip_norm"),
        ("clip_norm=1", "optim.clip_norm"),
        ("sed=1", "seed"),
        ("seed.x=1", "seed"),
        ("train.step=1", "train.steps"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(override, nearest):
    key = override.partition("=")[0]
    assert refused(load, override) == f"unknown config key '{key}': did you mean '{nearest}'?"


@pytest.mark.usefixtures("folder")
def test_keys_that_are_none():
    assert refused(load, "qqqqqqqqqqqq=1") == "unknown config key 'qqqqqqqqqqqq'"
    assert refused(load, "cell=1").startswith("unknown config key 'cell'")
    assert refused(load, "=1").startswith("unknown config key ''")
    assert refused(load, "seed") == "--config.seed needs a value: write --config.seed=VALUE"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "text",
    [
        *("(" * 200, "(" * 5000, "-" * 9000 + "1", "(" + "[" * 90 + "]" * 90 + ",)" * 50),
        *("(b'x',)", "({1},)", "(1, [{}])", "(1j,)", "(1 is 1,)", "('\\d'", "(len,)"),
    ],
)
def test_what_is_no_tuple_of_plain_values(text, recwarn):
    """Python's parser runs out of stack on some, warns of others, and knows types that JSON lacks."""
    assert "'sizes' takes a tuple, got" in refused(load, f"sizes={text}")
    assert not recwarn.list


@pytest.mark.usefixtures("folder")
def test_lists_in_a_tuple_are_tuples():
    assert load("sizes=[1, [2, [None, True, 'x']]]").sizes == (1, (2, (None, True, "x")))


# JSON


def varied():
    config = ConfigDict()
    config.whole, config.real, config.yes, config.text = 3, 3.0, True, "drei\n\u2603"
    config.small, config.large = 1e-300, 2**70
    config.endless, config.negative = math.inf, -math.inf
    config.sizes = (1, (2.5, math.inf), "x", None)
    config.empty, config.inner = ConfigDict(), ConfigDict({"deep": {"er": 1}})
    config.unset = placeholder(int)
    # Strings that spell a number which JSON has not.
    config.words = ("inf", "-inf", "nan", "'inf'", "''nan''", "'inf", "Infinity", "'")
    return config


def test_json_round_trip():
    config = varied()
    text = json.dumps(configuration.to_json(config), allow_nan=False)
    back = configuration.from_json(json.loads(text))
    assert back.is_locked

    def typed(tree):
        if isinstance(tree, tuple):
            return [tuple, *map(typed, tree)]
        return (type(tree), tree)

    wanted, found = configuration.flat(config), configuration.flat(back)
    assert list(found) == list(wanted)
    assert {k: typed(v) for k, v in found.items()} == {k: typed(v) for k, v in wanted.items()}
    assert configuration.difference(config, back) == {}
    assert json.dumps(configuration.to_json(back), allow_nan=False) == text


def test_to_json_is_read_by_people():
    written = configuration.to_json(varied())
    assert (written["endless"], written["negative"], written["text"]) == (
        "inf",
        "-inf",
        "drei\n\u2603",
    )
    assert written["inner"] == {"deep": {"er": 1}}
    assert written["unset"] is None


def test_to_json_leaves_the_config_alone():
    config = varied()
    before = configuration.flat(config)
    configuration.to_json(config)
    assert configuration.flat(config) == before


# Comparing


def test_flat():
    config = ConfigDict({"a": 1, "b": {"c": (1, 2), "d": {"e": None}}, "f": {}})
    flat = {"a": 1, "b.c": (1, 2), "b.d.e": None}
    assert configuration.flat(config) == flat
    assert configuration.flat({"a": 1, "b": {"c": (1, 2), "d": {"e": None}}, "f": {}}) == flat


@pytest.mark.usefixtures("folder")
def test_difference():
    old, new = load(), load("seed=3", "cell.preset=torch", "optim.clip_norm=inf", "name=one")
    changes = {
        "seed": (0, 3),
        "optim.clip_norm": (1.0, math.inf),
        "cell.preset": (None, "torch"),
    }
    assert configuration.difference(old, new) == changes
    assert configuration.difference(new, new) == {}
    assert configuration.difference(new, old) == {k: (b, a) for k, (a, b) in changes.items()}
    assert configuration.difference({"a": 1, "b": 2}, {"b": 2, "c": {"d": 4}}) == {
        "a": (1, None),
        "c.d": (None, 4),
    }
    # What a resumed run compares: the saved config and the one given again.
    saved = configuration.from_json(configuration.to_json(new))
    assert configuration.difference(saved, new) == {}
