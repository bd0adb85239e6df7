"""The verbs of many runs: sweep, and report."""

import argparse
import sys
from pathlib import Path

from rnnlab.run import machine, places, process
from rnnlab.run.command import Call, Verb

SLURM_FLAGS = (
    ("partition", str, "NAME", "where the jobs run (default: the cluster's)"),
    (
        "time",
        int,
        "MIN",
        "the limit of a job, after which it is queued again (default: the partition's)",
    ),
    ("gpus", int, "N", "GPUs of a member, on each of its hosts (default: none)"),
    ("cpus", int, "N", "cores of each process (default: the cluster's, 1 as a rule)"),
    ("nodes", int, "N", "hosts of a member; over several its steps are split (default: 1)"),
)


def sweep_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `sweep`."""
    parser.add_argument(
        "--config",
        type=places.any_place,
        metavar="FILE",
        help="config file, such as experiments/clip_sweep_small.py",
    )
    parser.add_argument(
        "--workdir",
        type=places.new_folder,
        metavar="DIR",
        help="the sweep's folder (default: runs/NAME of the config file)",
    )
    parser.add_argument(
        "--config.KEY", metavar="VALUE", help="set a key of the config, for all members"
    )
    parser.add_argument(
        "--executor",
        default="vmap",
        metavar="HOW",
        help="vmap: members that can be one program are (default); local: a process for each; "
        "slurm: a task of a job array for each",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="local: processes at once (default: cores); slurm: members at once (default: all)",
    )
    parser.add_argument(
        "--halving",
        type=int,
        metavar="ETA",
        help="successive halving: at 1/ETA, 1/ETA^2 ... of the steps the best 1/ETA of the members "
        "go on (default: all do)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="check all members and list them; nothing is written"
    )
    cluster = parser.add_argument_group(
        "SLURM",
        "what each member's job asks for; sbatch takes the rest from the environment: SBATCH_ACCOUNT, "
        "SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_MEM_PER_NODE ...",
    )
    for name, kind, metavar, summary in SLURM_FLAGS:
        cluster.add_argument(f"--{name}", type=kind, metavar=metavar, help=summary)


def run_sweep(call: Call) -> int:
    """Train the members of a sweep that are left, and write its report; 1 if a member failed."""
    process.make_devices(machine.cores())  # members are spread over them, each on one
    process.allow_files()
    from rnnlab.errors import UsageError, one_line
    from rnnlab.run import config_file
    from rnnlab.run.display import say
    from rnnlab.sweep import execute, members, report, slurm

    flags = call.flags
    if not flags.config and not flags.workdir:
        raise UsageError("sweep needs --config=FILE, or --workdir=DIR with a sweep to go on with")
    if call.overrides and not flags.config:
        raise UsageError("--config.KEY needs --config=FILE beside it")
    declared = members.declare_members(flags.config, call.overrides) if flags.config else None
    workdir = Path(flags.workdir or f"runs/{config_file.run_name(flags.config)}")
    if not flags.dry_run:
        places.folder_for(flags.workdir, workdir, "--workdir")
    if flags.dry_run:
        plan = members.plan_sweep(workdir, declared) if declared else members.open_sweep(workdir)
        members.list_members(plan, print)
        return 0
    asked = {name: getattr(flags, name) for name, *_ in SLURM_FLAGS}
    failed = execute.train_members(
        workdir,
        declared,
        executor=flags.executor,
        asked=slurm.Options(**asked, jobs=flags.jobs),
        halving=flags.halving,
        say=say,
        launch=call.program.command,
    )
    try:
        say(report.write_report(workdir))
    except UsageError as error:
        if not failed:
            raise
        print(f"rnnlab: no report: {one_line(error)}", file=sys.stderr)
    return 1 if failed else 0


SWEEP = Verb(
    "sweep",
    "train all members of a sweep, or what is left of it",
    "A config file declares it by a function sweep(add). A stopped sweep goes on by the same "
    "command, and one whose config declares more members trains "
    "those. At the end there is a report, and while it runs: see the verb report.",
    sweep_flags,
    run_sweep,
    configurable=True,
)


def report_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    parser.add_argument(
        "--workdir",
        type=places.old_folder,
        required=True,
        metavar="DIR",
        help="the sweep's folder",
    )


def run_report(call: Call) -> None:
    """Write the report of a sweep, of what has been trained so far."""
    from rnnlab.run import display
    from rnnlab.sweep import report

    display.say(report.write_report(Path(call.flags.workdir)))


REPORT = Verb(
    "report",
    "write the report of a sweep",
    "report.md with its figures and results.csv, of what has been trained so far.",
    report_flags,
    run_report,
    writes_into=True,
)
