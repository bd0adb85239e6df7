"""Signals: how they end a process that computes, and a run after a whole step, its state saved."""

import atexit
import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

PATIENCE = 2.0  # seconds in which a run saves its state after a signal
GRACE = 0.8  # seconds in which Python, in a process that has nothing to save, comes to its handler
INTERRUPTED = "rnnlab: interrupted\n"
_leaving = threading.Lock()


def end_process() -> None:
    """Has SIGINT, SIGTERM and SIGHUP end this process, from now on; for the main thread.

    They raise nothing: an exception that comes while an extension calls Python, as many do when they are
    imported, can end in an abort. Python calls a handler between two of its own instructions, and none
    comes while XLA compiles, for seconds: so a thread waits for the signal too, and after GRACE leaves.
    `deferred` stands above this. SIGHUP stays ignored if it was.
    """
    try:
        import fcntl
    except ImportError:  # where nothing runs: see `environment`
        return
    if signal.getsignal(signal.SIGINT) is _leave:
        return
    pipe = os.pipe()
    # Not the numbers of standard streams that were closed: who writes to those writes to no pipe of ours.
    reader, writer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in pipe)
    for end in pipe:
        os.close(end)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _ending():
        signal.signal(number, _leave)
    threading.Thread(target=_leave_in_time, args=(reader,), name="signals", daemon=True).start()
    # The first that is registered is called last. What comes then, the end of the interpreter, puts
    # signals back to what kills; only those that are ignored stay so.
    atexit.register(_ignore)


def _ignore() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _ending():
            signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: Any) -> None:
    leave(number)


def _leave_in_time(reader: int) -> None:
    while content := os.read(reader, 1):
        number = content[0]
        if signal.getsignal(number) is _leave:  # and not `deferred`
            time.sleep(GRACE)
            leave(number)


_tidying: list[Callable[[], object]] = []


@contextlib.contextmanager
def tidied(act: Callable[[], object]) -> Iterator[None]:
    """Inside, `leave` calls `act` first: a child is ended, say, or a temporary folder removed."""
    _tidying.append(act)
    try:
        yield
    finally:
        _tidying.remove(act)


def leave(number: int) -> NoReturn:
    """End this process because of a signal, now: what was printed is written, what is `tidied` is tidied
    up, and nothing else is done.

    The shutdown of an interpreter whose XLA still compiles, in threads of its own, ends in a segmentation
    fault. SIGINT is told as exit code 130. By SIGTERM and SIGHUP the process dies, which a shell shows
    as 143 and 129: as exit codes those say that a run has saved its state.
    """
    if not _leaving.acquire(blocking=False):  # another thread is about to
        time.sleep(GRACE)
    # In a thread: nobody may be reading, or the thread that is interrupted hold the stream.
    last = threading.Thread(target=_do_last, daemon=True)
    last.start()
    last.join(GRACE / 2)
    if sys.__stderr__ is not None:  # and 2 is standard error, and no file that was opened since
        with contextlib.suppress(OSError):
            os.write(2, INTERRUPTED.encode())
    if number != signal.SIGINT:
        ctypes.CDLL(None).signal(number, 0)  # SIG_DFL, which Python sets in the main thread alone
        os.kill(os.getpid(), number)
    os._exit(128 + number)


def _do_last() -> None:
    for act in reversed(_tidying):
        with contextlib.suppress(Exception):
            act()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def end_with(code: int) -> NoReturn:
    """End this process, whose work is done, as Python does. A signal that comes then has nothing left
    to break off: it ends at once, with the same code."""
    if threading.current_thread() is threading.main_thread():
        for number in _ending():
            signal.signal(number, lambda *_: os._exit(code))
    sys.exit(code)


def _ending() -> list[int]:
    """The numbers of the signals that end a process. A SIGHUP, which comes when the terminal goes away,
    is none if it was ignored: by nohup, say."""
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class Received:
    """The first signal caught so far: its number, or None."""

    received: int | None = None


@contextlib.contextmanager
def deferred() -> Iterator[Received]:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag, so that the loop can end after a whole step.

    A SIGINT that comes PATIENCE seconds after the first, or later, ends a launched process, and elsewhere
    raises KeyboardInterrupt, to break a hang: sooner it may be the same keystroke, and the state is still
    to be saved. SIGHUP stays ignored if it was. The old handlers come back at the end. Outside the main
    thread, where Python allows no handlers, nothing is caught.
    """
    caught = Received()
    first = math.inf

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        caught.received = caught.received or number
        if number == signal.SIGINT:
            first = min(first, time.monotonic())
            if time.monotonic() - first >= PATIENCE:
                if old[number] is _leave:
                    leave(number)
                raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    old = {number: signal.signal(number, handle) for number in _ending()}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            # None: it was installed from C, and Python cannot put it back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
