"""The verbs of this machine: bench, and doctor."""

import argparse
import sys

from rnnlab.run import places, process
from rnnlab.run.command import Call, Verb, no_flags

BENCH_FLAGS = (
    ("cells", str, "NAMES", "of lstm,gru,rnn,ugrnn"),
    ("shapes", str, "LIST", "layers x units x batch x time, e.g. 3x512xB64xT128,2x128xB50xT50"),
    (
        "libraries",
        str,
        "NAMES",
        "of rnnlab,rnnlab-plain,rnnlab-flow,rnnlab-watched,flax,torch,torch-compile",
    ),
    ("seconds", float, "S", "to spend on each library and shape"),
    (
        "memory",
        str,
        "MODE",
        "stock (each library as it comes), retained (all keep freed memory), both",
    ),
    ("threads", int, "N", "of every library (default: the usable cores)"),
    ("vocabulary", int, "V", "characters (default: 65)"),
    ("layers", int, "L", "scaling, memory, generation: cells in the stack"),
    ("hidden", int, "H", "scaling, memory, generation, sweep: units a layer"),
    (
        "batch",
        str,
        "LIST",
        "scaling, memory, generation: batch sizes; the first is that of the T's",
    ),
    ("max_time", int, "T", "scaling, memory: the longest window (default: 16384)"),
    ("length", int, "N", "generation: characters of a text"),
    ("repeats", int, "N", "startup: launches of each kind"),
    ("members", int, "N", "sweep: runs in it (default: 16)"),
    ("steps", int, "N", "sweep: train steps of each (default: 300)"),
)


def bench_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`."""
    parser.add_argument(
        "suite",
        nargs="?",
        default="step",
        metavar="SUITE",
        help="step, scaling, memory, generation, startup or sweep (default: step)",
    )
    for name, kind, metavar, summary in BENCH_FLAGS:
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=summary)
    parser.add_argument(
        "--json",
        type=places.new_file,
        nargs="?",
        const="-",
        metavar="FILE",
        help="print one JSON object instead of the tables; with =FILE, write it there beside them",
    )


def run_bench(call: Call) -> None:
    """Run a suite of the benchmark."""
    from rnnlab.bench import suites
    from rnnlab.errors import UsageError

    flags = call.flags
    if flags.json in suites.SUITES:
        raise UsageError(f"--json takes '{flags.json}' for a file: put --json last, or --json=FILE")
    given = {name: getattr(flags, name) for name, *_ in BENCH_FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    suites.run_suite(flags.suite, given, flags.json, call.program)


BENCH = Verb(
    "bench",
    "time rnnlab beside PyTorch and Flax, on the CPU",
    "What is timed computes the same as rnnlab's plain scan: that is checked first. Suites: "
    "step (the whole train step), scaling (with T and B), memory (peak by T, with and without "
    "rematerialisation), generation (characters a second), startup (seconds to the first "
    "step), sweep (a whole sweep in three ways). A flag that is not given takes the suite's own default.",
    bench_flags,
    run_bench,
)


def run_doctor(call: Call) -> int:
    """Print what this machine has and promises; 1 if a check failed."""
    from rnnlab.bench import doctor
    from rnnlab.run import config, default
    from rnnlab.run.display import say
    from rnnlab.train import parallel
    from rnnlab.train.from_config import device_request

    settings = config.load(default.__file__, [*doctor.TRIAL])
    process.make_devices(parallel.host_devices(**device_request(settings)))
    problems = doctor.examine(settings, say)
    if problems:
        print(f"rnnlab: not all is well: {'; '.join(problems)}", file=sys.stderr)
    return 1 if problems else 0


DOCTOR = Verb(
    "doctor",
    "tell what this machine has, check itself, and say what is promised here",
    "Versions, devices, threads, memory, folders, precision; then a self-check of a few seconds: "
    "gradients, checkpoints, equal bits. Nothing but compiled programs stays on the disk.",
    no_flags,
    run_doctor,
)
