"""Resume a run again and again in one process: FILE.json of {"workdir", "changes", "first", "count"}.

Each time the run gets one step more and goes on from its folder, as a command of its own would do, by
`fit`. What its folder holds then is printed, a JSON object a line.
"""

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from rnnlab.data import cache
from rnnlab.run import process


def held(workdir: Path) -> dict[str, Any]:
    files = [path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()]
    # Into how many files Orbax writes the arrays of a checkpoint is a matter of its threads.
    files = [path for path in files if "state" not in path.parts]
    events = list((workdir / "tensorboard").iterdir())
    return {
        "run.json": (workdir / "run.json").stat().st_size,
        "checkpoints": len(list((workdir / "checkpoints").iterdir())),
        "event files": len(events),
        "event bytes": sum(path.stat().st_size for path in events),
        "rows": (workdir / "metrics.jsonl").read_bytes().count(b"\n"),
        "other files": len(files) - len(events),
    }


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    process.retain_memory()
    process.keep_compiled(cache.folder() / "compiled")
    from rnnlab.run import config
    from rnnlab.train.session import fit

    workdir = Path(asked["workdir"])
    for number in range(asked["count"] + 1):
        changes = [*asked["changes"], f"train.steps={asked['first'] + number}"]
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            fit(config.load(asked["config"], changes), workdir, [])
        print(json.dumps({**held(workdir), "seconds": time.monotonic() - began}), flush=True)
