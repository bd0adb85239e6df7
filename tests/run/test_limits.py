"""The limits that a task has of its own; those of every config are tested with the configs."""

import pytest
from ml_collections import ConfigDict

from rnnlab.errors import UsageError
from rnnlab.run.limits import TOGETHER, WIDEST, check_sizes, check_together


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
