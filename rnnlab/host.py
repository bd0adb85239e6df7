"""What a launched process sets for itself before JAX starts. Importing rnnlab does none of this."""

import ctypes
import os
import sys
from pathlib import Path

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # malloc.h of glibc


def retain_memory() -> bool:
    """Keep freed memory in the process; whether that was possible (glibc on Linux only).

    XLA on a CPU allocates its temporary buffer anew for each call; glibc hands it back to the
    kernel each time, and every page faults again: half the time of a train step.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))
        # Each is set, whether or not the one before it could be.
        done = [libc.mallopt(name, value) for name, value in settings]
        return all(done)
    except (OSError, AttributeError):  # another C library
        return False


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs in `folder`, so that the second launch starts at once.

    An unwritable folder only costs the time to compile again.
    """
    import jax

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
