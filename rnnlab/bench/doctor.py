"""The verb doctor: what this machine has, a self-check of a few seconds, and what that promises.

The self-check does for real what the promises are about, on small models: it differentiates a cell,
flips a bit of a checkpoint, and trains the same steps several times. Nothing but compiled programs
stays on the disk.
"""

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from rnnlab import cells
from rnnlab.data import cache
from rnnlab.data.reading import reason_of
from rnnlab.errors import CheckpointError
from rnnlab.recurrence.unrolling import unroll
from rnnlab.run import checkpoint, machine, process
from rnnlab.run.files import temporary_folder
from rnnlab.train import parallel
from rnnlab.train.from_config import build, device_request
from rnnlab.train.single import Single
from rnnlab.train.state import configured_state
from rnnlab.types import Array, Cell, Config

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    *("numpy", "scipy", "ml_collections"),
)
# What is there for some uses alone: (package, what for, the extra that brings it).
OPTIONAL = (
    ("torch", "the benchmark beside PyTorch", "bench"),
    ("submitit", "sweeps on a SLURM cluster", "slurm"),
    ("av", "reading videos", "media"),
    ("pillow", "reading pictures", "media"),
    ("soundfile", "reading sounds", "media"),
    ("jiwer", "the error rates of speech", "media"),
    ("rouge-score", "scoring captions", "media"),
    ("sacrebleu", "scoring translations and captions", "media"),
    ("sentencepiece", "symbols learned by BPE", "media"),
)
STEPS = 8  # of a run of the self-check, half of them before it is stopped
# That run: of a size at which products run on several threads, with all that a checkpoint must hold.
TRIAL = (
    f"data.path={__file__}",
    "model.hidden=128",
    "model.dropout=0.1",
    "optim.warmup_steps=4",
    f"train.steps={STEPS}",
    "train.batch_size=32",
    "train.window=16",
    f"train.log_every={STEPS}",
    "eval.streams=2",
    "eval.window=32",
    "eval.burn_in=0",
    "eval.random_windows=2",
    "eval.random_window=16",
)
TOLERANCE = 1e-7  # of gradients against central differences, in float64, relative to their norm
WIDTH = 25  # characters of a name that is printed
PAGES = 64 << 20  # bytes that are allocated twice, to see whether freed memory is retained


class Check(NamedTuple):
    """One thing that the self-check has tried."""

    name: str
    found: str  # in words, if all was well
    problem: str  # in words; "" if all was well
    seconds: float


def examine(config: Config, say: Callable[[str], None]) -> list[str]:
    """Print what there is, the self-check and what is promised; returns what failed, a line each.

    config: of the run that is tried, with TRIAL in it.
    """
    for title, rows in facts(config).items():
        say(f"\n{title}")
        for name, value in rows:
            say(f"  {name:<{WIDTH}} {value}")
    say("\nself-check")
    problems = [f"cache: {problem}" for problem in [why_unusable(cache.folder())] if problem]
    for check in run_checks(config):
        say(f"  {check.name:<{WIDTH}} {check.problem or check.found} ({check.seconds:.1f} s)")
        if check.problem:
            problems.append(f"{check.name}: {check.problem}")
    say("\nwhat is promised here")
    for line in promises(config, problems):
        say(f"  {line}")
    return problems


# ---- what there is


def facts(config: Config) -> dict[str, list[tuple[str, str]]]:
    """Title -> rows of (name, value) of what there is; see `examine`."""
    environment = ("NPROC", "XLA_FLAGS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "JAX_PLATFORMS")
    split = parallel.choose_split(**device_request(config))
    return {
        "versions": [
            ("python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, machine.installed(name) or "missing") for name in PACKAGES),
        ],
        "devices and threads": [
            ("processor", machine.processor()),
            (
                "cores",
                f"{machine.cores()} used, {machine.allowed()} allowed, {os.cpu_count()} there",
            ),
            ("JAX's backend", f"{jax.default_backend()}, {jax.devices()[0].device_kind}"),
            ("its devices", str(len(jax.devices()))),
            ("a batch of 32 is over", split.name),
            *((name, os.environ.get(name, "not set")) for name in environment),
        ],
        "memory and disk": [
            ("memory available", _size(machine.available_memory())),
            ("allocator", whether_retained()),
            ("free disk, working folder", _room(Path())),
            ("free disk, temporary", _room(Path(_temporary()))),
            *((name, _folder(path)) for name, path in _folders()),
        ],
        "precision": [
            ("model.precision", f"{config.model.precision}, stated in each matrix product"),
            ("JAX's own default", str(_setting("jax_default_matmul_precision") or "the backend's")),
            ("float64 (x64)", "on" if _setting("jax_enable_x64") else "off; float32 throughout"),
        ],
        "optional packages": [(name, _optional(name, *rest)) for name, *rest in OPTIONAL]
        + [("pdflatex", f"{shutil.which('pdflatex') or 'absent'}: the verb compile")],
    }


def _setting(name: str) -> Any:
    return getattr(jax.config, name)  # no type checker knows them


def _folders() -> list[tuple[str, Path]]:
    return [("cache", cache.folder()), ("compiled programs", cache.folder() / "compiled")]


def why_unusable(folder: Path) -> str:
    """Why files cannot be written in a folder, or in it once it is made; "" if they can."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{folder} cannot be made: {there} is no folder; RNNLAB_CACHE names another"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"rnnlab")
            file.flush()
    except OSError as error:
        return (
            f"{folder} cannot be written: {reason_of(error)}; without it nothing is downloaded "
            "and every launch compiles anew; RNNLAB_CACHE names another"
        )
    return ""


def _folder(path: Path) -> str:
    if problem := why_unusable(path):
        return problem
    if not path.exists():
        return f"{path}, not made yet"
    with contextlib.suppress(OSError):  # another process tidies up
        files = [file for file in path.rglob("*") if file.is_file()]
        return f"{path}, {len(files):,} files, {_size(sum(f.stat().st_size for f in files))}"
    return str(path)


def _temporary() -> str:
    """The folder for temporary files; Python raises if there is none."""
    with contextlib.suppress(OSError):
        return tempfile.gettempdir()
    return "."


def _room(path: Path) -> str:
    try:
        return f"{_size(shutil.disk_usage(path).free)} in {path.absolute()}"
    except OSError as error:
        return f"{path}: {reason_of(error)}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _optional(name: str, purpose: str, extra: str) -> str:
    there = machine.installed(name)
    return f"{there or 'absent'}: {purpose}" + ("" if there else f" (the extra '{extra}')")


def whether_retained() -> str:
    """Whether this process keeps the memory that it frees, by trying it."""
    if not (sys.platform == "linux" and process.retain_memory()):
        return "freed memory goes back to the system: steps are slower, results the same"
    import resource

    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    faults = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        array = libc.malloc(PAGES)
        if not array:
            return f"{_size(PAGES)} could not be allocated"
        libc.memset(array, 1, PAGES)
        libc.free(array)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    kept = faults[1] < 0.1 * PAGES / resource.getpagesize()
    told = f"{faults[1]:,} page faults when {_size(PAGES)} are allocated again"
    return f"freed memory is {'retained' if kept else 'NOT retained, steps are slower'}: {told}"


# ---- the self-check


def run_checks(config: Config) -> list[Check]:
    """What is tried; nothing raises."""
    return [
        _run_check("gradients", check_gradients),
        _run_check("checkpoints", check_checkpoints),
        _run_check("equal bits", functools.partial(check_equal_bits, config)),
    ]


def _run_check(name: str, check: Callable[[], tuple[str, str]]) -> Check:
    began = time.monotonic()
    try:
        found, problem = check()
    except Exception as error:  # whatever it is: to tell of it is what this is for
        line = str(error).strip().split("\n")[0]
        found, problem = "", f"{type(error).__name__}: {line}"
    return Check(name, found, problem, time.monotonic() - began)


def check_gradients() -> tuple[str, str]:
    """(what was found, what is wrong): BPTT of an LSTM by both paths against central differences."""
    with jax.enable_x64(True):
        cell = cells.get("lstm", hidden=3)
        draw = np.random.default_rng(0)
        x, weights = (jnp.asarray(draw.normal(size=(7, 2, n))) for n in (2, 3))  # [T, B, D or H]
        start = cell.init(jax.random.key(0), 2, jnp.float64)
        flat, unravel = ravel_pytree(start)  # [P]
        each = jnp.concatenate([jnp.eye(flat.size), -jnp.eye(flat.size)]) * 1e-5
        value = functools.partial(_value, cell, x, weights, unravel)
        up, down = jnp.split(jax.jit(jax.vmap(functools.partial(value, "plain")))(flat + each), 2)
        wanted = (up - down) / 2e-5  # [P]
        off = {}
        for path, name in (("plain", "plain"), ("auto", "fast")):
            gradient = jax.jit(jax.grad(functools.partial(value, path)))(flat)
            off[name] = float(jnp.linalg.norm(gradient - wanted) / jnp.linalg.norm(wanted))
    told = " and ".join(f"{error:.0e} by the {name} path" for name, error in off.items())
    told = f"off central differences by {told}, in float64"
    return told, "" if max(off.values()) < TOLERANCE else told


def _value(cell: Cell, x: Array, weights: Array, unravel: Any, path: str, flat: Array) -> Array:
    """A loss of the outputs and the last state, whose gradient has no zero entry."""
    carry, y = unroll(cell, unravel(flat), x, lengths=jnp.array([7, 5]), path=path)
    return jnp.sum(weights * y**2) + sum(jnp.sum(jnp.sin(leaf)) for leaf in carry)


def check_checkpoints() -> tuple[str, str]:
    """(what was found, what is wrong): a tree saved and restored, and one flipped bit of it."""
    key = jax.random.key(1)
    tree = {"weights": jax.random.normal(key, (64, 65)), "key": key, "step": jnp.int32(3)}
    tree["weights"] = tree["weights"].at[0, :3].set(jnp.array([jnp.nan, -0.0, 1e-42]))
    with temporary_folder() as place:
        root = place / "checkpoints"
        options = {"metric": None, "extra": {}, "fingerprint": {}, "keep": 2}
        folder = checkpoint.save(root, 1, tree, **options)
        if differing_leaves(tree, _restored(root, tree)):
            return "", "what was restored is not what was saved"
        victim = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        told: list[str] = []
        with contextlib.suppress(CheckpointError):
            _restored(root, tree, told)
            return "", "a flipped bit of a checkpoint went unnoticed"
        if victim.name not in "".join(told):
            return "", f"{victim.name} was damaged, and what was said is: {' '.join(told)}"
    return "restored bit for bit; a flipped bit was noticed, and its file named", ""


def _restored(root: Path, template: Any, told: list[str] | None = None) -> Any:
    warn = (lambda text: None) if told is None else told.append
    found = checkpoint.restore(root, template, fingerprint={}, warn=warn)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {root}")
    return found[0]


def check_equal_bits(config: Config) -> tuple[str, str]:
    """(what was found, what is wrong): the run of the config twice, and once stopped, saved and
    restored at half of its steps."""
    task, optimiser = build(config)
    crew = Single(config, task, optimiser, lambda: None)

    def taken(state: Any, first: int, last: int) -> Any:
        state = jax.tree.map(jnp.copy, state)  # a step takes it away
        crew.current, done = parallel.place_state(crew.split, state), first
        while done < last:
            _, done = crew.advance(done, last)
        return crew.state(0)

    start = configured_state(config, task, optimiser)
    one, other = taken(start, 0, STEPS), taken(start, 0, STEPS)
    half = taken(start, 0, STEPS // 2)
    with temporary_folder() as place:
        root = place / "checkpoints"
        options = {"metric": None, "extra": {}, "fingerprint": {}, "keep": 1}
        checkpoint.save(root, STEPS // 2, half, **options)
        resumed = taken(_restored(root, half), STEPS // 2, STEPS)
    if int(one.step) != STEPS or not np.isfinite(float(one.tally["loss"])):
        return "", f"the run came to step {int(one.step)} of {STEPS}, its loss {one.tally['loss']}"
    if names := differing_leaves(one, other):
        return "", f"two equal runs of {STEPS} steps differ in {_some(names)}"
    if names := differing_leaves(one, resumed):
        return "", f"a run that was stopped and resumed differs in {_some(names)}"
    return (
        f"two runs of {STEPS} steps, and one stopped after {STEPS // 2}, saved and resumed, agree in "
        f"all {len(jax.tree.leaves(one))} arrays of their state, over {crew.split.name}"
    ), ""


def differing_leaves(one: Any, other: Any) -> list[str]:
    """The leaves of two trees of one structure that are not the same to the bit, by path."""

    def plain(leaf: Any) -> tuple[str, bytes]:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        return f"{array.dtype}{array.shape}", array.tobytes()

    pairs = zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    )  # raises if there are more of one
    return [jax.tree_util.keystr(path) for (path, a), b in pairs if plain(a) != plain(b)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- what that promises


def promises(config: Config, problems: list[str]) -> list[str]:
    """In sentences, what holds on this machine."""
    failed = {problem.partition(":")[0] for problem in problems}
    threads, told = machine.cores(), os.environ.get("NPROC")
    lines = []
    if not failed & {"equal bits", "checkpoints"}:
        lines.append(
            f"A run that is stopped or killed resumes bit for bit with these versions, this processor "
            f"and {threads} thread{'s' * (threads > 1)}"
            f"{'' if told else ' (NPROC=1 is the strictest: no sum is then split over threads)'}."
        )
        lines.append(
            "Resumed with other versions, threads or devices it goes on, warns, and agrees up to "
            "rounding."
        )
        lines.append(
            "A damaged checkpoint is noticed, its file is named, and the one before is taken."
        )
    else:
        lines.append("That a run resumes bit for bit is NOT promised here: see what failed above.")
    if jax.default_backend() == "gpu" and "deterministic" not in os.environ.get("XLA_FLAGS", ""):
        lines.append("On a GPU the promise needs XLA_FLAGS=--xla_gpu_deterministic_ops=true.")
    if "gradients" in failed:
        lines.append("Gradients are WRONG here: no result of this machine counts.")
    else:
        lines.append("Gradients are those of BPTT, by the fast path as by the plain one.")
    return lines
