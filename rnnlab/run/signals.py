"""Signals: how they end a process that computes, and a run after a whole step, its state saved."""

import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

PATIENCE = 2.0  # seconds in which a run saves its state after a signal
GRACE = 0.8  # seconds in which a process that has nothing to save tidies up after one
INTERRUPTED = "rnnlab: interrupted\n"
_leaving = threading.Lock()


class Ended(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP ends this process."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def end_process() -> None:
    """Has SIGINT, SIGTERM and SIGHUP end this process, at once, from now on; for the main thread.

    Python calls a handler between two of its own instructions, and none comes while XLA compiles, for
    seconds: so a thread waits for the signal too, and after GRACE leaves. `deferred` stands above this.
    SIGHUP stays ignored if it was.
    """
    try:
        import fcntl
    except ImportError:  # where nothing runs: see `environment`
        return
    if signal.getsignal(signal.SIGINT) in (_leave, _raise):
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


def end_in_order() -> None:
    """After `end_process`: a signal raises `Ended`, so that children are ended and temporary files removed
    on its way, and who catches it calls `leave`."""
    for number in _ending():
        if signal.getsignal(number) is _leave:
            signal.signal(number, _raise)


def _leave(number: int, frame: Any) -> None:
    leave(number)


def _raise(number: int, frame: Any) -> None:
    raise Ended(number)


def _leave_in_time(reader: int) -> None:
    while content := os.read(reader, 1):
        number = content[0]
        if signal.getsignal(number) in (_leave, _raise):  # and not `deferred`
            time.sleep(GRACE)
            leave(number)


def leave(number: int) -> NoReturn:
    """End this process because of a signal, now: what was printed is written, and nothing else is done.

    The shutdown of an interpreter whose XLA still compiles, in threads of its own, ends in a segmentation
    fault. SIGINT is told as exit code 130. By SIGTERM and SIGHUP the process dies, which a shell shows
    as 143 and 129: as exit codes those say that a run has saved its state.
    """
    if not _leaving.acquire(blocking=False):  # another thread is about to
        time.sleep(GRACE)
    writing = threading.Thread(target=_write_out, daemon=True)
    writing.start()
    writing.join(GRACE / 4)  # nobody may be reading, or another thread hold the stream
    if sys.__stderr__ is not None:  # and 2 is standard error, and no file that was opened since
        with contextlib.suppress(OSError):
            os.write(2, INTERRUPTED.encode())
    if number != signal.SIGINT:
        ctypes.CDLL(None).signal(number, 0)  # SIG_DFL, which Python sets in the main thread alone
        os.kill(os.getpid(), number)
    os._exit(128 + number)


def _write_out() -> None:
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
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class Received:
    """The first signal caught so far: its number, or None."""

    received: int | None = None


@contextlib.contextmanager
def deferred() -> Iterator[Received]:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag, so that the loop can end after a whole step.

    A SIGINT that comes PATIENCE seconds after the first, or later, raises KeyboardInterrupt, to break a
    hang: sooner it may be the same keystroke, and the state is still to be saved. SIGHUP stays ignored
    if it was. The old handlers come back at the end. Outside the main thread, where Python allows no
    handlers, nothing is caught.
    """
    caught = Received()
    first = math.inf

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        caught.received = caught.received or number
        if number == signal.SIGINT:
            first = min(first, time.monotonic())
            if time.monotonic() - first >= PATIENCE:
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
