"""A config file as it is run: what it may import, its argument, and its errors in one line.

A config file is a Python file with get_config(), which gives a ConfigDict, and perhaps sweep(add).
FILE:ARGUMENT is the convention of ml_collections: get_config("ARGUMENT") is called.
"""

import ast
import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rnnlab.errors import UsageError

# What is said where a config file, or one that it imports, is not found outside a checkout.
EXPERIMENTS = (
    "the experiments lie in the repository and not in the installed package: start there, or write "
    "`from rnnlab.run import default` in a config file of your own"
)


class ConfigFile(NamedTuple):
    """A config file that has been run, and may be asked for its config again and again."""

    path: str  # as it was given, without the argument
    argument: str | None
    module: ModuleType

    def config(self) -> ConfigDict:
        """What get_config() gives now. Raises UsageError if it fails or gives something else."""
        function = getattr(self.module, "get_config", None)
        if function is None:
            raise UsageError(f"config file '{self.path}' defines no get_config()")
        given = () if self.argument is None else (self.argument,)
        line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
        with running(self.path):
            config = function(*given) if callable(function) else None
        if not isinstance(config, ConfigDict):
            at = f", line {line}" if line else ""
            raise UsageError(
                f"config file '{self.path}'{at}: get_config() must return an "
                f"ml_collections.ConfigDict, and returns a {type(config).__name__}"
            )
        return config

    def sweep(self) -> list[dict[str, Any]]:
        """What sweep(add) adds: key -> value, for each member. Raises UsageError if there is none."""
        if not callable(getattr(self.module, "sweep", None)):
            raise UsageError(
                f"config file '{self.path}' declares no sweep: it needs a function sweep(add), which calls "
                "add(**{'optim.clip_norm': 1.0, 'seed': 0}) for each member"
            )
        rows: list[dict[str, Any]] = []

        def add(**changes: Any) -> None:
            rows.append(changes)

        with running(self.path):
            self.module.sweep(add)
        return rows

    def where(self, key: str) -> str:
        """The file, and the line where it sets the dotted `key` last, or where get_config() begins."""
        with contextlib.suppress(OSError, ValueError, SyntaxError):
            tree = ast.parse(Path(self.path).read_bytes())
            lines = [
                node.lineno
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign)
                and any(ast.unparse(target).endswith(f".{key}") for target in node.targets)
            ]
            lines = lines or [
                node.lineno
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef) and node.name == "get_config"
            ]
            if lines:
                return f"config file '{self.path}', line {lines[-1]}"
        return f"config file '{self.path}'"


def open_file(path: str | Path) -> ConfigFile:
    """The config file at `path`, FILE or FILE:ARGUMENT, run once.

    What it imports may lie beside it, or in a folder that it names as the launcher sees it (`from
    experiments import default`), whatever the working folder is. Raises UsageError for a missing or
    failing file.
    """
    name, argument = split(path)
    file = Path(name)
    if not file.is_file():
        hint = f": {EXPERIMENTS}" if file.parts[:1] == ("experiments",) else ""
        raise UsageError(f"config file '{name}' does not exist{hint}")
    # By its whole path, so that an error's frames have it too.
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file.absolute())
    if spec is None or spec.loader is None:
        raise UsageError(f"config file '{name}' is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    _modules.pop(os.path.dirname(os.path.abspath(name)), None)  # they may have been edited since
    with running(name):
        spec.loader.exec_module(module)
    return ConfigFile(name, argument, module)


def split(path: str | Path) -> tuple[str, str | None]:
    """FILE:ARGUMENT -> (FILE, ARGUMENT); None where there is no argument."""
    found = re.fullmatch(r"(.*?\.py):(.*)", str(path), re.DOTALL)
    if found is None or Path(path).is_file():
        return str(path), None
    return found[1], found[2]


def run_name(path: str | Path) -> str:
    """What a run of this config file is called: NAME of NAME.py, NAME_ARGUMENT of NAME.py:ARGUMENT."""
    name, argument = split(path)
    shown = re.sub(r"[^\w.+-]+", "-", argument or "")
    return Path(name).stem + (f"_{shown}" if shown else "")


@contextlib.contextmanager
def running(path: str | Path) -> Iterator[None]:
    """It is the user's code that runs inside: it finds what lies beside this file, and the folder of
    the file by its name; and whatever it raises is about this file, as UsageError."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with _beside(folder):
            yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"config file '{path}'{_told(error, os.path.abspath(path))}") from error


def _told(error: BaseException, file: str) -> str:
    """ ", line 3: ValueError: ..." of an error that went through `file`: its last line there, and that
    of a file beside it which it came from."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [line for name, line in frames if name == file]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        own.append(error.lineno)
    beside = [
        f" ({os.path.basename(name)}, line {line})"
        for name, line in frames
        if name != file and os.path.dirname(name) == os.path.dirname(file)
    ]
    return f"{f', line {own[-1]}' if own else ''}: {_words(error)}{beside[-1] if beside else ''}"


def _words(error: BaseException) -> str:
    """What an error says; of one of ml_collections the point alone."""
    text = str(error)
    # ml_collections lists every field of the config before it comes to the point.
    missing = re.search(r'Key "([^"]*)" does not exist', text)
    if missing:
        near = re.search(r'Did you mean "([^"]*)"', text)
        hint = f": did you mean '{near[1]}'?" if near else ""
        return f"unknown config key '{missing[1]}'{hint}"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "experiments":
        return f"{text}: {EXPERIMENTS}"
    told = " ".join(f"{type(error).__name__}: {text}".split())
    if isinstance(error, TypeError) and "get_config() missing" in text:
        told += ": give it one by --config=FILE:ARGUMENT"
    return told


# ---- what lies beside a config file

# folder -> name -> module: what the config files of a folder have imported from it. They are out of
# sys.modules while no config file of that folder runs, so that two folders may use the same names.
_modules: dict[str, dict[str, ModuleType]] = {}


class _Finder:
    """Finds modules in the folder of a config file, and that folder by its name."""

    def __init__(self, folder: str):
        self.folder, self.above, self.name = folder, *os.path.split(folder)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`. What is installed comes before a file of its name."""
        if path is not None or name in sys.stdlib_module_names or name == "rnnlab":
            return None
        if name == self.name:  # which may be a folder of other places too, each with files
            spec = PathFinder.find_spec(name, [self.above, *sys.path])
            return None if spec is None or _installed(name) else spec
        spec = PathFinder.find_spec(name, [self.folder])
        return None if spec is None or _installed(name) else spec


def _installed(name: str) -> bool:
    places = [p for p in sys.path if "-packages" in p]
    found = PathFinder.find_spec(name, places)
    return found is not None and found.origin is not None


@contextlib.contextmanager
def _beside(folder: str) -> Iterator[None]:
    """Inside, imports find what lies in the folder; afterwards sys.modules has none of it."""
    if any(isinstance(found, _Finder) and found.folder == folder for found in sys.meta_path):
        yield  # one config file loads another
        return
    finder, names = _Finder(folder), _names(folder)
    kept = _modules.setdefault(folder, {})
    hidden = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in names and not _lasting(name, module)
    }
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(kept)
    before = set(sys.modules)
    added = finder.above not in sys.path
    if added:
        sys.path.append(finder.above)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        if added and finder.above in sys.path:
            sys.path.remove(finder.above)
        own = {n for n in sys.modules if n not in before and n.partition(".")[0] in names}
        for name in own | kept.keys():
            if name in sys.modules and not _lasting(name, sys.modules[name]):
                kept[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def _names(folder: str) -> set[str]:
    """The modules that the folder may be asked for, and the folder itself."""
    try:
        found = {entry.name.removesuffix(".py") for entry in os.scandir(folder)}
    except OSError:
        found = set()
    names = {name for name in found if name.isidentifier()} | {os.path.basename(folder)}
    return names - sys.stdlib_module_names - {"rnnlab", "__pycache__"}


def _lasting(name: str, module: ModuleType) -> bool:
    """Whether a module is installed, so that the one that is there stays."""
    spec = getattr(module, "__spec__", None)
    origin = getattr(spec, "origin", None) or ""
    return (
        "-packages" in origin
        or origin in ("built-in", "frozen")
        or name.startswith("rnnlab_config")
    )
