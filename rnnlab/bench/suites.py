"""The benchmark: `python launch.py bench SUITE`. The suites, their flags and their tables."""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from rnnlab.bench.contenders.contender import GATES, Case, flops
from rnnlab.bench.launched import time_first_step, time_sweep
from rnnlab.bench.measure import (
    LACKS,
    REFERENCE,
    ROUNDS,
    TOLERANCE,
    open_team,
    peak_rate,
    quartiles,
    quartiles_in_ms,
    speedup,
    time_in_turns,
    time_steps,
    verified,
)
from rnnlab.bench.options import Options, parse_names, parse_numbers, parse_shapes
from rnnlab.bench.output import Report
from rnnlab.bench.worker import CONTENDERS, Worker
from rnnlab.errors import RnnlabError, UsageError
from rnnlab.run import machine
from rnnlab.run.command import Program
from rnnlab.run.files import temporary_folder

NEEDS = {"flax": "flax", "torch": "torch", "torch-compile": "torch"}  # library -> package
MEMORY = {"stock": (False,), "retained": (True,), "both": (False, True)}
GIB = 1 << 30


def step_suite(options: Options, report: Report) -> None:
    """The whole train step, in all libraries."""
    for retain in MEMORY[options.memory]:
        mode = "retained" if retain else "stock"
        with open_team(report, threads=options.threads, retain=retain) as team:
            best, rows = peak_rate(team, options.libraries, min(options.seconds, 4.0)), []
            for cell in options.cells:
                for sizes in options.shapes:
                    case = Case(cell, *sizes, vocabulary=options.vocabulary)
                    fine = verified(team, case, options.libraries)
                    rounds = time_steps(team, fine, options.seconds)
                    for library in rounds:
                        rate = flops(case) / quartiles(rounds[library])[0]
                        rows.append(
                            {
                                "cell": cell,
                                "shape": case.shape,
                                "library": library,
                                **quartiles_in_ms(rounds[library]),
                                "x torch": speedup(rounds, library, "torch"),
                                "x flax": speedup(rounds, library, "flax"),
                                "GFLOP/s": rate / 1e9,
                                "of peak": rate / best if best else None,
                                "first step s": fine[library].first,
                                "difference": fine[library].difference,
                            }
                        )
        report.table(
            f"train step, memory {mode} (x: times as fast; difference: the largest relative one "
            f"from {REFERENCE} in logits, loss, gradients and the weights and moment after a step, "
            f"refused above {TOLERANCE:.0e})",
            rows,
        )


def scaling_suite(options: Options, report: Report) -> None:
    """The train step against T and against B."""
    layers, hidden, base = options.layers, options.hidden, options.batch[0]
    sweeps = {
        "T": [(base, steps) for steps in options.times()],
        "B": [(batch, 256) for batch in sorted(options.batch)],
    }
    with open_team(report, threads=options.threads, retain=True) as team:
        for name, points in sweeps.items():
            rows = []
            for cell in options.cells:
                for library in options.libraries:
                    for batch, steps in points:
                        case = Case(cell, layers, hidden, batch, steps, options.vocabulary)
                        fine = verified(team, case, [library])
                        rounds = time_steps(team, fine, options.seconds)
                        if library in rounds:
                            middle = quartiles(rounds[library])[0]
                            rows.append(
                                {
                                    "cell": cell,
                                    "shape": case.shape,
                                    "library": library,
                                    **quartiles_in_ms(rounds[library]),
                                    "us a time step": middle * 1e6 / steps,
                                    "us a token": middle * 1e6 / (steps * batch),
                                }
                            )
            report.table(f"scaling of the train step with {name}", rows)


def memory_suite(options: Options, report: Report) -> None:
    """Peak memory of the train step against T, without and with rematerialisation."""
    rows = []
    for cell in options.cells:
        for steps in options.times():
            for remat in (False, True):
                sizes = (options.layers, options.hidden, options.batch[0], steps)
                case = Case(cell, *sizes, options.vocabulary, remat)
                report.progress(f"{case.shape}, remat {remat}")
                # A fresh process each: the peak of a process never falls.
                with open_team(report, threads=options.threads, retain=True) as team:
                    row = team.attempt("rnnlab", lambda worker, case=case: footprint(worker, case))
                if row:
                    rows.append(row)
    report.table("resident memory of the train step, a process each", rows)


def footprint(worker: Worker, case: Case) -> dict[str, Any]:
    """A row of the memory suite. What would not fit is not run; the row says so."""
    worker.ask("setup", case=case, weights=None)
    needs, available = worker.ask("needs"), machine.available_memory()
    row = {
        "cell": case.cell,
        "shape": case.shape,
        "remat": "yes" if case.remat else "no",
        "before the step, GiB": worker.ask("peak_bytes") / GIB,
        "XLA's buffer, GiB": needs / GIB,
        "peak, GiB": f"not run: over {available / GIB:.1f} GiB",
        "ms a step": None,
    }
    if needs < 0.9 * available:
        worker.ask("times", steps=1)
        spent = worker.ask("times", steps=2)
        row |= {
            "peak, GiB": worker.ask("peak_bytes") / GIB,
            "ms a step": min(spent) * 1e3,
        }
    return row


def generation_suite(options: Options, report: Report) -> None:
    """Characters a second, drawn from the same weights."""
    for retain in MEMORY[options.memory]:
        mode, rows = "retained" if retain else "stock", []
        with open_team(report, threads=options.threads, retain=retain) as team:
            for cell in options.cells:
                for batch in options.batch:
                    sizes = (options.layers, options.hidden, batch, 32, options.vocabulary)
                    fine = verified(team, Case(cell, *sizes), options.libraries, trained=False)
                    ask = {"length": options.length, "count": batch}
                    first = {name: team.ask(name, "writing", **ask) for name in fine}
                    once = {name: team.ask(name, "writing", **ask) for name in fine if first[name]}
                    work = {name: ask for name, spent in once.items() if spent}
                    longest = max([spent[0] for spent in once.values() if spent], default=1.0)
                    count = max(ROUNDS, round(options.seconds / longest))
                    rounds = time_in_turns(team, work, "writing", count)
                    for library in rounds:
                        middle, low, high = quartiles(rounds[library])
                        written = options.length * batch
                        rows.append(
                            {
                                "cell": f"{options.layers} x {options.hidden} {cell}",
                                "batch": batch,
                                "library": library,
                                "characters/s": written / middle,
                                "quartile 1": written / high,
                                "quartile 3": written / low,
                                "x torch": speedup(rounds, library, "torch"),
                                "first text s": first[library][0],
                            }
                        )
        report.table(f"generation, memory {mode} (x: times as fast)", rows)


def startup_suite(options: Options, report: Report) -> None:
    """Seconds from the command to the first train step done."""
    rows = []
    with temporary_folder() as folder:
        found = {"cold": [], "warm": []}
        for number in range(options.repeats):
            report.progress(f"launch {number + 1} of {options.repeats}, cold and warm")
            cache = folder / f"cache{number}"
            for kind in found:  # the second finds what the first has compiled
                found[kind].append(
                    time_first_step(
                        options.program, folder / f"{kind}{number}", cache, options.threads
                    )
                )
        for kind, times in found.items():
            middle, low, high = quartiles([times])
            rows.append(
                {
                    "compilation cache": kind,
                    "seconds to the first step": middle,
                    "quartile 1": low,
                    "quartile 3": high,
                    "launches": len(times),
                }
            )
    report.table("start-up of python launch.py train, experiments/default.py", rows)


def sweep_suite(options: Options, report: Report) -> None:
    """Seconds of a whole sweep: as one program, as a pool of processes, as runs one by one."""
    rows = []
    with temporary_folder() as place:
        for how in ("one after the other", "local", "vmap"):
            report.progress(f"{options.members} members, {how}")
            folder = place / how.replace(" ", "-")
            sizes = (options.members, options.hidden, options.steps, options.threads)
            seconds = time_sweep(options.program, folder, how, *sizes)
            base = rows[0]["seconds"] if rows else seconds
            rows.append({"members": how, "seconds": seconds, "of one by one": seconds / base})
    report.table(
        f"a sweep of {options.members} members of 1x{options.hidden}xB32xT64, {options.steps} steps "
        "each: wall time of the commands, start-up, compilation, evaluation and files included",
        rows,
    )


# The flags


class Suite(NamedTuple):
    """A suite and the flags it takes, with their defaults."""

    run: Callable[[Options, Report], None]
    defaults: dict[str, Any]


ALL = "rnnlab,rnnlab-plain,flax,torch"
SUITES = {
    "step": Suite(
        step_suite,
        {
            "cells": "lstm,gru,rnn,ugrnn",
            "shapes": "3x512xB64xT128,2x128xB50xT50,1x64xB16xT200",
            "libraries": ALL,
            "seconds": 5.0,
            "memory": "stock",
            "vocabulary": 65,
        },
    ),
    "scaling": Suite(
        scaling_suite,
        {
            "cells": "lstm",
            "libraries": "rnnlab",
            "seconds": 2.0,
            "layers": 1,
            "hidden": 64,
            "batch": "16,1,4,64,256",
            "max_time": 16384,
            "vocabulary": 65,
        },
    ),
    "memory": Suite(
        memory_suite,
        {
            "cells": "lstm",
            "layers": 1,
            "hidden": 512,
            "batch": "16",
            "max_time": 16384,
            "vocabulary": 65,
        },
    ),
    "generation": Suite(
        generation_suite,
        {
            "cells": "lstm",
            "libraries": "rnnlab,torch,torch-compile",
            "seconds": 5.0,
            "memory": "stock",
            "layers": 2,
            "hidden": 256,
            "batch": "1,64",
            "length": 512,
            "vocabulary": 65,
        },
    ),
    "startup": Suite(startup_suite, {"repeats": 3}),
    "sweep": Suite(sweep_suite, {"members": 16, "hidden": 64, "steps": 300}),
}


def able_libraries(suite: str) -> list[str]:
    """The libraries that do what the suite times."""
    unable = "flax" if suite == "generation" else "torch-compile"  # its loop; the text alone
    return [name for name in CONTENDERS if name != unable]


def options_for(suite: str, given: dict[str, Any]) -> Options:
    """The flags of a suite: its defaults, and what was given.

    Raises UsageError for an unknown suite, a flag that the suite does not take, or a bad value.
    """
    if suite not in SUITES:
        raise UsageError(f"there is no suite '{suite}': there are {', '.join(SUITES)}")
    defaults, given = SUITES[suite].defaults, dict(given)
    threads = given.pop("threads", None)
    for name in given.keys() - defaults.keys():
        known = ", ".join(f"--{flag}" for flag in (*defaults, "threads", "json"))
        raise UsageError(f"bench {suite} takes no --{name}: it takes {known}")
    values = defaults | given
    for name, value in values.items():
        if name in ("cells", "libraries"):
            values[name] = parse_names(
                name, value, GATES if name == "cells" else able_libraries(suite)
            )
        elif name == "batch":
            values[name] = parse_numbers(name, value)
        elif name == "shapes":
            values[name] = parse_shapes(value)
        elif name == "memory" and value not in MEMORY:
            raise UsageError(f"--memory must be one of {', '.join(MEMORY)}, got '{value}'")
        elif isinstance(value, int | float) and not 0 < value < 1e9:
            raise UsageError(f"--{name} must be greater than 0, got {value}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, got {threads}")
    return Options(threads=threads or machine.cores(), **values)


def run_suite(suite: str, given: dict[str, Any], target: str | None, program: Program) -> None:
    """Run a suite and report it.

    given: the flags that were given, by name. target: None for tables on standard output, "-" for
        JSON there instead, or the file that gets the JSON beside the tables.
    program: the launcher, for the suites that time whole commands.

    Raises UsageError for bad flags, and RnnlabError at the end if rnnlab itself failed.
    """
    options = options_for(suite, given)
    options.program = program
    wanted = vars(options).get("libraries", ())
    missing = [name for name in wanted if not installed(name)]
    if wanted:
        options.libraries = tuple(name for name in wanted if name not in missing)
        pairs = [
            (a, b) for a in options.libraries for b in options.cells if b not in LACKS.get(a, ())
        ]
        if not pairs:
            lacking = f"none of {', '.join(wanted)} is installed and has {', '.join(options.cells)}"
            raise UsageError(f"nothing to measure: {lacking}")
    memory = vars(options).get("memory", "retained")  # as the launcher starts a run
    report = Report(
        target,
        {
            "suite": suite,
            "machine": machine.facts(threads=options.threads, memory=memory),
            "options": options.flags(),
        },
    )
    for name in missing:
        report.note(f"{name}: left out, {NEEDS[name]} is not installed (the extra `bench` has it)")
    SUITES[suite].run(options, report)
    report.finish()
    if report.failed:
        raise RnnlabError("rnnlab itself failed: see the lines above")


def installed(library: str) -> bool:
    """Whether the package that a library needs can be imported."""
    return library not in NEEDS or importlib.util.find_spec(NEEDS[library]) is not None
