"""Faults of the disk and of the host.

Each happens to a real training process: the disk is a real tmpfs with too little room, the limits are
the kernel's, the terminal is a pseudo-terminal that is closed. Survived means, for a fault that

- stops a run: exit code 5 (2 for a folder that cannot be used from the start, 6 for one that another
  process holds), one line that says what and why, no traceback, no hang; no checkpoint that was
  committed is gone or damaged; and once the fault is over the same command goes on to a run that is
  identical to the undisturbed one (`lab.differences`).
- does not stop a run: exit code 0, nothing on standard error but a warning of rnnlab's own, and a run
  that is identical to the undisturbed one.

What needs root, Linux or a tool is left out where it cannot be had, and its row says so.
"""

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import pty
import random
import resource
import select
import shutil
import signal
import subprocess
import termios
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from rnnlab.run import checkpoint
from rnnlab.run.files import read_rows
from tests.faults.lab import Done, Lab, Tally, differences
from tests.support import ROOT

SHORT = 0.02
FULL = "No space left on device"
HERE = Path(__file__).resolve().parent
ROOMS = (4, 12, 24, 32, 60, 90, 130, 170, 200, 230, 280, 340, 390)  # KiB of 420 that a run takes
NAMES = (
    " two words ",
    "new\nline",
    "-dash",
    "ünï☃",
    "%41?x#y&z=1",
    "run[1]*",
    "a'b\"c\\d",
    "~",
    "$HOME",
    "x" * 250,
)


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    faults = [full_disk, removed, two_processes, odd_names, surroundings, output_lost, hang_up]
    faults += [file_limit, few_files, read_only, full_cache, full_temporary, homeless, clock]
    # In a short set the one that has found the most.
    chosen = faults if share >= 0.1 else faults[:1]
    for fault in chosen:
        with warnings.catch_warnings():
            # What is done between fork and exec here starts no thread and takes no lock.
            warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
            row = fault(lab, share)
        yield row


# ---- what is common


def committed(workdir: Path) -> dict[int, str]:
    """The checkpoints of a run, with what is wrong with each: "" for nothing."""
    root = workdir / "checkpoints"
    return {step: checkpoint.fault(root, step) for step in checkpoint.steps(root)}


def run_on(lab: Lab, workdir: Path, **options) -> str:
    """Go on with a run, now that all is well; what is wrong with it then."""
    broken = {step: fault for step, fault in committed(workdir).items() if fault}
    if broken:
        return f"{workdir.name}: committed checkpoints {broken}"
    done = lab.run("train", *lab.flags(workdir), **options)
    return done.wrong(0) or differing(lab, workdir)


def differing(lab: Lab, workdir: Path) -> str:
    names = differences(lab.straight, workdir)
    return f"{workdir.name} differs in {', '.join(names)}" if names else ""


def as_if_nothing(lab: Lab, workdir: Path, done: Done) -> str:
    """What is wrong with a run that the fault should not have stopped."""
    told = [line for line in done.err.splitlines() if not line.startswith("rnnlab: warning: ")]
    if done.code or told:
        return done.wrong(0) or f"on standard error: {told[0]}"
    return differing(lab, workdir)


def one_line(done: Done, code: int, *told: str) -> str:
    """What is wrong with the end of a run that the fault has stopped."""
    lines = [line for line in done.err.splitlines() if not line.startswith("rnnlab: warning: ")]
    if wrong := done.wrong(code, *told):
        return wrong
    return (
        "" if len(lines) == 1 and lines[0].startswith("rnnlab: ") else f"not one line: {lines[:3]}"
    )


@contextlib.contextmanager
def disk(lab: Lab, size: str) -> Iterator[Path | None]:
    """A disk of its own, of that many bytes; None where none can be mounted."""
    place = lab.place("disk")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "rnnlab", str(place)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def resize(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


NO_DISK = "a tmpfs needs root and mount"


def rows_of(workdir: Path, count: int, process: subprocess.Popen) -> None:
    """Wait until a run has written so many rows."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if path.read_bytes().count(b"\n") >= count:
                return
        time.sleep(0.01)
    raise AssertionError(f"the run ended: {process.communicate()[1]}")


def ended(process: subprocess.Popen, seconds: float = 120) -> Done:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err = f"{err or ''}\nit hung"
    return Done(process.returncode, out or "", err or "")


# ---- the disk


def full_disk(lab: Lab, share: float) -> Tally:
    row = Tally(
        "a full disk under the run folder, at a checkpoint, a log line, a figure, a JSON file"
    )
    rooms = [*ROOMS] if share >= 1 else random.Random(1).sample(ROOMS, lab.many(len(ROOMS), share))
    for room in rooms:
        with disk(lab, f"{room}k") as place:
            if place is None:
                return row.left_out(NO_DISK)
            workdir = place / "run"
            done = lab.run("train", *lab.flags(workdir))
            problem = one_line(done, 5, FULL, str(workdir))
            words = done.err.strip().split("\n")[-1].partition(f"{workdir}/")[2]
            resize(place, "size=64m")
            row.count(
                f"at {words.partition(':')[0].partition('/')[0]}", problem or run_on(lab, workdir)
            )
    return row


def file_limit(lab: Lab, share: float) -> Tally:
    row = Tally("no file may grow beyond N bytes (RLIMIT_FSIZE, as a quota)")
    for size in (200, 1500, 4000, 6000, 9000, 20_000, 60_000)[: lab.many(7, share)]:
        workdir = lab.place("limit")
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        done = lab.run("train", *lab.flags(workdir), preexec_fn=limit)
        problem = one_line(done, 5, "File too large", str(workdir))
        row.count("stopped and gone on", problem or run_on(lab, workdir))
    return row


def few_files(lab: Lab, share: float) -> Tally:
    row = Tally("no more than N open files (RLIMIT_NOFILE)")
    for count in (12, 14, 16, 18, 20, 24, 28, 32, 64)[: lab.many(9, share)]:
        workdir = lab.place("files")
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (count, count))
        done = lab.run("train", *lab.flags(workdir), preexec_fn=limit)
        if done.code == 0:
            row.count("enough", as_if_nothing(lab, workdir, done))
            continue
        problem = one_line(done, 5, "Too many open files")
        row.count("stopped and gone on", problem or run_on(lab, workdir))
    return row


def read_only(lab: Lab, share: float) -> Tally:
    row = Tally("a folder that cannot be written: from the start, later, by a mount, by its mode")
    with disk(lab, "64m") as place:
        if place is None:
            return row.left_out(NO_DISK)
        workdir = place / "run"
        resize(place, "ro")
        done = lab.run("train", *lab.flags(workdir))
        problem = one_line(done, 2, "Read-only file system", str(workdir))
        resize(place, "rw")
        row.count("a disk mounted for reading", problem or run_on(lab, workdir))
        resize(place, "ro")  # a finished run: nothing is written by these
        for verb in ("evaluate", "sample"):
            row.count(f"{verb} on it", lab.run(verb, f"--workdir={workdir}").wrong(0))
    options = {"preexec_fn": _bound_by_modes}
    workdir = lab.place("mode")
    workdir.mkdir(0o555)
    done = lab.run("train", *lab.flags(workdir), **options)
    problem = one_line(done, 2, "no permission", str(workdir))
    workdir.chmod(0o777)
    row.count("a mode that forbids it", problem or run_on(lab, workdir, **options))
    workdir = lab.place("mode")
    process = lab.start("train", *lab.flags(workdir), **options)
    rows_of(workdir, 1, process)
    root = workdir / "checkpoints"
    root.mkdir(exist_ok=True)
    for folder in (workdir, root):
        folder.chmod(0o555)
    problem = one_line(ended(process), 5, "Permission denied", str(workdir))
    for folder in (workdir, root):
        folder.chmod(0o777)
    row.count("one that forbids it later", problem or run_on(lab, workdir, **options))
    return row


def _bound_by_modes() -> None:
    """Even root may then do with a file what its mode allows, and no more."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def removed(lab: Lab, share: float) -> Tally:
    row = Tally("the run folder removed, or moved away, while the run goes on")
    for number in range(lab.many(8, share)):
        workdir, moved = lab.place("gone"), number % 2 == 1
        process = lab.start("train", *lab.flags(workdir, "train.steps=100000"))
        rows_of(workdir, lab.random.randint(1, 12), process)
        if moved:
            workdir.rename(workdir.with_name(f"{workdir.name}-moved"))
        else:
            while workdir.exists():
                shutil.rmtree(workdir, ignore_errors=True)
        done = ended(process)
        problem = one_line(done, 5, str(workdir))
        if not problem and workdir.exists():
            left = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*"))
            problem = f"it was made again, with {left[:5]}"
        if moved and not problem:
            workdir = workdir.with_name(f"{workdir.name}-moved")
            # Not with the steps of the undisturbed run: to go on is all that is asked of it.
            broken = {step: fault for step, fault in committed(workdir).items() if fault}
            problem = f"committed checkpoints {broken}" if broken else ""
        row.count("stopped, nothing made again", problem)
    return row


def two_processes(lab: Lab, share: float) -> Tally:
    row = Tally("two processes on one folder: train, sweep, evaluate")
    workdir = lab.place("shared")
    first = lab.start("train", *lab.flags(workdir, "train.steps=100000"))
    try:
        rows_of(workdir, 10, first)
        second = lab.run("train", *lab.flags(workdir, "train.steps=100000"))
        told = ("in use by process", str(first.pid))
        row.count("train beside train: refused, the first named", one_line(second, 6, *told))
        for number in range(lab.many(10, share)):  # the run removes what is being read
            which = ("best", "latest")[number % 2]
            flags = (f"--workdir={workdir}", f"--checkpoint={which}", "--json")
            beside = lab.run("evaluate", *flags)
            problem = beside.wrong(0)
            if not problem and (beside.err or not json.loads(beside.out)["loss"] > 0):
                problem = beside.err + beside.out
            row.count("evaluate beside train: works", problem)
        first.send_signal(signal.SIGTERM)
        row.count("the first, undisturbed", "" if ended(first).code == 143 else "it did not save")
    finally:
        first.kill()
    folder, source = lab.place("sweep"), lab.place("sweep").with_suffix(".py")
    source.write_text(
        "from experiments import default\n\n\ndef get_config():\n    return default.get_config()\n\n\n"
        "def sweep(add):\n    for seed in range(2):\n        add(seed=seed)\n"
    )
    flags = lab.flags(folder, "train.steps=100000")
    flags[0] = f"--config={source}"
    sweeping = lab.start("sweep", *flags)
    try:
        while not list(folder.glob("members/*/metrics.jsonl")) and sweeping.poll() is None:
            time.sleep(0.05)
        told = ("in use by process", str(sweeping.pid))
        row.count("sweep beside sweep: refused", one_line(lab.run("sweep", *flags), 6, *told))
        member = next(folder.glob("members/*"))
        beside = lab.run("train", f"--workdir={member}")
        row.count("train on a member: refused", one_line(beside, 6, *told))
    finally:
        sweeping.terminate()
        ended(sweeping)
    return row


# ---- the host


def clock(lab: Lab, share: float) -> Tally:
    row = Tally("the clock set back by a day, or forward, again and again")
    for days in ("-1", "1"):
        workdir = lab.place("clock")
        program = (str(HERE / "_clock.py"), days)
        process = lab.start("train", *lab.flags(workdir), program=program)
        rows_of(workdir, 3, process)
        process.send_signal(signal.SIGTERM)
        ended(process)
        done = lab.run("train", *lab.flags(workdir), program=program)
        problem = as_if_nothing(lab, workdir, done)
        if not problem:
            rows = read_rows(workdir / "metrics.jsonl")
            spent = [row["seconds"] for row in rows]
            rates = [row["chars_per_second"] for row in rows if "chars_per_second" in row]
            if spent != sorted(spent) or spent[0] < 0 or spent[-1] > 600:
                problem = f"seconds are {spent}"
            elif not all(0 < rate < 1e9 for rate in rates):
                problem = f"rates are {rates}"
        row.count("as if nothing had been", problem)
    return row


def full_cache(lab: Lab, share: float) -> Tally:
    row = Tally(
        "no room, or no right to write, in the cache folder: programs, encoded text, download"
    )
    with disk(lab, "64k") as place:
        if place is None:
            return row.left_out(NO_DISK)
        _fill(place)
        options = {"environment": {"RNNLAB_CACHE": str(place)}}
        workdir = lab.place("cache")
        done = lab.run("train", *lab.flags(workdir), **options)
        row.count("compiled programs: goes on without", as_if_nothing(lab, workdir, done))
        address = f"file://{lab.text}"
        digest = _digest(lab.text)
        for what, given, change in (
            ("encoded text", {"memory": 1}, ()),
            ("download", {"address": address, "digest": digest}, ("data.path=", SHAKESPEARE)),
        ):
            workdir = lab.place("cache")
            program = (str(HERE / "_fetch.py"), json.dumps(given))
            flags = lab.flags(workdir, *change)
            done = lab.run("train", *flags, program=program, **options)
            problem = one_line(done, 5, FULL, str(place), "RNNLAB_CACHE")
            if not problem and (left := list(place.glob("*.part"))):
                problem = f"{left} was left"
            resize(place, "size=64m")
            done = lab.run("train", *flags, program=program, **options)
            row.count(what, problem or done.wrong(0) or differing(lab, workdir))
            resize(place, f"size={_used(place)}")
        resize(place, "size=64m,ro")
        workdir = lab.place("cache")
        done = lab.run("train", *lab.flags(workdir), **options)
        row.count("for reading alone: goes on without", as_if_nothing(lab, workdir, done))
    return row


SHAKESPEARE = "data.corpus=shakespeare"


def _digest(path: Path) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _fill(place: Path) -> None:
    with contextlib.suppress(OSError), (place / "filler").open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()


def _used(place: Path) -> int:
    found = shutil.disk_usage(place)
    return max(found.used, 4096)


def full_temporary(lab: Lab, share: float) -> Tally:
    row = Tally("the folder for temporary files full, not there, not set")
    cases: list[tuple[str, str | None]] = [("not there", "/nowhere/at/all"), ("not set", None)]
    for name, value in cases:
        workdir = lab.place("temporary")
        done = lab.run("train", *lab.flags(workdir), environment={"TMPDIR": value})
        row.count(name, as_if_nothing(lab, workdir, done))
    with disk(lab, "8k") as place:
        if place is None:
            return row
        _fill(place)
        workdir = lab.place("temporary")
        done = lab.run("train", *lab.flags(workdir), environment={"TMPDIR": str(place)})
        row.count("full", as_if_nothing(lab, workdir, done))
    return row


def homeless(lab: Lab, share: float) -> Tally:
    row = Tally("no home: $HOME not set or no folder, nor a cache folder named")
    away = {"RNNLAB_CACHE": None, "MPLCONFIGDIR": None, "XDG_CONFIG_HOME": "/dev/null/config"}
    # Without a $HOME its user's entry counts, whose folders this must not fill.
    for name, home, cache in (
        ("no folder", "/dev/null/home", None),
        ("not set", None, "/dev/null/cache"),
    ):
        workdir = lab.place("homeless")
        environment = away | {"HOME": home, "XDG_CACHE_HOME": cache}
        done = lab.run("train", *lab.flags(workdir), environment=environment)
        # matplotlib says that it has made itself a folder for the time being.
        lines = [line for line in done.err.splitlines() if "atplotlib" not in line]
        problem = as_if_nothing(lab, workdir, done._replace(err="\n".join(lines)))
        row.count(name, problem)
    return row


def surroundings(lab: Lab, share: float) -> Tally:
    row = Tally("python -O, an ASCII terminal without a name, a umask of 077 and of 777, no input")
    plain = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    launcher = str(ROOT / "launch.py")
    cases = (
        ("python -O", {"program": ("-O", launcher)}),
        ("ASCII, no TERM", {"environment": plain | {"TERM": None, "COLUMNS": None}}),
        ("umask 077", {"preexec_fn": functools.partial(os.umask, 0o077)}),
        ("umask 777", {"preexec_fn": functools.partial(os.umask, 0o777)}),
        ("standard input closed", {"preexec_fn": functools.partial(os.close, 0)}),
    )
    for name, options in cases[: lab.many(len(cases), share)]:
        workdir = lab.place("surroundings")
        done = lab.run("train", *lab.flags(workdir), **options)
        row.count(name, as_if_nothing(lab, workdir, done))
    return row


def output_lost(lab: Lab, share: float) -> Tally:
    row = Tally("standard output on a full disk, closed, or a pipe that nobody reads any more")
    with open("/dev/full", "w") as full:
        for name, options in (
            ("a full disk", {"stdout": full}),
            ("a full disk, errors too", {"stdout": full, "stderr": full}),
            ("closed", {"preexec_fn": functools.partial(os.closerange, 1, 3)}),
        ):
            workdir = lab.place("output")
            done = lab.run("train", *lab.flags(workdir), **options)
            row.count(name, as_if_nothing(lab, workdir, done))
    workdir = lab.place("output")
    process = lab.start("train", *lab.flags(workdir))
    assert process.stdout is not None
    process.stdout.readline()  # | head -1
    process.stdout.close()
    process.stdout = None
    row.count("a pipe cut by head", as_if_nothing(lab, workdir, ended(process)))
    return row


def hang_up(lab: Lab, share: float) -> Tally:
    row = Tally("the terminal goes away (its SIGHUP): saved, or under nohup not even stopped")
    for name, ignored in (("saved, exit code 129", False), ("nohup: goes on", True)):
        workdir = lab.place("terminal")
        ours, theirs = pty.openpty()

        def begin(ignored=ignored) -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if ignored:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

        # Of so many steps that it is still under way.
        changes = () if ignored else ("train.steps=100000", "optim.schedule=constant")
        process = lab.start(
            "train",
            *lab.flags(workdir, *changes),
            stdin=theirs,
            stdout=theirs,
            preexec_fn=begin,
            environment={"TERM": "xterm"},
        )
        os.close(theirs)
        path = workdir / "metrics.jsonl"
        while process.poll() is None and not (path.exists() and path.stat().st_size > 300):
            if select.select([ours], [], [], 0.02)[0]:
                with contextlib.suppress(OSError):
                    os.read(ours, 1 << 16)
        os.close(ours)
        done = ended(process)
        if ignored:
            row.count(name, as_if_nothing(lab, workdir, done))
            continue
        problem = done.wrong(129, "the state is saved")
        steps = checkpoint.steps(workdir / "checkpoints")
        if not problem and f"after step {steps[-1]};" not in done.err:
            problem = f"the checkpoints are {steps}: {done.err}"
        row.count(name, problem)
    return row


def odd_names(lab: Lab, share: float) -> Tally:
    row = Tally("odd names of the run folder")
    place = lab.place("names")
    place.mkdir()
    for name in NAMES[: lab.many(len(NAMES), share)]:
        done = lab.run("train", *lab.flags(Path(name)), cwd=place)
        problem = as_if_nothing(lab, place / name, done)
        if not problem:
            problem = lab.run("evaluate", f"--workdir={name}", cwd=place).wrong(0)
        row.count("trained and evaluated", problem)
    name = b"\xff".decode("utf-8", "surrogateescape")
    done = lab.run("train", *lab.flags(Path(name)), cwd=place)
    row.count("not UTF-8: refused", one_line(done, 2, "is not UTF-8"))
    return row
