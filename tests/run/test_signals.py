"""Signals become a flag."""

import os
import signal
import threading

import pytest

from rnnlab.run import signals


def test_signals_set_a_flag(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals.deferred() as caught:
        assert caught.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same keystroke, or an impatient one
        assert caught.received == signal.SIGTERM
        monkeypatch.setattr(signals, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_outside_the_main_thread():
    seen = []

    def run():
        with signals.deferred() as caught:
            seen.append(caught.received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_hang_up_is_a_signal_too_unless_it_was_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
    with signals.deferred() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
        assert caught.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with signals.deferred() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
            assert caught.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
