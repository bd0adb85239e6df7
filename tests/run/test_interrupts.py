"""How a launched process ends on a signal: soon, in order, and never in the interpreter's shutdown."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import interrupts
from tests.faults.lab import Lab
from tests.support import ROOT

# A launcher of one verb, which does what is given. (pause: for ever, in C, where no handler of Python runs.)
LAUNCHER = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and then no end of a process
from rnnlab.run import signals
signals.end_process()
import ctypes, os, subprocess, time
from pathlib import Path
from rnnlab.run import command
from rnnlab.run.files import temporary_folder
from rnnlab.run.signals import deferred, tidied

def pause():
    mask = (ctypes.c_char * 128)(*[255] * 128)
    ctypes.CDLL(None).ppoll(None, 0, None, mask)

def act(call):
    print("begun")
    Path(sys.argv[1]).touch()
    exec({body!r})

VERB = command.Verb("act", "act", "", command.no_flags, act)
PROGRAM = command.Program("it", "", "", (VERB,), lambda: None, ())
command.launch(PROGRAM, ["act"])
"""


def ended(tmp_path: Path, body: str, number: int) -> tuple[int, str, str, float]:
    """(exit code, standard output, standard error, seconds) after a signal to a verb that does `body`."""
    began = tmp_path / "began"
    command = [sys.executable, "-c", LAUNCHER.format(body=body), str(began)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not began.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        sent = time.monotonic()
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err, time.monotonic() - sent


def test_what_computes_in_c_ends_soon_and_what_was_printed_is_there(tmp_path):
    code, out, err, seconds = ended(tmp_path, "pause()", signal.SIGINT)
    assert (code, out, err) == (130, "begun\n", "rnnlab: interrupted\n")
    assert seconds < 5  # of which the machine may be busy with something else


@pytest.mark.parametrize("wait", ["pause()", "time.sleep(60)"])
def test_children_and_temporary_files_do_not_stay(tmp_path, wait):
    told = tmp_path / "told"
    body = (
        "child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "with temporary_folder() as made, tidied(child.kill):\n"
        f"    (made / 'file').touch(); Path({str(told)!r}).write_text(f'{{made}} {{child.pid}}')\n"
        f"    {wait}"
    )
    code, out, err, seconds = ended(tmp_path, body, signal.SIGINT)
    assert (code, out, err) == (130, "begun\n", "rnnlab: interrupted\n")
    assert seconds < 5
    made, child = told.read_text().split()
    assert not Path(made).exists()
    until = time.monotonic() + 10
    while lives(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not lives(child)


def lives(child: str) -> bool:
    try:
        stat = Path(f"/proc/{child}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("body", ["pause()", "time.sleep(60)"])
def test_other_signals_are_died_of(tmp_path, number, body):
    # As an exit code, 128 + number, it would say that a run has saved its state.
    code, out, err, _ = ended(tmp_path, body, number)
    assert (code, out, err) == (-number, "begun\n", "rnnlab: interrupted\n")


def test_a_run_that_saves_is_given_its_time(tmp_path):
    body = (
        "with deferred() as caught:\n"
        "    until = time.monotonic() + 60\n"
        "    while caught.received is None and time.monotonic() < until: time.sleep(0.01)\n"
        "    time.sleep(1.5)\n"
        "    print('saved')"
    )
    code, out, err, _ = ended(tmp_path, body, signal.SIGINT)
    assert (code, out, err) == (0, "begun\nsaved\n", "")


def test_a_run_that_hangs_is_broken_off_by_a_second_one(tmp_path):
    body = (
        "from rnnlab.run import signals; signals.PATIENCE = 0.0\n"
        "with deferred() as caught:\n"
        "    os.kill(os.getpid(), 2)\n"
        "    time.sleep(60)"
    )
    code, _, err, _ = ended(tmp_path, body, signal.SIGINT)
    assert (code, err) == (130, "rnnlab: interrupted\n")


def test_a_signal_that_comes_after_the_work_changes_nothing(tmp_path):
    body = "import atexit; atexit.register(time.sleep, 60)"
    code, out, err, seconds = ended(tmp_path, body, signal.SIGINT)
    assert (code, out, err) == (0, "begun\n", "")
    assert seconds < 5


def test_standard_streams_that_are_closed_stay_so(tmp_path):
    there = "[os.path.exists(f'/proc/self/fd/{n}') for n in (0, 1, 2)]"
    body = f"Path({str(tmp_path / 'told')!r}).write_text(repr({there}))"
    code, began = LAUNCHER.format(body=body), str(tmp_path / "began")
    closed = ["sh", "-c", 'exec "$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, code, began]
    subprocess.run(closed, cwd=ROOT, timeout=60, check=True)
    assert (tmp_path / "told").read_text() == "[False, False, False]"


def test_nor_does_one_at_the_end_of_the_interpreter(tmp_path):
    body = (
        "class Last:\n"
        "    def __del__(self, pid=os.getpid(), kill=os.kill): kill(pid, 2); kill(pid, 15)\n"
        "sys.modules['last'] = Last()"
    )
    code, _, err, _ = ended(tmp_path, body, 0)
    assert (code, err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "diagnose"])
def test_a_verb_that_compiles(tmp_path, verb):
    lab = Lab(tmp_path)
    arguments = [f"--workdir={lab.straight}"]
    for number in range(5):
        _, problem = interrupts.struck(lab, verb, arguments, signal.SIGINT, 1.0 + 2.0 * number)
        assert not problem
