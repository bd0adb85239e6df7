"""Whether a checkpoint is what was written, and how another one or another machine differs from it.

A checkpoint's manifest.json has the size and sha256 of every other file in its folder.
"""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.run import machine
from rnnlab.run.files import parse_json, reason, sync

MANIFEST, META = "manifest.json", "meta.json"


def _files(folder: Path) -> list[str]:
    paths = (p for p in folder.rglob("*") if not p.is_dir())
    return sorted(p.relative_to(folder).as_posix() for p in paths)


def _hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def sync_and_hash(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the size and sha256 of every file, by its path in the folder, once all are on the disk."""
    for path in [folder, *folder.rglob("*")]:
        sync(path)
    return {name: _hash(folder / name) for name in _files(folder)}


def fault_of(folder: Path) -> str:
    """Why the checkpoint is not what was written; "" if it is."""
    try:
        listed = parse_json((folder / MANIFEST).read_bytes())["files"]
        there = set(_files(folder)) - {MANIFEST}
        for name in sorted(there | set(listed)):
            if name not in there:
                return f"{name} is missing"
            if name not in listed:
                return f"{name} is not in the manifest"
            if _hash(folder / name) != listed[name]:
                return f"{name} has changed"
        return "" if META in listed else f"{META} is missing"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read: {reason(error)}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} is broken: {reason(error)}"


def meta_of(folder: Path) -> dict[str, Any] | None:
    """meta.json, if it is the one in the manifest."""
    try:
        listed = parse_json((folder / MANIFEST).read_bytes())["files"]
        content = (folder / META).read_bytes()
        if hashlib.sha256(content).hexdigest() != listed[META]["sha256"]:
            return None
        return parse_json(content)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """One line that says where two JSON trees differ; "" if they do not."""
    a, b = _flat(saved), _flat(wanted)
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    told = [
        f"{key}: checkpoint has {_short(a.get(key))}, this run has {_short(b.get(key))}"
        for key in keys[:8]
    ]
    return "; ".join(told) + (f"; and {len(keys) - 8} more" if len(keys) > 8 else "")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    rows = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            rows |= _flat(value, f"{prefix}{key}.")
        else:
            rows[prefix + key] = json.dumps(value, sort_keys=True)
    return rows


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    if len(text) <= 60:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:32]}... ({len(text)} characters, sha256 {digest[:8]})"


# What JAX can be told that changes random numbers, or the bits of what is computed.
SETTINGS = (
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_random_seed_offset",
    "jax_safer_randint",
    "jax_high_dynamic_range_gumbel",
    "jax_threefry_gpu_kernel_lowering",
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_dtype_bits",
    "jax_numpy_dtype_promotion",
    "jax_allow_f16_reductions",
    "jax_softmax_custom_jvp",
    "jax_use_direct_linearize",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_memory_fitting_level",
    "jax_compiler_enable_remat_pass",
)
# The same, of what JAX stands on.
VARIABLES = ("NPROC", "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")


def settings() -> dict[str, Any]:
    """What JAX was told, by flags and variables, that changes numbers; None for what it does not know."""
    told = {name: getattr(jax.config, name, None) for name in SETTINGS}
    simple = bool | int | float | str | None
    plain = {name: v if isinstance(v, simple) else str(v) for name, v in told.items()}
    return plain | {name: os.environ.get(name) for name in VARIABLES}


def environment() -> dict[str, Any]:
    """What the bits of a computation depend on besides the program."""
    return {
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "numpy": np.__version__,
        "orbax-checkpoint": version("orbax-checkpoint"),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": machine.processor(),
        "cpus": machine.allowed(),  # XLA goes by it
        **settings(),
    }
