"""What the benchmark says of the machine and the versions. No name of a host or user is asked for."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "torch", "numpy")


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that could be allocated now; on a system that does not say, all of its memory."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts(*, threads: int, memory: str) -> dict[str, Any]:
    """What a reader of the numbers must know. threads, memory: the flags of the benchmark."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "threads": threads,
        "precision": "float32, matrix products at 'highest'",
        "memory": memory,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def line(found: dict[str, Any]) -> str:
    """`facts` in one line."""
    versions = [f"{name} {number}" for name, number in found["versions"].items() if number]
    return (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
        f"{found['memory_bytes'] / 2**30:.0f} GiB; {', '.join(versions)}; {found['precision']}; "
        f"memory {found['memory']}; {found['date']}"
    )
