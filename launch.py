"""rnnlab's launcher: python launch.py VERB --help"""

import argparse
import io
import sys
import time
from pathlib import Path
from typing import NoReturn

from rnnlab.run import machine, process

EPILOG = """\
examples:
  python launch.py train    --config=experiments/quickstart.py
  python launch.py train    --config=experiments/quickstart.py --workdir=runs/mine \\
                            --config.optim.clip_norm=5.0
  python launch.py evaluate --workdir=runs/mine
  python launch.py sample   --workdir=runs/mine --prime="def " --length=500 --temperature=0.8
  python launch.py diagnose --workdir=runs/mine
  python launch.py bench    step --cells=lstm --shapes=2x128xB50xT50
  python launch.py doctor

exit codes:
  0 done   1 rnnlab itself failed   2 bad flag, config or data   3 diverged   4 bad checkpoint
  5 disk   6 run folder in use   7 out of memory   129, 130, 143 interrupted, the state saved
"""


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
COMPILE_FLAGS = (
    ("num", int, 100, "texts of each source"),
    ("length", int, 500, "characters of a text, about"),
    ("temperature", float, 0.8, "of the draws, of the n-gram models too"),
    ("seed", int, 0, "of the draws"),
    ("preamble", str, "", "a file that comes after \\documentclass (default: built in)"),
    ("timeout", float, 20.0, "seconds for a document"),
    ("out", str, "", "where to write (default: latex in the run's folder)"),
)
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


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        from rnnlab.errors import one_line

        self.exit(2, f"rnnlab: {one_line(message)} (see python {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="launch.py",
        description="Train, evaluate, sample, diagnose and time recurrent neural networks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, details: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {details}",
            allow_abbrev=False,
        )

    train = verb(
        "train",
        "train a model, or resume the run that the folder holds",
        "A stopped run goes on bit for bit. Ctrl-C finishes the step and saves. A config file is "
        "Python code, and it runs.",
    )
    train.add_argument(
        "--config", metavar="FILE", help="config file, such as experiments/default.py"
    )
    train.add_argument(
        "--workdir", metavar="DIR", help="the run's folder (default: runs/NAME of the config file)"
    )
    train.add_argument(
        "--config.KEY",
        metavar="VALUE",
        help="set a key of the config, e.g. --config.optim.clip_norm=5.0; experiments/default.py "
        "explains every key",
    )

    several = train.add_argument_group(
        "several processes",
        "start the same command once for each, on one host or more; all must see the same --workdir",
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 is, and a free port of it"
    )
    several.add_argument("--num_processes", type=int, metavar="N", help="how many processes")
    several.add_argument("--process_id", type=int, metavar="I", help="which one this is, from 0")
    several.add_argument(
        "--distributed", action="store_true", help="ask the cluster (SLURM, say) for these three"
    )

    def of_run(name: str, summary: str, details: str) -> argparse.ArgumentParser:
        sub = verb(name, summary, details)
        sub.add_argument("--workdir", metavar="DIR", required=True, help="the run's folder")
        sub.add_argument(
            "--checkpoint",
            metavar="WHICH",
            default="best",
            help="best (on the held-out data), latest, or a step (default: best)",
        )
        return sub

    evaluate = of_run(
        "evaluate",
        "measure a trained model on its held-out data",
        "Needs nothing but the run's folder, and writes nothing.",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")

    sample = of_run(
        "sample",
        "write text with a trained model",
        "Needs nothing but the run's folder, and writes nothing. The same seed gives the same text.",
    )
    sample.add_argument(
        "--prime",
        default="",
        metavar="TEXT",
        help="what the text begins with (default: a random letter)",
    )
    sample.add_argument(
        "--length", type=int, default=500, help="characters to write (default: 500)"
    )
    sample.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="> 1 bolder, < 1 safer, 0 greedy (default: 0.8)",
    )
    sample.add_argument(
        "--top_k",
        type=int,
        default=0,
        metavar="K",
        help="only the K most probable (default: 0, off)",
    )
    sample.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="only the most probable that together have probability P (default: 1, off)",
    )
    sample.add_argument("--num", type=int, default=1, help="how many texts at once (default: 1)")
    sample.add_argument("--seed", type=int, default=0, help="of the random draws (default: 0)")
    sample.add_argument(
        "--beam",
        type=int,
        default=0,
        metavar="WIDTH",
        help="beam search for the most probable text instead of drawing one (default: 0, off)",
    )

    show = of_run(
        "show",
        "draw what a trained model does: pictures, pages, translations",
        "Writes into the folder --out; which files depends on the task.",
    )
    show.add_argument(
        "--out", metavar="DIR", help="where to write (default: shown in the run's folder)"
    )

    verb(
        "tasks", "list the tasks, with mapping, data and metric", "Each is a file of rnnlab/tasks."
    )

    verb(
        "doctor",
        "tell what this machine has, check itself, and say what is promised here",
        "Versions, devices, threads, memory, folders, precision; then a self-check of a few seconds: "
        "gradients, checkpoints, equal bits. Nothing but compiled programs stays on the disk.",
    )

    sweep = verb(
        "sweep",
        "train all members of a sweep, or what is left of it",
        "A config file declares it by a function sweep(add). A stopped sweep goes on by the same "
        "command. At the end there is a report, and while it runs: see the verb report.",
    )
    sweep.add_argument(
        "--config", metavar="FILE", help="config file, such as experiments/clip_sweep_small.py"
    )
    sweep.add_argument(
        "--workdir",
        metavar="DIR",
        help="the sweep's folder (default: runs/NAME of the config file)",
    )
    sweep.add_argument(
        "--config.KEY", metavar="VALUE", help="set a key of the config, for all members"
    )
    sweep.add_argument(
        "--executor",
        default="vmap",
        metavar="HOW",
        help="vmap: members that can be one program are (default); local: a process for each; "
        "slurm: a task of a job array for each",
    )
    sweep.add_argument(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="local: processes at once (default: cores); slurm: members at once (default: all)",
    )
    sweep.add_argument(
        "--halving",
        type=int,
        metavar="ETA",
        help="successive halving: at 1/ETA, 1/ETA^2 ... of the steps the best 1/ETA of the members "
        "go on (default: all do)",
    )
    sweep.add_argument(
        "--dry_run", action="store_true", help="check all members and list them; nothing is written"
    )
    cluster = sweep.add_argument_group(
        "SLURM",
        "what each member's job asks for; sbatch takes the rest from the environment: SBATCH_ACCOUNT, "
        "SBATCH_QOS, SBATCH_CONSTRAINT, SBATCH_MEM_PER_NODE ...",
    )
    for name, kind, metavar, summary in SLURM_FLAGS:
        cluster.add_argument(f"--{name}", type=kind, metavar=metavar, help=summary)

    report = verb(
        "report",
        "write the report of a sweep",
        "report.md with its figures and results.csv, of what has been trained so far.",
    )
    report.add_argument("--workdir", required=True, metavar="DIR", help="the sweep's folder")

    diagnose = verb(
        "diagnose",
        "tell what the gradients of a model do, and why",
        "Of a trained run (--workdir), or of a config at initialisation (--config): gradient flow, "
        "saturation, truncation, clipping. Of a sweep (--workdir): the gradient flow of its members "
        "side by side, at initialisation and trained. Writes diagnosis.md and its figures.",
    )
    diagnose.add_argument("--workdir", metavar="DIR", help="the folder of a run, or of a sweep")
    diagnose.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="best",
        help="of the run: best, latest, or a step (default: best)",
    )
    diagnose.add_argument("--config", metavar="FILE", help="config file, instead of a run")
    diagnose.add_argument("--config.KEY", metavar="VALUE", help="set a key of the config")
    diagnose.add_argument(
        "--window",
        type=int,
        default=0,
        metavar="T",
        help="time steps to look at (default: 4 windows of training where the state is carried from "
        "one to the next, else 1)",
    )
    diagnose.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: diagnosis in the run's folder, or runs/NAME.initial)",
    )

    compiles = of_run(
        "compile",
        "tell how much of the LaTeX that a model writes compiles",
        "Runs pdflatex on texts of the model, of n-gram models, and excerpts. Writes latex.md.",
    )
    for name, kind, default, summary in COMPILE_FLAGS:
        about = f"{summary} (default: {default})" if default != "" else summary
        compiles.add_argument(f"--{name}", type=kind, default=default, help=about)

    bench = verb(
        "bench",
        "time rnnlab beside PyTorch and Flax, on the CPU",
        "What is timed computes the same as rnnlab's plain scan: that is checked first. Suites: "
        "step (the whole train step), scaling (with T and B), memory (peak by T, with and without "
        "rematerialisation), generation (characters a second), startup (seconds to the first "
        "step), sweep (a whole sweep in three ways). A flag that is not given takes the suite's own default.",
    )
    bench.add_argument(
        "suite",
        nargs="?",
        default="step",
        metavar="SUITE",
        help="step, scaling, memory, generation, startup or sweep (default: step)",
    )
    for name, kind, metavar, summary in BENCH_FLAGS:
        bench.add_argument(f"--{name}", type=kind, metavar=metavar, help=summary)
    bench.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print one JSON object instead of the tables; with =FILE, write it there beside them",
    )
    return top


def overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(config overrides as "key=value", all other arguments)."""
    found, rest = [], []
    words = iter(arguments)
    for word in words:
        if word.startswith("--config."):
            key, separator, value = word.removeprefix("--config.").partition("=")
            if not separator:
                value = next(words, None)
                found.append(key if value is None else f"{key}={value}")
            else:
                found.append(f"{key}={value}")
        else:
            rest.append(word)
    return found, rest


def warn(text: str) -> None:
    from rnnlab.run import display

    display.warn(text)


def run_train(flags: argparse.Namespace, changes: list[str]) -> None:
    began = time.monotonic() - process.age()
    from rnnlab.errors import UsageError
    from rnnlab.run import config, limits
    from rnnlab.train import parallel, train

    if not flags.config and not flags.workdir:
        raise UsageError("train needs --config=FILE, or --workdir=DIR with a run to resume")
    if changes and not flags.config:
        raise UsageError("--config.KEY needs --config=FILE beside it")
    chosen = config.load(flags.config, changes) if flags.config else None
    workdir = Path(flags.workdir or f"runs/{Path(flags.config).stem}")
    three = (flags.coordinator, flags.num_processes, flags.process_id)
    if flags.distributed or three != (None, None, None):
        if not flags.distributed and None in three:
            raise UsageError("--coordinator, --num_processes and --process_id go together")
        process.join(*three)
    else:
        settings = chosen or train.mended_config(workdir, warn)
        if settings is not None:
            limits.validate(settings)
            wished = parallel.host_devices(**train.wished(settings))
            process.make_devices(min(wished, machine.cores()))
    train.train(chosen, workdir, changes, began)


def run_sweep(flags: argparse.Namespace, changes: list[str]) -> int:
    process.make_devices(machine.cores())  # members are spread over them, each on one
    process.allow_files()
    from rnnlab.errors import UsageError, one_line
    from rnnlab.sweep import executors, report, slurm
    from rnnlab.sweep import members as sweep

    if not flags.config and not flags.workdir:
        raise UsageError("sweep needs --config=FILE, or --workdir=DIR with a sweep to go on with")
    if changes and not flags.config:
        raise UsageError("--config.KEY needs --config=FILE beside it")
    members = sweep.declared(flags.config, changes) if flags.config else None
    workdir = Path(flags.workdir or f"runs/{Path(flags.config).stem}")
    if flags.dry_run:
        sweep.show(members or sweep.opened(workdir).members, print)
        return 0
    asked = {name: getattr(flags, name) for name, *_ in SLURM_FLAGS}
    failed = executors.run(
        workdir,
        members,
        executor=flags.executor,
        asked=slurm.Options(**asked, jobs=flags.jobs),
        halving=flags.halving,
        say=say,
    )
    try:
        say(report.write(workdir))
    except UsageError as error:
        if not failed:
            raise
        print(f"rnnlab: no report: {one_line(error)}", file=sys.stderr)
    return 1 if failed else 0


def say(text: str) -> None:
    print(text, flush=True)


def run_report(flags: argparse.Namespace) -> None:
    from rnnlab.sweep import report

    say(report.write(Path(flags.workdir)))


def run_diagnose(flags: argparse.Namespace, changes: list[str]) -> None:
    from rnnlab.diagnose import compare
    from rnnlab.diagnose import report as diagnose
    from rnnlab.errors import UsageError
    from rnnlab.run import config

    if bool(flags.config) == bool(flags.workdir):
        raise UsageError("diagnose needs --workdir=DIR with a run, or --config=FILE, and not both")
    if changes and not flags.config:
        raise UsageError("--config.KEY is for --config=FILE: a run has its own config")
    name, workdir = Path(flags.config or "").stem, Path(flags.workdir or "")
    folder = workdir / "diagnosis" if flags.workdir else Path(f"runs/{name}.initial")
    folder = Path(flags.out) if flags.out else folder
    of_run = {"which": flags.checkpoint, "window": flags.window, "warn": warn}
    if flags.workdir and compare.is_sweep(workdir):
        path = compare.write(workdir, folder, say=say, **of_run)
    elif flags.workdir:
        path = diagnose.write(diagnose.of_run(workdir, **of_run), folder, say=say)
    else:
        subject = diagnose.of_config(config.load(flags.config, changes), name, flags.window)
        path = diagnose.write(subject, folder, say=say)
    say(f"the diagnosis is in {path}")


def run_evaluate(flags: argparse.Namespace) -> None:
    from rnnlab.run.files import json_row
    from rnnlab.train import train

    run = train.open_run(Path(flags.workdir), flags.checkpoint, warn)
    found = {
        "step": run.meta["step"],
        **run.task.evaluate(run.params),
        **run.task.finish(run.params),
    }
    if flags.json:
        print(json_row(found))
        return
    for name, value in found.items():
        text = f"{value:.6f}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):<22} {text}")


def run_sample(flags: argparse.Namespace) -> None:
    from rnnlab import tasks
    from rnnlab.errors import UsageError
    from rnnlab.train import train

    run = train.open_run(Path(flags.workdir), flags.checkpoint, warn)
    if not run.task.writes:
        raise UsageError(
            f"the run is of the task {run.config.task}, which writes no text: its samples.txt shows "
            "what the model does"
        )
    tasks.module(run.config.task).write_samples(
        run.config,
        Path(flags.workdir),
        run.params,
        prime=flags.prime,
        length=flags.length,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        count=flags.num,
        seed=flags.seed,
        beam=flags.beam,
    )


def run_show(flags: argparse.Namespace) -> None:
    from rnnlab.errors import UsageError
    from rnnlab.train import train

    run = train.open_run(Path(flags.workdir), flags.checkpoint, warn)
    if run.task.draw is None:
        raise UsageError(
            f"the run is of the task {run.config.task}, which draws no pictures: its samples.txt and "
            "curves.png show what the model does"
        )
    folder = Path(flags.out or Path(flags.workdir) / "shown")
    folder.mkdir(parents=True, exist_ok=True)
    for path in run.task.draw(run.params, folder):
        say(f"wrote {path}")


def run_tasks(flags: argparse.Namespace) -> None:
    from rnnlab import tasks
    from rnnlab.types import MAPPINGS

    known = {name: tasks.module(name) for name in tasks.names()}
    for mapping in MAPPINGS:
        say(f"{mapping}")
        for name, module in known.items():
            if module.ABOUT.mapping == mapping:
                first = module.__doc__.split("\n")[0]
                say(f"  {name:<23} {first}")
                say(f"  {'':<23} data: {module.ABOUT.data}")
                say(f"  {'':<23} metric: {module.ABOUT.metric}")
                say(f"  {'':<23} train --config=experiments/{module.ABOUT.experiment}.py")


def run_doctor(flags: argparse.Namespace) -> int:
    from rnnlab.bench import doctor
    from rnnlab.run import config
    from rnnlab.train import parallel, train

    default = Path(__file__).resolve().parent / "experiments" / "default.py"
    settings = config.load(str(default), [*doctor.TRIAL])
    process.make_devices(parallel.host_devices(**train.wished(settings)))
    problems = doctor.examine(settings, say)
    if problems:
        print(f"rnnlab: not all is well: {'; '.join(problems)}", file=sys.stderr)
    return 1 if problems else 0


def run_compile(flags: argparse.Namespace) -> None:
    from rnnlab.tasks.language_model import latex_report
    from rnnlab.train import train

    workdir = Path(flags.workdir)
    asked = {name: getattr(flags, name) for name, *_ in COMPILE_FLAGS if name != "out"}
    folder = Path(flags.out) if flags.out else workdir / "latex"

    def opened() -> train.Run:
        return train.open_run(workdir, flags.checkpoint, warn)

    path = latex_report.write(workdir, folder, opened=opened, say=say, **asked)
    say(f"the report is in {path}")


def run_bench(flags: argparse.Namespace) -> None:
    from rnnlab.bench import suites as bench
    from rnnlab.errors import UsageError

    if flags.json in bench.SUITES:
        raise UsageError(f"--json takes '{flags.json}' for a file: put --json last, or --json=FILE")
    given = {name: getattr(flags, name) for name, *_ in BENCH_FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    bench.run(flags.suite, given, flags.json)


def main(arguments: list[str]) -> int:
    try:
        return run(arguments)
    except KeyboardInterrupt:  # at any time, while packages are being imported too
        print("rnnlab: interrupted", file=sys.stderr)
        return 130


def run(arguments: list[str]) -> int:
    changes, rest = overrides(arguments)
    top = parser()
    flags = top.parse_args(rest)
    if changes and flags.verb not in ("train", "sweep", "diagnose"):
        top.error(f"--config.KEY is for train, sweep and diagnose, not for {flags.verb}")

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character of the text
    process.deliver_interrupts()
    process.retain_memory()  # before JAX starts
    process.one_blas_thread()
    from rnnlab.data import cache
    from rnnlab.errors import RnnlabError, one_line

    process.keep_compiled(cache.folder() / "compiled")
    try:
        if flags.verb in ("show", "report", "diagnose", "compile") and flags.workdir:
            from rnnlab.run.folder import no_links

            folder = Path(flags.workdir)
            inner = (p for p in folder.glob("*/") if p.name != "checkpoints")
            no_links([folder, *inner])
        if flags.verb == "train":
            run_train(flags, changes)
        elif flags.verb == "sweep":
            return run_sweep(flags, changes)
        elif flags.verb == "doctor":
            return run_doctor(flags)
        elif flags.verb == "diagnose":
            run_diagnose(flags, changes)
        else:
            verbs = {
                "evaluate": run_evaluate,
                "sample": run_sample,
                "show": run_show,
                "tasks": run_tasks,
                "report": run_report,
                "compile": run_compile,
                "bench": run_bench,
            }
            verbs[flags.verb](flags)
    except RnnlabError as error:
        print(f"rnnlab: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        from rnnlab.train import memory

        if not memory.exhausted(error):
            raise
        print(f"rnnlab: {memory.line(error)}", file=sys.stderr)
        return memory.OutOfMemoryError.exit_code
    except BrokenPipeError:  # the reader of our output has gone, `| head` say
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"rnnlab: {one_line(error)}", file=sys.stderr)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
