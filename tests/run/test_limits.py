"""Values that no run can have, in the keys of every config and in those of one task."""

import pytest
from ml_collections import ConfigDict

from rnnlab.errors import UsageError
from rnnlab.run.limits import TOGETHER, WIDEST, check_sizes, check_together, validate
from tests.run.configs import load, refused


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optim.clip_norm=nan", "'optim.clip_norm' is NaN"),
        ("cell.gate_bias=nan", "'cell.gate_bias' is NaN"),
        ("seed=-1", "'seed' must be at least 0, got -1"),
        ("seed=4294967296", "'seed' must be below 2^32"),
        ("train.steps=0", "'train.steps' must be at least 1, got 0"),
        ("train.keep=-1", "'train.keep' must be at least 1"),
        ("parallel.devices=-1", "'parallel.devices' must be at least 0, got -1"),
        ("cell.gate_bias=inf", "'cell.gate_bias' is inf: more than a float32 holds"),
        ("cell.gate_bias=-1e39", "'cell.gate_bias' is -1e+39: more than a float32 holds"),
        ("optim.learning_rate=1e-320", "is 1e-320: in float32 that is 0"),
        ("sizes=(1, (2, -1e-45))", "'sizes' is -1e-45: in float32 that is 0"),
        ("train.steps=2147483648", "'train.steps' must be at most 2^31 - 1, got 2147483648"),
        ("sizes=(1, -9999999999)", "'sizes' must be at most 2^31 - 1, got -9999999999"),
        ("train.batch_size=268435457", "train.batch_size x train.window is 268435457 x 1"),
        (
            "train.eval_every=-1",
            "'train.eval_every' must be at least 0 (0: only at the end), got -1",
        ),
    ],
)
def test_validate_refuses(override, told):
    assert told in refused(validate, load(override))


@pytest.mark.usefixtures("folder")
def test_validate():
    validate(load())
    validate(load("seed=4294967295", "optim.clip_norm=inf"))
    validate(load("cell.gate_bias=3.4e38", "optim.learning_rate=1.2e-38"))
    config = load()
    config.name = "a\0b"
    assert "'name' has a NUL character" in refused(validate, config)
    homeless = ConfigDict({**load().to_dict(), "path": "~nobody-of-that-name/x"})
    assert "no home folder ~nobody-of-that-name" in refused(validate, homeless)
    homeless.path = "~/x"
    validate(homeless)
    wide = load().unlock()
    wide.cell.hidden = 2**20
    validate(wide)
    for hidden in (2**20 + 1, 10**5000):  # the second of which Python does not spell
        wide.cell.hidden = hidden
        told = refused(validate, wide)
        assert told.startswith("config key 'cell.hidden' must be at most 2^20, got ")
    # A ConfigDict takes it, since bool is a subclass of int.
    config = load()
    config.train.steps = True
    assert "'train.steps' takes an int, got True" in refused(validate, config)
    # A config that did not start from the one that has every key.
    assert "'seed' takes an int, got None" in refused(validate, ConfigDict())


# The keys of one task


def test_a_size_of_a_task():
    config = ConfigDict({"data": {"depth": WIDEST, "unset": None}})
    check_sizes(config, "data.depth", "data.unset", "data.absent")
    config.data.depth = WIDEST + 1
    check_sizes(config, "data.unset")
    with pytest.raises(UsageError, match=r"'data\.depth' must be at most 2\^20, got 1048577"):
        check_sizes(config, "data.unset", "data.depth")


def test_what_a_task_asks_for_at_once():
    config = ConfigDict({"eval": {"rows": 2**14, "steps": TOGETHER >> 14, "none": 0}})
    check_together(config, ("eval.rows", "eval.steps"), ("eval.rows", "eval.none"), ("a", "b"))
    config.eval.rows += 1
    with pytest.raises(UsageError, match=r"eval\.rows x eval\.steps is 16385 x 16384: no memory"):
        check_together(config, ("eval.rows", "eval.steps"))
