"""File systems that lack something: fsync of folders, as CIFS, or locks, as Lustre without its option.

_lacking.c, preloaded, has the run's folder lie on such a one, for Python and for TensorStore alike. Survived
means that a run goes on as if nothing were, but for a warning of each thing that lacks, told once; that a
second process is refused; and that a run that was killed is taken over. Without a C compiler it is left out.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.disk import as_if_nothing, ended, one_line, rows_of
from tests.faults.lab import Lab, Tally

SHORT = 0.02
HOLDER = ".lock.holder"


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    row = Tally("a file system without fsync of folders, without locks, without both")
    compiler = shutil.which("cc")
    if compiler is None:
        yield row.left_out("it needs a C compiler")
        return
    library = lab.place("lacking").with_suffix(".so")
    source = Path(__file__).with_name("_lacking.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    kinds = ("fsync", "locks", "fsync,locks")
    for lacking in kinds if share > SHORT else kinds[-1:]:
        workdir = lab.place("lacking")
        options = {"environment": preloaded(library, workdir, lacking)}
        process = lab.start("train", *lab.flags(workdir), **options)
        rows_of(workdir, 3, process)
        if "locks" in lacking:
            holder = json.loads((workdir / HOLDER).read_text())
            problem = "" if holder["process"] == process.pid else f"it says {holder}"
            row.count("the holder is named", problem)
            beside = lab.run("train", *lab.flags(workdir), **options)
            told = f"in use by process {process.pid}"
            # The first may have ended by now.
            row.count("a second process", beside.code and one_line(beside, 6, told))
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
        done = lab.run("train", *lab.flags(workdir), **options)
        warnings = [line for line in done.err.splitlines() if "the file system of" in line]
        problem = as_if_nothing(lab, workdir, done)
        if not problem and len(warnings) != len(lacking.split(",")):
            problem = f"{len(warnings)} warnings: {warnings}"
        if not problem and (workdir / HOLDER).exists():
            problem = f"{HOLDER} was left behind"
        row.count(f"killed and gone on without {lacking}", problem)
    yield row


def preloaded(library: Path, folder: Path, lacking: str) -> dict[str, str]:
    """The environment of a process to which `folder` lies on a file system that lacks something."""
    return {"LD_PRELOAD": str(library), "LACKING_IN": str(folder), "LACKING": lacking}
