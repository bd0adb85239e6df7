"""The whole campaign of faults, as a table: python -m tests.faults

Every fault is injected for real. Each row says how often, and how many of these were survived: what
that means for a kind of fault, the docstring of its file says. Exit code 1 if anything was lost.
"""

import argparse
import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import jax

from rnnlab.run import machine
from tests.faults.lab import Lab, Tally


def kinds() -> list[str]:
    """The files of this folder that have a campaign: all but the lab, and tests and _helpers."""
    names = [path.stem for path in Path(__file__).parent.glob("[a-z]*.py")]
    return sorted(name for name in names if name != "lab" and not name.startswith("test_"))


def line(row: Tally, seconds: float) -> str:
    told = ", ".join(f"{count:,} {name}" for name, count in row.outcomes.most_common())
    survived = row.injected - len(row.lost)
    share = f"{100 * survived / row.injected:.4g}%" if row.injected else "none"
    return (
        f"| {row.fault} | {row.injected:,} | {survived:,} | {len(row.lost):,} | {share} | {told} | "
        f"{seconds:.0f} s |"
    )


def following(rows: Iterator[Tally], kind: str) -> Tally | None:
    """The next row, None after the last. What goes wrong in the campaign itself is a row that is lost,
    and the last of its kind."""
    try:
        return next(rows, None)
    except Exception as error:
        traceback.print_exc()
        row = Tally(f"{kind}: what comes next")
        row.count("", f"the campaign itself failed: {error!r}")
        return row


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of {', '.join(kinds())}")
    parser.add_argument("--share", type=float, default=1.0, help="of the campaign (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    flags = parser.parse_args(arguments)
    jax.config.update("jax_num_cpu_devices", 2)  # before JAX starts, as the tests do
    chosen = flags.only.split(",") if flags.only else kinds()
    if unknown := sorted(set(chosen) - set(kinds())):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(kinds())}")
    print(f"{machine.processor()}, {machine.cores()} cores\n")
    print("| fault | injected | survived | lost | | what came of it | time |")
    print("|---|---|---|---|---|---|---|", flush=True)
    lost = []
    for kind in chosen:
        module = importlib.import_module(f"tests.faults.{kind}")
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            rows = module.campaign(Lab(Path(folder), flags.seed), flags.share)
            while row := following(rows, kind):
                print(line(row, time.monotonic() - began), flush=True)
                lost += [f"{row.fault}: {problem}" for problem in row.lost]
                for problem in row.lost:
                    print(f"LOST {problem}", file=sys.stderr, flush=True)
                began = time.monotonic()
    for problem in lost:
        print(f"LOST {problem}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
