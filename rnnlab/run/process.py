"""What a launched process sets for itself before JAX starts. Importing rnnlab does none of this."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
RETAINED = 1 << 30  # bytes; a larger array comes from the kernel and goes back to it


def retain_memory() -> bool:
    """Keep freed memory in the process; whether that was possible (glibc on Linux only).

    XLA on a CPU allocates its temporary buffer anew for each call; glibc hands it back to the
    kernel each time, and every page faults again: half the time of a train step.

    Not so the largest buffers, whose steps are long: glibc may find no room for one in the place
    that the one before it has left, and would keep up to four of them.
    """
    if sys.platform != "linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        # Each is set, whether or not the one before it could be.
        done = [libc.mallopt(M_ARENA_MAX, 1), libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)]
        # A threshold above 32 MiB is refused by older versions: there every array is kept.
        kept = libc.mallopt(M_MMAP_THRESHOLD, RETAINED) or libc.mallopt(M_MMAP_MAX, 0)
        return all((*done, kept))
    except (OSError, AttributeError):  # another C library
        return False


class _Deliver:
    """A hook for what Python cannot raise: what it is given by `hook`, but an interrupt comes again."""

    def __init__(self, hook: Callable[[Any], Any]):
        self.hook = hook

    def __call__(self, unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
        else:
            self.hook(unraisable)


def deliver_interrupts() -> None:
    """Let no Ctrl-C get lost. One that comes while Python runs a callback of the garbage collector
    (JAX has one) or a finaliser is printed with a traceback and forgotten, and the program goes on."""
    if not isinstance(sys.unraisablehook, _Deliver):
        sys.unraisablehook = _Deliver(sys.unraisablehook)


def one_blas_thread() -> None:
    """NumPy's small factorisations on one thread, unless the user says otherwise; before NumPy.

    On two, of a machine that is busy, they take ten to twenty times as long: OpenBLAS's threads spin.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs in `folder`, so that the second launch starts at once.

    An unwritable folder, or a full disk, only costs the time to compile again.
    """
    import jax

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    # JAX warns of each program that it could not keep.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def make_devices(count: int) -> None:
    """Have JAX make `count` devices of the CPU's cores; too late, and no error, once it runs."""
    import jax

    if count == 1:
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def allow_files() -> None:
    """Raise this process's limit of open files as far as it may: each run of a population keeps
    four open, and a usual limit is 1024."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes, before JAX starts; what is None the cluster tells.

    Raises UsageError if they do not come together.
    """
    import jax

    from rnnlab.errors import UsageError

    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().split("\n")[0]
        raise UsageError(f"the processes do not come together: {line}") from error


def age() -> float:
    """Seconds since this process began; 0 where /proc does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since boot
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
