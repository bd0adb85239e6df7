"""The verbs of one run: train, evaluate, sample, show, compile; tasks and mot, which need no run."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab.run import machine, places, process
from rnnlab.run.command import Call, Verb, no_flags

if TYPE_CHECKING:
    from rnnlab.train.saved import Run

COMPILE_FLAGS = (
    ("num", int, 100, "texts of each source"),
    ("length", int, 500, "characters of a text, about"),
    ("temperature", float, 0.8, "of the draws, of the n-gram models too"),
    ("seed", int, 0, "of the draws"),
    (
        "preamble",
        places.old_file,
        None,
        "a file that comes after \\documentclass (default: built in)",
    ),
    ("timeout", float, 20.0, "seconds for a document"),
    ("out", places.new_folder, None, "where to write (default: latex in the run's folder)"),
)


# ---- train


def train_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    parser.add_argument(
        "--config",
        type=places.any_place,
        metavar="FILE",
        help="config file, such as experiments/default.py",
    )
    parser.add_argument(
        "--workdir",
        type=places.new_folder,
        metavar="DIR",
        help="the run's folder (default: runs/NAME of the config file)",
    )
    parser.add_argument(
        "--config.KEY",
        metavar="VALUE",
        help="set a key of the config, e.g. --config.optim.clip_norm=5.0; rnnlab/run/default.py "
        "explains every key",
    )
    several = parser.add_argument_group(
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


def run_train(call: Call) -> None:
    """Train a new run, or resume the one in --workdir."""
    began = time.monotonic() - process.age()
    from rnnlab.errors import UsageError
    from rnnlab.run import config, config_file, display, limits
    from rnnlab.train import parallel
    from rnnlab.train.from_config import device_request
    from rnnlab.train.saved import mended_config
    from rnnlab.train.session import fit

    flags = call.flags
    if not flags.config and not flags.workdir:
        raise UsageError("train needs --config=FILE, or --workdir=DIR with a run to resume")
    if call.overrides and not flags.config:
        raise UsageError("--config.KEY needs --config=FILE beside it")
    chosen = config.load(flags.config, call.overrides) if flags.config else None
    workdir = Path(flags.workdir or f"runs/{config_file.run_name(flags.config)}")
    places.folder_for(flags.workdir, workdir, "--workdir")
    three = (flags.coordinator, flags.num_processes, flags.process_id)
    if flags.distributed or three != (None, None, None):
        if not flags.distributed and None in three:
            raise UsageError("--coordinator, --num_processes and --process_id go together")
        process.join(*three)
    else:
        settings = chosen or mended_config(workdir, display.warn)
        if settings is not None:
            limits.validate(settings)
            wished = parallel.host_devices(**device_request(settings))
            process.make_devices(min(wished, machine.cores()))
    fit(chosen, workdir, call.overrides, began)


TRAIN = Verb(
    "train",
    "train a model, or resume the run that the folder holds",
    "A stopped run goes on bit for bit. Ctrl-C finishes the step and saves. A config file is "
    "Python code, and it runs.",
    train_flags,
    run_train,
    configurable=True,
)


# ---- what a trained run is asked for


def run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which run, and which of its checkpoints; see `opened`."""
    parser.add_argument(
        "--workdir", type=places.old_folder, metavar="DIR", required=True, help="the run's folder"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="best",
        help="best (on the held-out data), latest, or a step (default: best)",
    )


def opened(call: Call) -> "Run":
    """The run of --workdir at --checkpoint. Raises UsageError or CheckpointError."""
    from rnnlab.run import display
    from rnnlab.train.saved import open_run

    return open_run(Path(call.flags.workdir), call.flags.checkpoint, display.warn)


# ---- evaluate


def evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    run_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_evaluate(call: Call) -> None:
    """Print the metrics of a trained run on its held-out data."""
    from rnnlab.run.files import json_row

    run = opened(call)
    metrics = {
        "step": run.meta["step"],
        **run.task.evaluate(run.params),
        **run.task.finish(run.params),
    }
    if call.flags.json:
        print(json_row(metrics))
        return
    print_numbers(metrics)


def print_numbers(numbers: dict[str, Any]) -> None:
    """A line for each number, with its name."""
    for name, value in numbers.items():
        text = f"{value:.6f}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):<22} {text}")


EVALUATE = Verb(
    "evaluate",
    "measure a trained model on its held-out data",
    "Needs nothing but the run's folder, and writes nothing.",
    evaluate_flags,
    run_evaluate,
)


# ---- sample


def sample_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `sample`."""
    run_flags(parser)
    parser.add_argument(
        "--prime",
        default="",
        metavar="TEXT",
        help="what the text begins with (default: a random letter)",
    )
    parser.add_argument(
        "--length", type=int, default=500, help="characters to write (default: 500)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="> 1 bolder, < 1 safer, 0 greedy (default: 0.8)",
    )
    parser.add_argument(
        "--top_k",
        type=int,
        default=0,
        metavar="K",
        help="only the K most probable (default: 0, off)",
    )
    parser.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="only the most probable that together have probability P (default: 1, off)",
    )
    parser.add_argument("--num", type=int, default=1, help="how many texts at once (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random draws (default: 0)")
    parser.add_argument(
        "--beam",
        type=int,
        default=0,
        metavar="WIDTH",
        help="beam search for the most probable text instead of drawing one (default: 0, off)",
    )


def run_sample(call: Call) -> None:
    """Print text that a trained run writes."""
    from rnnlab import tasks
    from rnnlab.errors import UsageError

    run, flags = opened(call), call.flags
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


SAMPLE = Verb(
    "sample",
    "write text with a trained model",
    "Needs nothing but the run's folder, and writes nothing. The same seed gives the same text.",
    sample_flags,
    run_sample,
)


# ---- show


def show_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `show`."""
    run_flags(parser)
    parser.add_argument(
        "--out",
        type=places.new_folder,
        metavar="DIR",
        help="where to write (default: shown in the run's folder)",
    )


def run_show(call: Call) -> None:
    """Draw what a trained run does."""
    from rnnlab.errors import UsageError
    from rnnlab.run import display

    flags = call.flags
    folder = places.folder_for(flags.out, Path(flags.workdir) / "shown", "--out")
    run = opened(call)
    if run.task.draw is None:
        raise UsageError(
            f"the run is of the task {run.config.task}, which draws no pictures: its samples.txt and "
            "curves.png show what the model does"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in run.task.draw(run.params, folder):
        display.say(f"wrote {path}")


SHOW = Verb(
    "show",
    "draw what a trained model does: pictures, pages, translations",
    "Writes into the folder --out; which files depends on the task.",
    show_flags,
    run_show,
    writes_into=True,
)


# ---- compile


def compile_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `compile`."""
    run_flags(parser)
    for name, kind, default, summary in COMPILE_FLAGS:
        about = f"{summary} (default: {default})" if default is not None else summary
        parser.add_argument(f"--{name}", type=kind, default=default, help=about)


def run_compile(call: Call) -> None:
    """Write the report of how much LaTeX of a trained run compiles."""
    from rnnlab.run import display
    from rnnlab.tasks.language_model import latex_report

    flags, workdir = call.flags, Path(call.flags.workdir)
    asked = {name: getattr(flags, name) for name, *_ in COMPILE_FLAGS if name != "out"}
    folder = places.folder_for(flags.out, workdir / "latex", "--out")
    path = latex_report.write_report(
        workdir, folder, opened=lambda: opened(call), say=display.say, **asked
    )
    display.say(f"the report is in {path}")


COMPILE = Verb(
    "compile",
    "tell how much of the LaTeX that a model writes compiles",
    "Runs pdflatex on texts of the model, of n-gram models, and excerpts. Writes latex.md.",
    compile_flags,
    run_compile,
    writes_into=True,
)


# ---- mot


def mot_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `mot`."""
    for name, about in (
        ("--truth", "the gt.txt of a sequence"),
        ("--answers", "a tracker's boxes of it, in that format"),
    ):
        parser.add_argument(name, type=places.old_file, metavar="FILE", required=True, help=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_mot(call: Call) -> None:
    """Print how well a tracker does on one sequence."""
    from rnnlab.run.files import json_row
    from rnnlab.tasks.tracking import scores

    found = scores.score(Path(call.flags.truth), Path(call.flags.answers))
    if call.flags.json:
        print(json_row(found))
    else:
        print_numbers(found)


MOT = Verb(
    "mot",
    "score a tracker's boxes: MOTA, IDF1",
    "Both files are in the format of the MOT challenges: frame,id,left,top,width,height,conf,... A box "
    "counts as found from an IoU of 0.5 on.",
    mot_flags,
    run_mot,
)


# ---- tasks


def run_tasks(call: Call) -> None:
    """List the tasks by mapping."""
    from rnnlab import tasks
    from rnnlab.run.display import say
    from rnnlab.types import MAPPINGS

    known = {name: tasks.module(name) for name in tasks.names()}
    for mapping in MAPPINGS:
        say(f"{mapping}")
        for name, module in known.items():
            if module.ABOUT.mapping == mapping:
                say(f"  {name:<23} {tasks.summary(name)}")
                say(f"  {'':<23} data: {module.ABOUT.data}")
                say(f"  {'':<23} metric: {module.ABOUT.metric}")
                say(f"  {'':<23} train --config=experiments/{module.ABOUT.experiment}.py")


TASKS = Verb(
    "tasks",
    "list the tasks, with mapping, data and metric",
    "Each is a file of rnnlab/tasks.",
    no_flags,
    run_tasks,
)
