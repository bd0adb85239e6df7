"""What a person sees, where nobody can see it any more."""

import io
import sys

import pytest

from rnnlab.run.display import Display

ROWS = (("kernel", "2 x 3"), ("bias", "3"))


class Gone(io.StringIO):
    """A stream whose device has gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_standard_output_on_a_full_disk(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", Gone())
        with Display(10, "char") as display:
            display.model(ROWS, "a model")
            display.say("a line")  # is more than the buffer holds, or not
            display.say("many lines\n" * 10_000)
            display.warn("a warning")


def test_standard_output_that_was_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with Display(10, "char") as display:
        display.model(ROWS, "a model")
        display.say("a line")


def test_what_is_said_is_printed(capsys):
    with Display(10, "char") as display:
        display.say("a line :b: [bold]")
        display.warn("look")
    out, err = capsys.readouterr()
    assert out == "a line :b: [bold]\n"
    assert err == "rnnlab: warning: look\n"


@pytest.mark.parametrize("options", [{"quiet": True}, {"silent": "member"}])
def test_who_is_quiet_prints_nothing(capsys, options):
    with Display(10, "char", **options) as display:
        display.say("a line")
    assert capsys.readouterr().out == ""
