"""Configurations: read a config file, apply overrides, compare, and keep as JSON."""

import ast
import enum
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, RequiredValueError

from rnnlab.errors import UsageError, nearest
from rnnlab.run.config_file import ConfigFile, open_file
from rnnlab.types import Config


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of `get_config()` in the Python file at `path`, with `key=value` overrides.

    path: FILE, or FILE:ARGUMENT for `get_config(ARGUMENT)`; see `config_file`. The file runs. Relative
        paths among the values are those of the working folder, and become absolute.

    Raises UsageError for a missing or failing file, an unknown key (with the nearest one), a value of
    the wrong type, or one that config.json could not keep.
    """
    return made(open_file(path), overrides)


def made(
    file: ConfigFile, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> Config:
    """`load` of a file that has been run; with `changes`, key -> value, as a member of a sweep has
    them: what `load` gives with these values among its overrides."""
    config = plain_config(file.config(), file.where)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UsageError(f"--config.{key} needs a value: write --config.{key}=VALUE")
        assign(config, key, text)
    for key, value in (changes or {}).items():
        assign(config, key, spell(value))
    _set_values(config)
    return absolute(config).lock()


def _set_values(config: ConfigDict, prefix: str = "") -> None:
    """Raises UsageError for a `required_placeholder` without its value."""
    for key in config:
        try:
            value = config[key]
        except RequiredValueError:
            raise UsageError(
                f"config key '{prefix}{key}' has no value yet: give --config.{prefix}{key}=VALUE"
            ) from None
        if isinstance(value, ConfigDict):
            _set_values(value, f"{prefix}{key}.")


# ---- values


def plain(value: Any) -> Any:
    """A value as config.json keeps it: None, bool, int, float, str, or a tuple of such.

    Raises TypeError for what is none of these: scalars and arrays of NumPy, paths, lists, and enums of
    plain values are taken for what they hold.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hasattr(value, "tolist") and not isinstance(
        value, type
    ):  # an array or a scalar of NumPy or JAX
        value = value.tolist()
    if isinstance(value, tuple | list | range):
        return tuple(plain(entry) for entry in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(
        f"{type(value).__name__} is no number, text, truth value, None or tuple of such"
    )


def plain_config(
    config: Any, where: Callable[[str], str] = lambda key: "a config", *, apart: bool = False
) -> ConfigDict:
    """The config as a new one that can be changed, every value `plain`, whatever kinds of ConfigDict
    and dict it is made of. Placeholders keep their types.

    where: key -> the words for who sets it. apart: what was a reference to another key is the value
    that it has now, so that nothing is shared with the config given; else references stay.

    Raises UsageError for a value that cannot be kept.
    """

    def made_of(node: Any, prefix: str) -> ConfigDict:
        found = {}
        kept = isinstance(node, ConfigDict)
        for key, entry in node.items(preserve_field_references=True) if kept else node.items():
            name = f"{prefix}{key}"
            if isinstance(entry, FieldReference):
                kind = entry.get_type()
                if not apart and kind in PLAIN:
                    found[key] = entry
                    continue
                value = None if _is_unset(entry) else checked(name, entry.get())
                if kind not in PLAIN:
                    kind = tuple if kind is list else str if issubclass(kind, Path) else type(value)
                found[key] = FieldReference(value, field_type=kind) if kind in PLAIN else value
            elif isinstance(entry, ConfigDict | dict):
                found[key] = made_of(entry, f"{name}.")
            else:
                found[key] = checked(name, entry)
            if not isinstance(key, str):
                raise UsageError(f"{where(name)}: the name of a key is text, and {key!r} is none")
        return ConfigDict(found)

    def checked(key: str, value: Any) -> Any:
        try:
            return plain(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where(key)}: config key '{key}' cannot be kept: {error}") from error

    return made_of(config, "")


PLAIN = (bool, int, float, str, tuple)


def _is_unset(reference: FieldReference) -> bool:
    try:
        return reference.get() is None
    except RequiredValueError:
        return True


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.clip_norm": 1.0, ...}: every key of a ConfigDict or nested dict, dotted."""
    result = {}
    for key in config:
        try:
            value = config[key]
        except RequiredValueError:  # which has no value yet
            value = None
        if isinstance(value, (ConfigDict, dict)):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def assign(config: Config, key: str, text: str) -> None:
    """Set the dotted `key` to the value that `text` spells, in the type the key has; "None" unsets one
    that is a placeholder.

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
    entry = dict(parent.items(preserve_field_references=True))[name]
    placed = isinstance(entry, FieldReference)
    unset = text == "None" and (placed or entry is None)
    kind = entry.get_type() if placed else type(entry)
    with parent.unlocked():
        parent[name] = None if unset else parse(key, text, kind)


def spell(value: Any) -> str:
    """A value as `parse` reads it: "0.1", "inf", "True", "(1, 2)", "None". Raises UsageError for a value
    that no config can have."""
    try:
        value = plain(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{value!r} is no value of a config: {error}") from error
    if isinstance(value, tuple):
        return f"({''.join(f'{_entry(entry)}, ' for entry in value)})"
    return value if isinstance(value, str) else repr(value)


def _entry(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):  # for which Python has no literal
        return "1e999" if value > 0 else "-1e999"
    return spell(value) if isinstance(value, tuple) else repr(value)


LONGEST = 10_000  # characters of a tuple: Python's parser may overflow its stack on endless ones


def _tuple(value: Any) -> Any:
    """With its lists as tuples; TypeError for what config.json could not keep, bytes say."""
    if isinstance(value, tuple | list):
        return tuple(_tuple(entry) for entry in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError
    return value


def _literal(text: str) -> Any:
    """The value of a Python literal, with its lists as tuples. Raises what the parser does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd syntax; what is no tuple is refused by the caller
        return _tuple(ast.literal_eval(text))


def parse(key: str, text: str, kind: type) -> Any:
    """`text` as a `kind`: bool, int, float, str or tuple; of a key whose type is not known (NoneType) as
    what Python reads it for, else as the text.

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
        elif len(text) <= LONGEST:
            value = _literal(text)
            # And not the letters of a string.
            if kind is type(None) or isinstance(value, tuple):
                return value
    except (ArithmeticError, LookupError, SyntaxError, TypeError, ValueError):
        pass
    except (RecursionError, MemoryError):  # brackets without end
        pass
    if kind is type(None):
        return text
    article = "an" if kind is int else "a"
    raise UsageError(f"config key '{key}' takes {article} {kind.__name__}, got '{text}'")


def difference(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """key -> (old, new) wherever two configs differ; None stands for a missing key."""
    before, after = flat(old), flat(new)
    keys = [*before, *(k for k in after if k not in before)]
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


# ---- paths

PATHS = ("data.path", "data.features", "data.trainlist", "data.testlist", "train.init_from")


def is_path(key: str) -> bool:
    """Whether the value of a key names a file or folder: PATHS, and what a task of one's own calls
    data.SOMETHING_path. (model.path is none.)"""
    return key in PATHS or (key.startswith("data.") and key.endswith("_path"))


def paths_of(config: Any) -> dict[str, str]:
    """key -> path, of each key that names one."""
    values = flat(config)
    return {k: v for k, v in values.items() if is_path(k) and isinstance(v, str) and v}


def full_path(value: str) -> str:
    """Absolute, with `~` as the home folder; as it is if there is no such home."""
    expanded = os.path.expanduser(value)
    return value if expanded.startswith("~") else os.path.abspath(expanded)


def absolute(config: Any) -> Any:
    """The config itself, each of its paths absolute: they mean the same from another folder too."""
    for key, value in paths_of(config).items():
        replace(config, key, full_path(value))
    return config


def replace(config: Any, key: str, value: Any) -> None:
    """Set the dotted `key`, which is there, to a value of its type."""
    *path, name = key.split(".")
    for part in path:
        config = config[part]
    with config.unlocked():
        config[name] = value


# ---- JSON


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
