"""Configurations: read a config file, apply overrides, compare, and keep as JSON."""

import ast
import contextlib
import importlib.util
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rnnlab.errors import UsageError, nearest
from rnnlab.types import Config


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of `get_config()` in the Python file at `path`, with `key=value` overrides.

    The file runs. What it imports may lie beside it, in a folder that it names as the launcher sees it
    (`from experiments import default`), whatever the working folder is.

    Raises UsageError for a missing or failing file, an unknown key (with the nearest one) or a
    value of the wrong type.
    """
    module = _module(path)
    function = getattr(module, "get_config", None)
    if function is None:
        raise UsageError(f"config file '{path}' defines no get_config()")
    with _about(path):
        config = function() if callable(function) else None
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"config file '{path}': get_config() must return an ml_collections.ConfigDict"
        )
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UsageError(f"--config.{key} needs a value: write --config.{key}=VALUE")
        assign(config, key, text)
    return config


def load_sweep(path: str | Path) -> list[dict[str, Any]]:
    """What `sweep(add)` in the Python file at `path` adds: key -> value, for each member.

    Raises UsageError for a missing or failing file, or one that declares no sweep.
    """
    module = _module(path)
    if not callable(getattr(module, "sweep", None)):
        raise UsageError(
            f"config file '{path}' declares no sweep: it needs a function sweep(add), which calls "
            "add(**{'optim.clip_norm': 1.0, 'seed': 0}) for each member"
        )
    rows: list[dict[str, Any]] = []
    with _about(path):
        module.sweep(lambda **changes: rows.append(changes))
    return rows


def _module(path: str | Path) -> Any:
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"config file '{path}' does not exist")
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"config file '{path}' is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _about(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """It is the user's code that runs inside: it finds the folder of this file by its name, and
    whatever it raises is about this file."""
    above = str(Path(path).absolute().parent.parent)
    added = above not in sys.path
    if added:
        sys.path.append(above)
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        line = _line_in(error, os.path.abspath(path))
        at = f", line {line}" if line else ""
        raise UsageError(f"config file '{path}'{at}: {_one_line(error)}") from error
    finally:
        if added and above in sys.path:
            sys.path.remove(above)


def _line_in(error: BaseException, file: str) -> int | None:
    """The last line of `file` that the error went through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _one_line(error: BaseException) -> str:
    text = str(error)
    # ml_collections lists every field of the config before it comes to the point.
    missing = re.search(r'Key "([^"]*)" does not exist', text)
    if missing:
        near = re.search(r'Did you mean "([^"]*)"', text)
        hint = f": did you mean '{near[1]}'?" if near else ""
        return f"unknown config key '{missing[1]}'{hint}"
    return " ".join(f"{type(error).__name__}: {text}".split())


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.clip_norm": 1.0, ...}: every key of a ConfigDict or nested dict, dotted."""
    result = {}
    for key, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def assign(config: Config, key: str, text: str) -> None:
    """Set the dotted `key` to the value that `text` spells, in the type the key has.

    Raises UsageError for an unknown key or a value of another type.
    """
    known = flat(config)
    if key not in known:
        last = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        hint = f"did you mean '{last[0]}'?" if last else nearest(key, list(known), cutoff=0.4)
        raise UsageError(f"unknown config key '{key}'" + (f": {hint.strip()}" if hint else ""))
    *path, name = key.split(".")
    parent: Any = config
    for part in path:
        parent = parent[part]
    with parent.unlocked():
        parent[name] = parse(key, text, parent.get_type(name))


def spell(value: Any) -> str:
    """A value as `parse` reads it: "0.1", "inf", "True", "(1, 2)"."""
    if hasattr(value, "item"):  # NumPy's scalars
        value = value.item()
    return value if isinstance(value, str) else repr(value)


LONGEST = 10_000  # characters of a tuple: Python's parser may overflow its stack on endless ones


def _tuple(value: Any) -> Any:
    """With its lists as tuples; TypeError for what config.json could not keep, bytes say."""
    if isinstance(value, tuple | list):
        return tuple(_tuple(entry) for entry in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError
    return value


def parse(key: str, text: str, kind: type) -> Any:
    """`text` as a `kind`: bool, int, float, str or tuple.

    Raises UsageError naming the key, the type and the text.
    """
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is float:
            return float(text)
        if kind is int:
            if re.fullmatch(r"[+-]?\d[\d_]*", text):
                return int(text)
            if float(text).is_integer():
                return int(float(text))
        elif kind is tuple and len(text) <= LONGEST:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd syntax; what is no tuple is refused below
                value = ast.literal_eval(text)
            if isinstance(value, tuple | list):  # and not the letters of a string
                return _tuple(value)
    except (ArithmeticError, LookupError, SyntaxError, TypeError, ValueError):
        pass
    except (RecursionError, MemoryError):  # brackets without end
        pass
    article = "an" if kind is int else "a"
    raise UsageError(f"config key '{key}' takes {article} {kind.__name__}, got '{text}'")


def difference(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """key -> (old, new) wherever two configs differ; None stands for a missing key."""
    before, after = flat(old), flat(new)
    keys = [*before, *(k for k in after if k not in before)]
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


# A float that JSON cannot spell; or, in quotes, a string that looks like one.
_SPELT = re.compile(r"('*)(inf|-inf|nan)\1")


def to_json(config: Config) -> dict[str, Any]:
    """Nested plain dicts for strict JSON, which has no inf: it becomes the string "inf", and the
    string "inf" becomes "'inf'"."""

    def plain(value: Any) -> Any:
        if isinstance(value, (ConfigDict, dict)):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if isinstance(value, str) and _SPELT.fullmatch(value):
            return f"'{value}'"
        return value

    return plain(config)


def from_json(data: dict[str, Any]) -> Config:
    """The inverse of `to_json`. Lists become tuples."""

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: rich(v) for k, v in value.items()}
        if isinstance(value, list):
            return tuple(rich(v) for v in value)
        if isinstance(value, str) and _SPELT.fullmatch(value):
            return value[1:-1] if value[0] == "'" else float(value)
        return value

    return ConfigDict(rich(data)).lock()
