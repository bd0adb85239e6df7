"""Host arrays in a folder, by Orbax: quietly, at once, and with its faults told as the disk's.

Orbax gets a flat dict of NumPy arrays by name; everything else about a checkpoint is `checkpoint`'s.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import UsageError, lacking
from rnnlab.run.files import reason, temporary_folder

# What else Orbax and TensorStore may mean by a name: patterns, a slash, a scheme, no text at all.
ODD = re.compile(r"[\[\]*?\\\ud800-\udfff]|:/")


def _orbax() -> Any:
    # Imported when it is needed: a new run takes its first step without it.
    from orbax.checkpoint import v1

    return v1


def _context() -> Any:
    context = _orbax().Context()
    context.asynchronous.create_directories_asynchronously = False
    # By the wall's clock, which may be set forward, or have slept, while an array is written.
    context.asynchronous.timeout_secs = 10**8
    context.memory.deepcopy_host_arrays = False  # nothing changes them while we wait
    context.array.saving.use_compression = False  # floats do not shrink, and it takes longer
    return context


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Orbax logs tracebacks of what it raises as well, and its event loop one for each array that it
    had begun; ours is the one line."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda told: hook(told) if told.exc_type is KeyboardInterrupt else None
    try:
        yield
    except Exception:
        hook = _but_closed_loops(hook)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for logger in loggers:
            logger.addFilter(_not_of_orbax)  # once: it is the same function
        raise
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether a line of a log is not of a call that has failed and been told: of a task of its, found
    when it is freed, or of a thread of its, which may end later."""
    text = record.getMessage()
    of_a_task = "exception was never retrieved" in text and "orbax" in text
    return not of_a_task and "_SignalingThread" not in text


def _but_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The hook without what TensorStore's threads still have to say after a call that has failed: each
    array that was under way ends then, and finds its event loop closed; one for which there were too
    few files is torn down half made."""
    noise = ("Event loop is closed", "EventLoop' object has no attribute")

    def told(unraisable: Any) -> None:
        if not any(text in str(unraisable.exc_value) for text in noise):
            hook(unraisable)

    return told


def check_name(folder: Path) -> None:
    """Raises UsageError for a folder that only one process can write to: with another name, which each
    would choose for itself, and Orbax wants the same of all."""
    if jax.process_count() > 1 and (found := ODD.search(str(folder))):
        raise UsageError(
            f"several processes cannot save in {folder}: {found[0]!r} in its name may mean something "
            "else, choose another --workdir"
        )


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """Another name for a folder, if its own may mean something else: Orbax looks by pattern for what it
    has written, finds nothing in run[1] and says that all is well; TensorStore takes a backslash for a
    slash, and writes to other folders."""
    if not ODD.search(str(folder)):
        yield folder
        return
    with temporary_folder() as place:
        link = place / "checkpoint"
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


_copied = False  # whether a file system was met that TensorStore cannot write to


def write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays into `folder`, which it makes, each under its name.

    Over several processes every one calls this, since Orbax synchronises them, and process 0 writes.
    Where the file system lacks the locks or the fsync that TensorStore insists on, one process alone
    writes to the folder for temporary files, and copies. Raises OSError for whatever the disk refuses.
    """
    # Orbax refuses an array without elements, whose shape says all there is, and an empty dict.
    arrays = {name: array for name, array in arrays.items() if array.size}
    if not arrays:
        return
    global _copied
    if not _copied:
        try:
            _write(folder, arrays)
            return
        except OSError as error:
            if not lacking(error) or jax.process_count() > 1:
                raise
            shutil.rmtree(folder, ignore_errors=True)
    with temporary_folder() as place:
        _write(place / folder.name, arrays)
        shutil.copytree(place / folder.name, folder)
    _copied = True


def _write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        with _silence(), _context(), _plainly_named(folder) as place:
            _orbax().save(str(place), arrays)
    except OSError:
        raise
    except Exception as error:  # the leaves are plain arrays by now: what is left is the disk
        code = re.search(r"os_error_code='([0-9]+)'", str(error))
        told = (int(code[1]), os.strerror(int(code[1]))) if code else (reason(error),)
        raise OSError(*told) from error


def read_arrays(folder: Path, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `folder`, of the names, shapes and dtypes of `like`. Raises what Orbax raises if
    they are not there."""
    wanted = {name: array for name, array in like.items() if array.size}
    if not wanted:
        return like
    with _silence(), _context(), _plainly_named(folder) as place:
        return like | _orbax().load(str(place), wanted)


# ---- a tree by its leaves
#
# Without a template Orbax would make lists of NamedTuples, and it would hand back arrays committed to
# the devices they came from.


def _named(tree: Any) -> dict[str, Any]:
    rows = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in rows}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}{list(np.shape(leaf))}"


def leaf_types(tree: Any) -> dict[str, str]:
    """The dtype and the shape of every leaf, "float32[3, 4]", by its path in the tree."""
    return {name: _describe(leaf) for name, leaf in _named(tree).items()}


def key_types(tree: Any) -> dict[str, str]:
    """The implementation of every leaf that is a typed PRNG key, by its path."""
    keys = {name: leaf for name, leaf in _named(tree).items() if _is_key(leaf)}
    return {name: str(jax.random.key_impl(key)) for name, key in keys.items()}


def host_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf as an array of the host, by its path; of a key its data. Raises TypeError for a leaf
    that is no number."""
    return {name: _host(name, leaf) for name, leaf in _named(tree).items()}


def _host(name: str, leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind in "OSUMm":
        raise TypeError(f"the state's leaf {name} is no number: {type(leaf).__name__}")
    return array


def _empty(leaf: Any) -> np.ndarray:
    """A host array for the content of a template's leaf; its pages are never touched."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return np.empty(np.shape(leaf), dtype)


def read_leaves(folder: Path, template: Any, lacking: Collection[str]) -> dict[str, np.ndarray]:
    """The template's leaves as host arrays, by name; those that are `lacking` are 0."""
    like = {name: _empty(leaf) for name, leaf in _named(template).items()}
    known = {name: array for name, array in like.items() if name not in lacking}
    return {name: np.zeros_like(like[name]) for name in lacking} | read_arrays(folder, known)


def tree_of_leaves(template: Any, arrays: dict[str, np.ndarray], keys: dict[str, str]) -> Any:
    """The template's tree of the host arrays, every leaf of the template's kind."""

    def leaf(name: str, like: Any) -> Any:
        array = arrays[name]
        if name in keys:
            return jax.random.wrap_key_data(jnp.array(array), impl=keys[name])
        if isinstance(like, np.ndarray):
            return array
        if isinstance(like, np.generic):
            return array[()]
        if isinstance(like, bool | int | float | complex):
            return array.item()
        return jnp.array(array)  # a copy, so that a step to which it is donated can reuse it

    leaves = [leaf(name, like) for name, like in _named(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
