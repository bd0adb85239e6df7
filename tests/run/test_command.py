"""Commands that are printed to be copied."""

import shutil
import subprocess
import sys

import pytest

from rnnlab.errors import one_line
from rnnlab.run import command

WORDS = ["plain", "two words", "a'b\"c", "$HOME", "`x`", "a\\b", "!x", "*?[a]", "a;b&c|d", "~", "-x", "",
         "ünï☃", "two  spaces", "new\nline", "tab\t", " ", "\x1b[2J", "it's  'two'\\"]  # fmt: skip


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("word", WORDS)
def test_a_shell_reads_what_was_meant_from_one_line(word):
    printed = one_line(f"resume with {command.line('train', f'--workdir={word}', word)}")
    words = printed.removeprefix(f"resume with {' '.join(command.started())} ")
    shown = [sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))"]
    script = f"{' '.join(command.quoted(w) for w in shown)} {words}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ascii(["train", f"--workdir={word}", word])


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        ("launch.py", "python launch.py"),
        ("/some/where/rnnlab/__main__.py", "python -m rnnlab"),
        ("/some/where/bin/rnnlab", "rnnlab"),
        (
            "/some/where/pytest/__main__.py",
            "python launch.py",
        ),  # a notebook, a script of the user's
    ],
)
def test_a_command_is_of_the_launcher_that_was_started(begun, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [begun])
    assert command.line("train", "--workdir=a b") == f"{words} train '--workdir=a b'"
