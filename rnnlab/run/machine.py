"""The machine and the versions of packages. No name of a host or user is asked for."""

import contextlib
import functools
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

VECTORS = {"AVX-512": "avx512f", "AVX2": "avx2"}
PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")


def allowed() -> int:
    """The processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """The cores that computing should use: NPROC, which XLA goes by, or else those allowed."""
    told = os.environ.get("NPROC", "")
    return int(told) if told.isdigit() and int(told) else allowed()


def available_memory() -> int:
    """Bytes that could be allocated now: of the machine, or of the container or job that this process
    is in, whichever has less. On a system that does not say, all of the machine's memory."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                there = int(line.split()[1]) << 10
    return min([there, *_left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def _left_in_groups(own: Path, root: Path) -> list[int]:
    """Bytes left to this process in each control group that limits it, its own and those above.

    own: the list of its groups; root: where they are mounted (version 2, or 1). A container may see
    its group at `root` itself, under another path than `own` has: what is not there is passed over.
    """
    found = []
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                base, names = root, ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                base = root / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            group = PurePosixPath(path.lstrip("/"))
            for folder in (base / group, *(base / above for above in group.parents)):
                with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no limit
                    limit, used = (int((folder / name).read_text()) for name in names[:2])
                    lines = (folder / "memory.stat").read_text().splitlines()
                    # What was read from files counts as used, but is given up when memory is asked for.
                    files = int(dict(line.split() for line in lines)[names[2]])
                    found.append(max(0, limit - used + files))
    return found


@functools.cache
def processor() -> str:
    """The processor's name and its widest vectors, which a virtual machine's name may hide: XLA
    compiles for the instruction set it finds, and that changes bits."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        pairs = [line.partition(":") for line in lines]
        found = {key.strip(): value.strip() for key, _, value in pairs}
        if name := found.get("model name"):
            flags = found.get("flags", "").split()
            widest = [label for label, flag in VECTORS.items() if flag in flags][:1]
            return ", ".join([name, *widest])
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts(*, threads: int, memory: str) -> dict[str, Any]:
    """What a reader of the numbers must know. threads, memory: the flags of the benchmark."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {p: installed(p) for p in PACKAGES},
        "threads": threads,
        "precision": "float32, matrix products at 'highest'",
        "memory": memory,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def facts_line(found: dict[str, Any]) -> str:
    """`facts` in one line."""
    versions = [f"{name} {number}" for name, number in found["versions"].items() if number]
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
        f"{found['memory_bytes'] / 2**30:.0f} GiB; {', '.join(versions)}; {found['precision']}; "
        f"memory {found['memory']}; {found['date']}"
    )
