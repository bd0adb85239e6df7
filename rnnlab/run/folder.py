"""A run's folder: its lock, what may lie in it, and what run.json says of the program and machine."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from rnnlab.errors import UsageError
from rnnlab.run import display, integrity, locks, machine
from rnnlab.run.files import read_json, reason

_PACKAGES = ("rnnlab", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_SOURCE = Path(__file__).resolve().parent
LOCK = ".lock"  # how the names begin of the files that say who holds a folder


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Holds the run folder, made if need be, for this process; its death lets go of it.

    Raises InUseError if another one holds it, UsageError if the folder cannot be made or written.
    """
    workdir = Path(workdir)
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"run folder {str(workdir)!a} cannot be used: its name is not UTF-8, which checkpoints "
            "need: choose another --workdir"
        ) from None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {workdir}")
        no_links([workdir, workdir / "tensorboard"])
    except OSError as error:
        raise UsageError(f"run folder {workdir} cannot be used: {reason(error)}") from error
    with locks.held(workdir / LOCK, f"run folder {workdir}", display.warn):
        yield


def no_links(folders: Iterable[Path]) -> None:
    """Raises UsageError for a link to a file in one of the folders: a run writes to the files of its
    folder, and one that somebody else has made could have it write to any."""
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_symlink() and not path.is_dir():
                raise UsageError(
                    f"{path} is a link, through which another file would be written: remove it"
                )


# ---- what the run was


def describe(*, overrides: list[str]) -> dict[str, Any]:
    """What run.json records of the program and the machine; no names of host or user are asked for.

    `overrides` are the config values given on the command line, kept as they are. `git` is None
    where the source is not part of a commit.
    """
    devices = jax.devices()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "overrides": list(overrides),
        "git": _git(),
        "versions": {"python": platform.python_version()}
        | {p: machine.installed(p) for p in _PACKAGES},
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "cpus_allowed": machine.allowed(),
        "environment": integrity.settings(),
    }


def unchanged(folder: Path | None, what: str, source: Any, sha256: str | None) -> None:
    """Raise UsageError unless this is the sha256 of the data of the run in `folder`; None: there is no
    run yet. what: a word for the data; source: where it comes from."""
    if folder is None:
        return
    before = read_json(folder / "run.json").get("data", {}).get("sha256")
    if before != sha256:
        raise UsageError(
            f"the {what} of this run changed since it began: {source} has sha256 {sha256}, the run has "
            f"{before}"
        )


def _git() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(_SOURCE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
