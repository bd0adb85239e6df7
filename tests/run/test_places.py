"""Flags that name a place: `~`, and what cannot be used is told before any work, by every verb."""

import argparse
import os
import subprocess
import sys

import pytest

import launch
from rnnlab.errors import UsageError
from rnnlab.run import command, places
from tests.support import ROOT


def wrong(kind, path) -> str:
    """What is said of a flag --it of a kind; "" if it will do."""
    try:
        kind(str(path)).check("--it")
    except UsageError as error:
        return str(error)
    return ""


@pytest.fixture
def there(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "not" / "there")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


KINDS = (places.old_file, places.new_file, places.old_folder, places.new_folder)


@pytest.mark.parametrize(
    ("path", "said"),
    [  # of an old file, a new file, an old folder, a new folder; "" where it will do
        ("file", ("", "", "it is a file", "it is a file")),
        ("folder", ("it is a folder", "it is a folder", "", "")),
        ("new", ("No such file", "", "No such file", "")),
        ("new/below", ("No such file", "there is no folder", "No such file", "")),
        ("file/below", ("Not a directory", "there is no folder", "Not a directory", "is a file")),
        ("nowhere", ("No such file", "there is no folder", "No such file", "No such file")),
        ("loop", 4 * ("Too many levels",)),
        ("x" * 300, ("File name too long", "File name too long", "File name too long", "File name too")),
    ],
)  # fmt: skip
def test_what_can_be_used(there, path, said):
    for kind, words in zip(KINDS, said, strict=True):
        line = wrong(kind, there / path)
        assert words in line
        assert bool(words) == bool(line)
        assert not line or line.startswith(f"--it={there / path} cannot be used: ")
    assert sorted(path.name for path in there.iterdir()) == ["file", "folder", "loop", "nowhere"]


def test_what_may_not_be_written(there, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    for path in ("folder", "new", "new/below"):
        assert "no permission to write in" in wrong(places.new_folder, there / path)
    assert "no permission to write it" in wrong(places.new_file, there / "file")
    assert "no permission to write in" in wrong(places.new_file, there / "new")
    assert wrong(places.old_file, there / "file") == ""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to read it" in wrong(places.old_file, there / "file")
    assert "no permission to read it" in wrong(places.old_folder, there / "folder")
    with pytest.raises(UsageError, match=r"--out=.*no permission to write"):
        places.folder_for(None, there / "folder" / "shown", "--out")


def test_no_path_at_all():
    for kind in (*KINDS, places.any_place):
        assert wrong(kind, "") == "--it is empty: it takes a path"
        assert "NUL" in wrong(kind, "a\0b")
        assert wrong(kind, "~nobody-has-this-name/x").endswith(
            "no home folder ~nobody-has-this-name"
        )


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in (*KINDS, places.any_place):
        assert kind("~/x y") == str(tmp_path / "x y")
        assert kind("./~/x") == "./~/x"


VERBS = {verb.name: verb for verb in launch.PROGRAM.verbs}


@pytest.mark.parametrize("name", VERBS)
def test_every_flag_that_names_a_place_is_of_such_a_kind(name, monkeypatch):
    found = {}

    class Watched(argparse.ArgumentParser):
        def parse_args(self, *_):
            found.update({"".join(action.option_strings): action for action in self._actions})

    parser = Watched()
    VERBS[name].add_flags(parser)
    parser.parse_args()
    for flag, action in found.items():
        named = action.metavar in ("DIR", "FILE") or flag in ("--out", "--preamble")
        made = action.type not in (None, int, float) and action.type("x")
        if flag != "--config.KEY":
            assert isinstance(made, places.Place) == named, f"{name} {flag}"


CASES = [
    ["show", "--workdir={run}", "--out={file}"],
    ["diagnose", "--workdir={run}", "--out={file}"],
    ["diagnose", "--config=x.py", "--out={file}/below"],
    ["compile", "--workdir={run}", "--out={file}"],
    ["compile", "--workdir={run}", "--preamble={run}"],
    ["compile", "--workdir={run}", "--preamble=/not/there.tex"],
    ["bench", "--json={run}"],
    ["bench", "--json=/not/there/x.json"],
    ["mot", "--truth={run}", "--answers={file}"],
    ["mot", "--truth={file}", "--answers=/not/there"],
    ["train", "--config=x.py", "--workdir={file}"],
    ["train", "--config=x.py", "--workdir="],
    ["train", "--config=x.py", "--workdir=~nobody-has-this-name/x"],
    ["sweep", "--config=x.py", "--workdir={file}"],
    ["report", "--workdir={file}"],
    ["evaluate", "--workdir={file}"],
    ["sample", "--workdir=/not/there"],
]


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_the_verb_has_not_begun(arguments, there, capsys):
    names = {"run": there / "folder", "file": there / "file"}
    given = [argument.format(**names) for argument in arguments]
    begun = []
    program = launch.PROGRAM._replace(prepare=lambda: begun.append(True))
    assert command.main(program, given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rnnlab: {given[-1].partition('=')[0]}") or given[-2].startswith(
        "--truth"
    )
    assert not begun


def test_a_command_in_the_home_folder(tmp_path):
    code = "import sys, launch; sys.exit(launch.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--workdir=~/x"],
        cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (
        done.stderr == f"rnnlab: --workdir={tmp_path}/x cannot be used: No such file or directory\n"
    )
    assert list(tmp_path.iterdir()) == []
