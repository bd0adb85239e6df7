"""The numbers that a config may have: what a step can count and reckon with, and memory can hold.

`validate` is for the keys that any task has; a task checks its own with `check_sizes` and
`check_together`, before it makes anything of that size.
"""

import math
import os
from typing import Any

from rnnlab.errors import UsageError
from rnnlab.run.config import flat, is_path
from rnnlab.types import Config

# Numbers that int32 and float32, in which a step counts and reckons, do not hold. What is smaller is 0.
INT32, FLOAT32, SMALLEST = 2**31 - 1, 3.4028234663852886e38, 1.1754943508222875e-38
UNBOUNDED = ("seed",)  # checked by itself
ENDLESS = ("optim.clip_norm",)  # inf means off
# A kernel with so many rows and columns is 4 TiB. The last part of a key says what is a size.
WIDEST = 2**20
SIZES = ("hidden", "size", "side", "embedding", "embedding_size", "features", "channels", "beam")
# No machine has the memory for as many steps at once; each is one number at the very least.
TOGETHER = 2**28
BATCHES = (("train.batch_size", "train.window"), ("eval.chunk", "train.window"))


def _number(key: str, value: Any) -> None:
    """Raise UsageError for a number, in a tuple or not, that no step could use."""
    if isinstance(value, tuple | list):
        for entry in value:
            _number(key, entry)
    elif isinstance(value, float):
        if math.isnan(value):
            raise UsageError(f"config key '{key}' is NaN: give a number")
        if math.isinf(value) and key in ENDLESS:
            return
        if abs(value) > FLOAT32:
            raise UsageError(f"config key '{key}' is {value}: more than a float32 holds, 3.4e38")
        if 0 < abs(value) < SMALLEST:
            raise UsageError(f"config key '{key}' is {value}: in float32 that is 0")
    elif isinstance(value, int) and key not in UNBOUNDED:
        _at_most(key, value, WIDEST if key.rpartition(".")[2] in SIZES else INT32)


def _at_most(key: str, value: int, most: int) -> None:
    if abs(value) > most:
        shown = "2^20" if most == WIDEST else "2^31 - 1"
        # Python spells no integer of more than 4300 digits.
        got = value if value.bit_length() < 300 else f"one of {value.bit_length()} bits"
        raise UsageError(f"config key '{key}' must be at most {shown}, got {got}")


def _name(key: str, value: str) -> None:
    """Raise UsageError for a text that no file could have for its name."""
    if "\0" in value:
        raise UsageError(f"config key '{key}' has a NUL character in it")
    named = is_path(key) or key.endswith("path")
    if named and value.startswith("~") and os.path.expanduser(value) == value:
        user = value.partition("/")[0]
        raise UsageError(f"config key '{key}' is {value}, and there is no home folder {user}")


def validate(config: Config) -> None:
    """Raise UsageError where a count is out of range, a number is NaN or one that float32 and int32
    do not hold, or more is asked for at once than any memory holds; the parts check the rest."""
    values = flat(config)
    for key, value in values.items():
        _number(key, value)
        if isinstance(value, str):
            _name(key, value)
    least = {"seed": 0, "train.steps_per_dispatch": 0, "parallel.devices": 0, "diagnose.every": 0}
    least |= {f"train.{k}": 1 for k in ("steps", "batch_size", "window", "log_every", "keep")}
    least |= {f"train.{k}": 0 for k in ("eval_every", "checkpoint_every", "sample_every")}
    least["train.skip_faults"] = 0
    for key, low in least.items():
        value = values.get(key)
        # A ConfigDict takes True for an integer.
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"config key '{key}' takes an int, got {value}")
        if value < low:
            never = " (0: only at the end)" if key.endswith("_every") and not low else ""
            raise UsageError(f"config key '{key}' must be at least {low}{never}, got {value}")
    # Beyond these no array has an index, or no program is compiled in an hour.
    most = {"model.hidden": 2**27, "model.embedding_size": 2**27, "model.layers": 1000}
    most |= {f"train.{k}": 2**31 - 1 for k in ("steps", "batch_size", "window", "skip_faults")}
    for key, high in most.items():
        if isinstance(values.get(key), int) and values[key] > high:
            raise UsageError(f"config key '{key}' must be at most {high}, got {values[key]}")
    if values["seed"] >= 2**32:
        raise UsageError(f"config key 'seed' must be below 2^32, got {values['seed']}")
    check_together(config, *BATCHES)


def check_sizes(config: Config, *keys: str) -> None:
    """Raise UsageError where the integer of one of these keys is above WIDEST. A key that the config
    lacks, or leaves empty, passes."""
    values = flat(config)
    for key in keys:
        if isinstance(value := values.get(key), int):
            _at_most(key, value, WIDEST)


def check_together(config: Config, *pairs: tuple[str, str]) -> None:
    """Raise UsageError where the product of the two keys of a pair, rows and steps, is above TOGETHER.
    A pair that the config lacks passes."""
    values = flat(config)
    for rows, steps in pairs:
        pair = [n for n in (values.get(rows), values.get(steps)) if isinstance(n, int) and n > 0]
        if len(pair) == 2 and pair[0] * pair[1] > TOGETHER:
            raise UsageError(
                f"{rows} x {steps} is {pair[0]} x {pair[1]}: no memory holds as much at once, lower them"
            )
