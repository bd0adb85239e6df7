"""The verb diagnose."""

import argparse
from pathlib import Path

from rnnlab.run import places
from rnnlab.run.command import Call, Verb


def diagnose_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `diagnose`."""
    parser.add_argument(
        "--workdir",
        type=places.old_folder,
        metavar="DIR",
        help="the folder of a run, or of a sweep",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="best",
        help="of the run: best, latest, or a step (default: best)",
    )
    parser.add_argument(
        "--config", type=places.any_place, metavar="FILE", help="config file, instead of a run"
    )
    parser.add_argument("--config.KEY", metavar="VALUE", help="set a key of the config")
    parser.add_argument(
        "--window",
        type=int,
        default=0,
        metavar="T",
        help="time steps to look at (default: 4 windows of training where the state is carried from "
        "one to the next, else 1)",
    )
    parser.add_argument(
        "--out",
        type=places.new_folder,
        metavar="DIR",
        help="where to write (default: diagnosis in the run's folder, or runs/NAME.initial)",
    )


def run_diagnose(call: Call) -> None:
    """Write the diagnosis of a run, of a config at initialisation, or of a sweep's members."""
    from rnnlab.diagnose import compare, report, subject
    from rnnlab.errors import UsageError
    from rnnlab.run import config
    from rnnlab.run.display import say, warn

    flags = call.flags
    if bool(flags.config) == bool(flags.workdir):
        raise UsageError("diagnose needs --workdir=DIR with a run, or --config=FILE, and not both")
    if call.overrides and not flags.config:
        raise UsageError("--config.KEY is for --config=FILE: a run has its own config")
    name, workdir = Path(flags.config or "").stem, Path(flags.workdir or "")
    folder = workdir / "diagnosis" if flags.workdir else Path(f"runs/{name}.initial")
    folder = places.folder_for(flags.out, folder, "--out")
    of_run = {"which": flags.checkpoint, "window": flags.window, "warn": warn}
    if flags.workdir and compare.is_sweep(workdir):
        path = compare.write_report(workdir, folder, say=say, **of_run)
    elif flags.workdir:
        path = report.write_report(subject.of_run(workdir, **of_run), folder, say=say)
    else:
        initial = config.load(flags.config, call.overrides)
        path = report.write_report(subject.of_config(initial, name, flags.window), folder, say=say)
    say(f"the diagnosis is in {path}")


DIAGNOSE = Verb(
    "diagnose",
    "tell what the gradients of a model do, and why",
    "Of a trained run (--workdir), or of a config at initialisation (--config): gradient flow, "
    "saturation, truncation, clipping. Of a sweep (--workdir): the gradient flow of its members "
    "side by side, at initialisation and trained. Writes diagnosis.md and its figures.",
    diagnose_flags,
    run_diagnose,
    configurable=True,
    writes_into=True,
)
