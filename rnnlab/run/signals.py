"""Signals that end a run after a whole step, its state saved."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

PATIENCE = 2.0  # seconds in which a run saves its state after a signal


class Received:
    """The first signal caught so far: its number, or None."""

    received: int | None = None


@contextlib.contextmanager
def deferred() -> Iterator[Received]:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag, so that the loop can end after a whole step.

    A SIGINT that comes PATIENCE seconds after the first, or later, raises KeyboardInterrupt, to break a
    hang: sooner it may be the same keystroke, and the state is still to be saved. A SIGHUP, which comes
    when the terminal goes away, stays ignored if it was: by nohup, say. The old handlers come back at
    the end. Outside the main thread, where Python allows no handlers, nothing is caught.
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
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            # None: it was installed from C, and Python cannot put it back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
