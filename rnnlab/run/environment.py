"""Faults of what surrounds a verb - the system, the variables that set JAX up - each told in a line.

A launched process asks these before it computes; importing rnnlab asks none of them.
"""

import functools
import logging
import os
import re
import subprocess
import sys

from rnnlab.errors import UsageError

SUPPORTED = "rnnlab runs on Linux, macOS and WSL (Linux under Windows)"
# Variables that JAX and XLA read when they start.
PREFIXES = ("JAX_", "XLA_", "CUDA_VISIBLE", "LIBTPU_", "ROCR_", "HIP_")
# Flags by which JAX refuses what rnnlab does, on purpose: broadcasting a bias, a number from the host.
STRICT = {
    "jax_numpy_rank_promotion": ("raise",),
    "jax_numpy_dtype_promotion": ("strict",),
    "jax_transfer_guard": ("disallow", "disallow_explicit"),
    "jax_transfer_guard_host_to_device": ("disallow", "disallow_explicit"),
    "jax_transfer_guard_device_to_host": ("disallow", "disallow_explicit"),
    "jax_no_tracing": ("True",),
    "jax_no_execution": ("True",),
}
# XLA reads its flags once, and ends the process where it does not know one.
READ_FLAGS = (
    "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    "from jaxlib import xla_client\n"
    "xla_client.CompileOptions().executable_build_options.debug_options"
)


def check_system() -> None:
    """Raises UsageError on a system that rnnlab does not run on."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise UsageError(f"{SUPPORTED}; this Python is one for {sys.platform}") from None


def draw_into_files() -> None:
    """Have matplotlib draw without a screen, whatever MPLBACKEND says; nothing else is drawn here. And
    keep what it says of its own folders from standard error."""
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def start_jax() -> None:
    """Import JAX. Raises UsageError where a variable of the environment keeps it from that."""
    _check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        import jax
    except Exception as error:  # whatever a variable leads to
        raise UsageError(_told(error)) from error
    for name, words in STRICT.items():
        value = str(
            getattr(getattr(jax.config, name, None), "value", getattr(jax.config, name, None))
        )
        if value in words:
            raise UsageError(f"rnnlab does not compute with {name.upper()}={value}: unset it")


@functools.cache
def _check_xla_flags(flags: str) -> None:
    """Raises UsageError for flags that XLA refuses. In another process, which XLA may end."""
    if not flags.strip():
        return
    # -P: a module that lies in the working folder, a run's folder say, is not for it to import.
    command = [sys.executable, "-P", "-c", READ_FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    # "F1129 09:44:12.682287   31401 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --x"
    said = re.findall(r"^[EF]\d{4} .*?\] (.*)", done.stderr, re.MULTILINE)
    if done.returncode and said:
        raise UsageError(f"XLA refuses XLA_FLAGS={flags}: {said[0]}")


def fault() -> str:
    """Why JAX has no device to compute on, in a line; "" if it has one, or was not asked for any."""
    if "jax" not in sys.modules:
        return ""
    import jax

    try:
        jax.devices()
    except Exception as error:
        return _told(error)
    return ""


def _told(error: Exception) -> str:
    lines = [line for line in str(error).split("\n") if line.strip()]
    why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    there = {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES)}
    told = f"JAX does not start here ({why})"
    if not there:
        return told
    advice = "unset what does not belong there"
    if there.get("JAX_PLATFORMS"):
        advice = "unset it, or install what it names (the extras 'cuda' and 'tpu')"
    return f"{told}; set are {', '.join(f'{k}={v}' for k, v in there.items())}: {advice}"
