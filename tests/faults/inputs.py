"""Bad input: numbers in every field of every task, values and keys at random, config files, texts, flags.

Each input goes to `launch.main` in this process (`_driver`), some to a process of its own. It has
survived if it either is refused - exit code 2, one line of ours that names the key, nothing written -
or is accepted, and then means something: a state and a step whose shapes can be traced, and for a
sample of them a real training that ends with code 0, or 3 where the numbers made it diverge. Lost is
all else: a traceback, more than one line, a message that does not name what was wrong, more than
SECONDS or MEMORY of `_driver`, a folder left behind by what was refused.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import launch
from rnnlab import tasks
from rnnlab.diagnose import compare, report
from rnnlab.models import sample
from rnnlab.run import command
from rnnlab.run import config as configuration
from rnnlab.sweep import execute
from rnnlab.tasks.language_model import latex_report
from rnnlab.tasks.language_model.text import prime_tokens
from tests.faults import _driver
from tests.faults import _hostile as hostile
from tests.faults._driver import Accepted, Said, call, traced
from tests.faults.lab import Lab, Tally
from tests.support import ROOT

SHORT = 0.002
# Small, so that what is accepted is soon traced; of text of our own.
OF_TEXT = (
    *("model.hidden=4", "model.layers=1", "train.batch_size=4", "train.window=8", "eval.streams=2"),
    *("eval.window=16", "eval.burn_in=4", "eval.random_windows=4", "eval.random_window=8"),
    *("train.steps=300", "optim.warmup_steps=3"),
)
# Tasks that read files alone, or that are the same code as another one.
WITHOUT = ("mnist",)


class Base:
    """A config that a value is put into."""

    def __init__(self, lab: Lab, task: str):
        name = "default" if task == "language_model" else tasks.module(task).ABOUT.experiment
        self.file = ROOT / "experiments" / f"{name}.py"
        changes = [f"task={task}"]
        if task == "language_model":
            changes += [*OF_TEXT, f"data.path={lab.text}"]
        self.changes, self.task = changes, task
        self.config = configuration.load(str(self.file), changes)
        self.flat = configuration.flat(self.config)

    def kind(self, key: str) -> type:
        *path, name = key.split(".")
        parent = self.config
        for part in path:
            parent = parent[part]
        return parent.get_type(name)

    def keys(self, *kinds: type) -> list[str]:
        """Of another task than that of text, those alone that it has for itself, and `train`."""
        own = ("data", "eval", "sample", "encoder", "decoder", "train")
        return [
            key
            for key in self.flat
            if self.kind(key) in kinds
            and (self.task == "language_model" or key.partition(".")[0] in own)
        ]

    def flags(self, workdir: Path, *changes: str) -> list[str]:
        made = [f"--config.{change}" for change in (*self.changes, *changes)]
        return ["train", f"--config={self.file}", f"--workdir={workdir}", *made]


def bases(lab: Lab) -> list[Base]:
    return [Base(lab, task) for task in tasks.names() if task not in WITHOUT]


class Judge:
    """Says what became of an input, and counts it."""

    def __init__(self, lab: Lab, fault: str, trace: float = 0.15):
        self.lab, self.row, self.trace = lab, Tally(fault), trace
        self.accepted: list[Any] = []

    def __call__(
        self, said: Said, what: str, *, named: tuple[str, ...] = (), folder: Path | None = None
    ) -> None:
        outcome, problem = "refused in one line", ""
        if said.code == 0:
            outcome = "accepted"
            if said.crew is not None and self.lab.random.random() < self.trace:
                outcome = "accepted and traced"
                problem = traced(said.crew)
        elif said.code == 2:
            problem = _driver.whole(said.line)
            if not problem and named and not any(name in said.line for name in named):
                problem = f"does not name {named[0]}: {said.line}"
        elif said.code == 5:  # the system does not have such a name
            outcome, problem = "refused in one line, exit 5", _driver.whole(said.line)
        elif said.code == 3:
            outcome = "diverged, exit 3"
        elif said.code == -2:
            problem = f"more than {_driver.SECONDS} s"
        else:
            problem = (
                f"code {said.code}: {type(said.error).__name__} {said.error}: {said.err[-200:]}"
            )
        if said.code != 0 and folder is not None and folder.exists():
            problem = problem or f"it has left {sorted(p.name for p in folder.rglob('*'))}"
        self.row.count(outcome, problem and f"{what[:160]!r}: {problem}")
        if self.row.injected % 500 == 0:
            _driver.free()


def named_by(base: Base, key: str) -> tuple[str, ...]:
    """What a message about a value of this key may name: itself, or what it does not fit to."""
    last = key.rpartition(".")[2]
    path = ("cannot read",) if last == "path" else ()  # followed by the path
    return (last, *path, *(other for other in base.flat if "." in other))


def values(lab: Lab, share: float) -> Iterator[Tally]:
    """Every key of every task x the hostile values of its type."""
    every = bases(lab)
    for fault, kinds, given in (
        ("a number in every numeric field", (int, float), hostile.NUMBERS),
        ("anything in every other field", (tuple, str, bool), ()),
    ):
        drawn = [
            (base, key, value)
            for base in every
            for key in base.keys(*kinds)
            for value in (given or (hostile.TUPLES if base.kind(key) is tuple else hostile.WORDS))
            + (hostile.SPELT if given and base.task == "language_model" else ())
        ]
        judge = Judge(lab, fault)
        for base, key, value in _some(lab, drawn, share if kinds == (int, float) else share / 3):
            if key in ("data.path", "task") and value in ("python", "/", ".."):
                continue  # a text of 11 MB, or all files of the machine
            workdir = lab.folder / "never"
            said = call(*base.flags(workdir, f"{key}={value}"))
            judge(
                said,
                f"{base.task} {key}={value}",
                named=(*named_by(base, key), *value.split()[:1]),
                folder=workdir,
            )
        yield judge.row


def _some(lab: Lab, whole: list[Any], share: float) -> list[Any]:
    """A share of them, in their order."""
    chosen = sorted(lab.random.sample(range(len(whole)), lab.many(len(whole), share)))
    return [whole[index] for index in chosen]


# ---- keys and values at random


def overrides(lab: Lab, share: float) -> Iterator[Tally]:
    """Flags --config.KEY=VALUE with keys and values of random characters; several, and the same twice."""
    base, draw, judge = Base(lab, "language_model"), lab.random, Judge(lab, "random overrides")
    keys, workdir = [*base.flat], lab.folder / "never"
    for _ in range(lab.many(4000, share)):
        made = []
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            key = draw.choice(
                (
                    draw.choice(keys),
                    hostile.text(draw, 12),
                    hostile.mutated(draw, draw.choice(keys)),
                )
            )
            value = draw.choice(
                (
                    hostile.text(draw, 30),
                    draw.choice(hostile.NUMBERS + hostile.SPELT + hostile.TUPLES),
                    hostile.number(draw),
                )
            )
            # A path may be of anything on this machine.
            if key.strip(".") in ("data.path", "data.corpus", "data.glob"):
                key = "optim.name"
            form = draw.choice(
                ("--config.{}={}", "--config.{}={}", "--config.{}", "--config.{}=={}")
            )
            made.append(form.format(key, value))
        if draw.random() < 0.2:
            made.append(made[0])
        command = ["train", f"--config={base.file}", f"--workdir={workdir}"]
        before = [f"--config.{change}" for change in base.changes]
        judge(call(*command, *before, *made), " ".join(made), folder=workdir)
    yield judge.row


# ---- config files, and the config.json of a run


def configs(lab: Lab, share: float) -> Iterator[Tally]:
    """Keys gone, added and replaced, values of any type: in a file of the user's, and in a run."""
    every = [Base(lab, task) for task in ("language_model", "adding", "translation", "speech")]
    workdir, draw = lab.folder / "never", lab.random
    judge = Judge(lab, "config files with keys gone, added, or of another type")
    for number in range(lab.many(700, share)):
        file = lab.folder / "mutated.py"
        base = draw.choice(every)
        plain = base.config.to_dict()
        for _ in range(draw.choice((1, 1, 2, 4))):
            hostile.mutate(draw, plain)
        form = f"return ConfigDict({plain!r})" if number % 10 else hostile.text(draw, 60)
        imports = "from ml_collections import ConfigDict\nfrom math import inf, nan\n"
        head = "def get_config():\n    "
        try:
            file.write_text(f"{imports}{head}{form}\n", encoding="utf-8")
        except UnicodeEncodeError:
            file.write_bytes((imports + head + form).encode("utf-8", "surrogatepass"))
        said = call("train", f"--config={file}", f"--workdir={workdir}")
        judge(said, form, folder=workdir)
    yield judge.row
    judge = Judge(lab, "config.json of a run, damaged")
    for number in range(lab.many(700, share)):
        folder = lab.folder / "damaged"
        folder.mkdir(exist_ok=True)
        plain = json.loads(json.dumps(configuration.to_json(draw.choice(every).config)))
        for _ in range(draw.choice((1, 1, 2, 4))):
            hostile.mutate(draw, plain)
        text = json.dumps(hostile.listed(plain))
        if number % 4 == 0:
            text = hostile.mutated(draw, text)
        if number % 50 == 0:
            text = draw.choice(("", "[]", "null", "1", "[" * 100_000, "{}", "NaN", '"x"', '{"a":'))
        (folder / "config.json").write_text(text, encoding="utf-8", errors="replace")
        verb = draw.choice(("train", "train", "evaluate", "sample", "diagnose", "show", "compile"))
        said = call(verb, f"--workdir={folder}")
        if said.code == 4:  # no checkpoint: the config went through
            said = said._replace(code=2)
        judge(said, f"{verb} {text}")
        if left := _driver.residue(folder, known=("config.json",)):
            judge.row.lost.append(f"{verb} has left {left}")
        shutil.rmtree(folder)
    yield judge.row


# ---- texts


def texts(lab: Lab, share: float) -> Iterator[Tally]:
    """Arbitrary bytes as a text, at both levels; odd paths; a sample is trained for real."""
    base, draw = Base(lab, "language_model"), lab.random
    workdir, file = lab.folder / "never", lab.folder / "any.txt"
    judge, kept = Judge(lab, "arbitrary bytes as a text", trace=0.1), []
    whole = [*hostile.once(draw)] if share >= 0.1 else []
    for number in range(lab.many(900, share)):
        name, raw = whole[number] if number < len(whole) else hostile.some_bytes(draw)
        file.write_bytes(raw)
        for level in ("byte", "char"):
            said = call(*base.flags(workdir, f"data.path={file}", f"data.level={level}"))
            told = (
                "text of",
                "training text",
                "held-out text",
                "is empty",
                "valid UTF-8",
                "cannot",
                "data.encoding",  # what looks like another encoding, or like no text, in a line that says so
                "no text",
            )
            judge(said, f"{level} {name}", named=told, folder=workdir)
            if said.code == 0 and len(raw) < 10_000 and len(kept) < 200:
                kept.append((level, name, raw))
            refused_as_such = any(words in said.line for words in told[-2:])
            if said.code == 2 and level == "byte" and len(raw) > 1000 and not refused_as_such:
                judge.row.lost.append(f"{len(raw)} bytes are no text at byte level: {said.line}")
    yield judge.row

    judge = Judge(lab, "texts as above, trained")
    for level, name, raw in _some(lab, kept, 8 * share / len(kept)) if share > SHORT else ():
        file.write_bytes(raw)
        target = lab.place("text")
        short = ("train.steps=2", "optim.warmup_steps=1", "sample.length=5", f"data.level={level}")
        judge(
            call(*base.flags(target, f"data.path={file}", *short), begin=True, seconds=120),
            f"{level} {name}",
        )
        shutil.rmtree(target, ignore_errors=True)
    if judge.row.injected:
        yield judge.row

    judge = Judge(lab, "a fifo, a device, a socket, odd names as a text")
    with hostile.odd_paths(lab.place("odd")) as odd:
        for path in _some(lab, odd, min(1, 20 * share)):
            said = call(*base.flags(workdir, f"data.path={path}"), seconds=10)
            judge(said, f"{path}", folder=workdir)
    yield judge.row


# ---- the flags of the verbs


def flags(lab: Lab, share: float) -> Iterator[Tally]:
    """Hostile values of every flag that the launcher has, but for `bench`, on a finished run."""
    run, judge = lab.straight, Judge(lab, "a hostile value of every flag")
    before = sorted(str(p) for p in run.rglob("*"))
    sweep = ROOT / "experiments" / "clip_sweep_small.py"
    of_sweep = [f"--config.{c}" for c in (f"data.path={lab.text}", "data.corpus=x")]
    own = {
        "train": [f"--workdir={run}"],
        "sweep": [f"--config={sweep}", f"--workdir={lab.folder / 'never'}", *of_sweep],
        "report": [],
        "sample": [f"--workdir={run}", "--length=4"],
    }
    verbs = command.parser(launch.PROGRAM)._subparsers._group_actions[0].choices  # type: ignore
    drawn = []
    for verb, parser in verbs.items():
        if verb in ("bench", "tasks"):
            continue
        start = own.get(verb, [f"--workdir={run}"])
        for action in parser._actions:
            name = (action.option_strings or [""])[0]
            if name in ("", "-h", "--help", "--config.KEY", "--distributed", "--coordinator"):
                continue
            if name in ("--num_processes", "--process_id"):
                continue
            given = (
                hostile.NUMBERS + hostile.SPELT if action.type in (int, float) else hostile.WORDS
            )
            if action.nargs == 0:
                given = ("1", "")
            drawn += [(verb, start, f"{name}={value}") for value in given]
        drawn += [(verb, start, word) for word in ("--", "-", "x", "--x", "--config.seed=1", "")]
    for verb, start, flag in _some(lab, drawn, share / 5):
        if verb == "train" and flag.startswith("--config="):
            start = []
        with _barriers(), contextlib.chdir(lab.folder):
            said = call(verb, *start, flag, seconds=8)
        if said.code == -2 and verb == "sample" and len(said.out) > 100:
            said = said._replace(code=0)  # it writes until it is stopped, as was asked
        # argparse names its own; a flag that is no number of the config is named as it is.
        judge(said, f"{verb} {flag}")
    if sorted(str(p) for p in run.rglob("*")) != before:
        judge.row.lost.append("the run's folder has other files than before")
    yield judge.row


@contextlib.contextmanager
def _barriers() -> Iterator[None]:
    """What takes minutes ends where all flags have been checked; pdflatex is as if it were there."""

    def stop(*_: object, **__: object) -> None:
        raise Accepted

    def drawn(net: Any, params: Any, vocabulary: Any, **asked: Any) -> None:
        first = prime_tokens(
            vocabulary, asked.pop("prime"), count=asked["count"], seed=asked["seed"]
        )
        sample.generate(net, params, first, **asked)
        raise Accepted

    places = (
        (report, "write_report", stop),
        (compare, "write_report", stop),
        (execute, "prepare_sweep", stop),
        (latex_report.latex, "version", lambda: "pdfTeX"),
        (latex_report.latex, "compile", lambda *_, **__: latex_report.latex.Verdict("", "", b"")),
        (latex_report, "text_samples", drawn),
    )
    with contextlib.ExitStack() as stack:
        for module, name, other in places:
            stack.enter_context(mock.patch.object(module, name, other))
        yield


# ---- for real


def trained(lab: Lab, share: float) -> Iterator[Tally]:
    """Numbers that are accepted, in a training of two steps; and inputs as above, as processes."""
    draw = lab.random
    judge = Judge(lab, "accepted numbers, trained for two steps")
    base = Base(lab, "language_model")
    numbers = [
        (key, value)
        for key in base.keys(float, int)
        for value in ("0", "-0.0", "1e-37", "0.999999", "3e38", "1", "5", "inf")
        if not key.startswith("train.steps")
    ]
    for key, value in _some(lab, numbers, 30 * share / len(numbers)) if share > SHORT else ():
        target = lab.place("trained")
        short = ("train.steps=2", "optim.warmup_steps=0", "sample.length=5")
        said = call(*base.flags(target, *short, f"{key}={value}"), begin=True, seconds=120)
        if said.code == 3:
            judge(said, f"{key}={value}")
        else:
            judge(said, f"{key}={value}", folder=target, named=named_by(base, key))
        shutil.rmtree(target, ignore_errors=True)
    if judge.row.injected:
        yield judge.row

    row = Tally("inputs as above, each in a process")
    command: Callable[..., list[str]] = base.flags
    for _ in range(lab.many(24, share)):
        target = lab.place("process")
        key = draw.choice(base.keys(float, int, tuple, str))
        given = hostile.TUPLES + hostile.NUMBERS + hostile.SPELT + hostile.WORDS
        value = draw.choice([v for v in given if "\x00" not in v])
        raw = os.fsencode(f"--config.{key}={value}") if "\udc80" in value else None
        change = f"--config.{key}={value}" if raw is None else os.fsdecode(raw)
        if key == "data.path":
            continue
        done = lab.run(
            *command(target, "train.steps=2", "optim.warmup_steps=0", "sample.length=5"), change
        )
        problem = "" if done.code in (0, 2, 3) and not done.traceback else done.wrong(2)
        if done.code == 2:
            told = [t for t in done.err.split("\n") if t and "warning" not in t]
            problem = problem or _driver.whole("\n".join(told))
            problem = problem or ("it has left a folder" if target.exists() else "")
        row.count(f"exit {done.code}", problem and f"{change[:100]!r}: {problem}")
    yield row


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    """All of the above; the last row says how many they were."""
    if sys.platform != "linux":
        return
    count = 0
    for part in (values, overrides, configs, texts, flags, trained):
        for row in part(lab, share):
            count += row.injected
            yield row
    _driver.free()
