"""Makes run folders with the version of rnnlab on PYTHONPATH, and records what it says of them.

    PYTHONPATH=CHECKOUT python tests/old_runs/make.py FOLDER

By hand, once for a version whose runs are to be kept: no test calls it, and FOLDER must not exist.
FOLDER then holds

    character/     a character model: its best checkpoint is of step 40, its latest of step 45
    translation/   of dates, with checkpoints of the same steps
    sweep/         four members of one program: two have ended at step 12, two stopped at step 8
    text.txt       what character model and sweep were trained on, by this name in the current folder
    expected.json  what commands printed of these, `calls`; the rows of metrics.jsonl that follow once
                   each run is resumed, `rows`; the sweep's results.csv before that and after it

All were trained to the end and then cut to what a process killed after a checkpoint leaves, so that the
rows to come are known. Figures and event files are left out.

Everything runs in PLACE, so that no folder of the machine gets into the files.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import launch

PLACE = Path("/tmp/old_runs")
COMMON = {
    "model.hidden": 8,
    "model.layers": 1,
    "optim.clip_norm": 0.5,
    "optim.schedule": "cosine",
    "optim.learning_rate": 0.03,
    "optim.warmup_steps": 5,
    "train.steps": 50,
    "train.batch_size": 4,
    "train.log_every": 1,
    "train.eval_every": 20,
    "train.sample_every": 20,
    "train.checkpoint_every": 45,
    "train.keep": 3,
    "train.steps_per_dispatch": 1,
    "parallel.devices": 1,
}
TEXT = {
    "data.path": "text.txt",
    "data.forget": 0.1,
    "train.window": 8,
    "eval.streams": 2,
    "eval.window": 32,
    "eval.burn_in": 8,
    "eval.random_windows": 4,
    "eval.random_window": 16,
    "sample.length": 20,
}
CHARACTER = {"model.dropout": 0.1, "model.options.zoneout": 0.1, "optim.ema": 0.9}
SWEEP = {
    "optim.ema": 0.0,
    "train.steps": 12,
    "train.eval_every": 4,
    "train.sample_every": 0,
    "train.checkpoint_every": 8,
    "train.keep": 2,
}
TRANSLATION = {
    "train.batch_size": 16,
    "encoder.hidden": 6,
    "encoder.embedding": 6,
    "encoder.size": 6,
    "decoder.size": 6,
    "decoder.embedding": 6,
    "eval.examples": 8,
    "eval.decoded": 4,
    "eval.tested": 4,
    "eval.beam": 2,
    "eval.chunk": 4,
}
GRID = """
from experiments import default


def get_config():
    return default.get_config()


def sweep(add):
    for threshold in (0.1, float("inf")):
        for seed in (0, 1):
            add(**{"optim.clip_norm": threshold, "seed": seed})
"""
MEMBERS = [
    *("000_clip_norm=0.1_seed=0", "001_clip_norm=0.1_seed=1"),
    *("002_clip_norm=inf_seed=0", "003_clip_norm=inf_seed=1"),
]
ENDED, STOPPED = MEMBERS[::2], MEMBERS[1::2]
CALLS = {
    "character": [
        ["evaluate", "--json", "--workdir=character"],
        ["evaluate", "--json", "--workdir=character", "--checkpoint=latest"],
        *(
            ["sample", "--workdir=character", "--prime=the ", *more]
            for more in (
                ["--length=60", "--temperature=0"],
                ["--length=60", "--seed=3", "--checkpoint=latest"],
                ["--length=12", "--beam=3"],
            )
        ),
    ],
    "sweep": [
        ["evaluate", "--json", f"--workdir=sweep/members/{ENDED[0]}"],
        ["evaluate", "--json", f"--workdir=sweep/members/{STOPPED[0]}"],
    ],
    "translation": [
        ["evaluate", "--json", "--workdir=translation"],
        ["evaluate", "--json", "--workdir=translation", "--checkpoint=latest"],
        ["sample", "--workdir=translation", "--prime=the 3rd of March 1984", "--temperature=0"],
    ],
}


def main() -> None:
    [folder] = map(Path, sys.argv[1:])
    folder = folder.absolute()
    folder.mkdir(parents=True)
    PLACE.mkdir()
    checkout = Path(launch.__file__).resolve().parent
    (PLACE / "experiments").symlink_to(checkout / "experiments")
    (PLACE / "launch.py").symlink_to(checkout / "launch.py")
    (PLACE / "grid.py").write_text(GRID)
    (PLACE / "text.txt").write_text(text())

    rows, results = {}, {}
    train("train", "experiments/default.py", "character", COMMON | TEXT | CHARACTER)
    train("train", "experiments/translation.py", "translation", COMMON | TRANSLATION)
    for name in ("character", "translation"):
        rows[name] = cut(PLACE / name, 45)
    changes = COMMON | TEXT | SWEEP
    del changes["optim.clip_norm"]
    train("sweep", "grid.py", "sweep", changes)
    sweep = PLACE / "sweep"
    results["after"] = (sweep / "results.csv").read_text()
    for member in ENDED:
        shutil.rmtree(sweep / "members" / member / "checkpoints" / "00000008")
    for member in STOPPED:
        rows[f"sweep/members/{member}"] = cut(sweep / "members" / member, 8)
    run(["report", "--workdir=sweep"])
    results["before"] = (sweep / "results.csv").read_text()

    calls = []
    for name, commands in CALLS.items():
        for pattern in ("tensorboard", "*.png", ".lock"):
            for path in [*(PLACE / name).rglob(pattern)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        calls += [{"arguments": words, "printed": run(words)} for words in commands]
        shutil.copytree(PLACE / name, folder / name)
    shutil.copy(PLACE / "text.txt", folder)
    expected = {"calls": calls, "rows": rows, "results": results}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    shutil.rmtree(PLACE)


def text() -> str:
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "off"]
    return "".join(" ".join(draw.choices(words, k=7)) + ".\n" for _ in range(80))


def train(verb: str, config: str, name: str, changes: dict[str, Any]) -> None:
    given = [f"--config.{key}={value}" for key, value in changes.items()]
    run([verb, f"--config={config}", f"--workdir={name}", *given])


def run(arguments: list[str]) -> str:
    """What the command prints."""
    command = [sys.executable, "launch.py", *arguments]
    done = subprocess.run(command, cwd=PLACE, env=os.environ, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def cut(run_folder: Path, step: int) -> list[dict[str, Any]]:
    """Take back what a run did after the checkpoint of a step; the rows of what it did."""
    rows = (run_folder / "metrics.jsonl").read_text().splitlines()
    for path in (run_folder / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    meta = json.loads((run_folder / "checkpoints" / f"{step:08d}" / "meta.json").read_text())
    for name in ("metrics.jsonl", "samples.txt"):
        os.truncate(run_folder / name, meta["extra"][f"{Path(name).stem}_bytes"])
    (run_folder / "summary.json").unlink()
    told = [json.loads(row) for row in rows]
    return [
        {key: value for key, value in row.items() if "second" not in key}
        for row in told
        if row["step"] > step
    ]


if __name__ == "__main__":
    main()
