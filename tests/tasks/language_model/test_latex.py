"""Texts of LaTeX: how they are cut, read, repaired, compiled and reported."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import launch
from rnnlab.errors import UsageError
from rnnlab.run import process
from rnnlab.tasks.language_model import latex, latex_report
from tests.support import DEFAULT, TINY, refused

pytestmark = pytest.mark.usefixtures("quiet_host")

real = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")


# How a text is cut, read and repaired


@pytest.mark.parametrize(
    ("length", "cut"),
    [(1, "ab"), (4, "ab"), (5, "ab\n\ncd"), (7, "ab\n\ncd"), (22, "ab\n\ncd\n \nefg")],
)
def test_a_text_is_cut_at_the_nearest_border_of_a_paragraph(length, cut):
    assert latex.cut("\n\nab\n\ncd\n \nefg\n\nhi", length) == cut


def test_a_text_without_paragraphs_is_cut_at_a_line():
    assert latex.cut("one line\nanother\nthe third", 20) == "one line\nanother"
    assert latex.cut("one line", 20) == "one line"
    # A border before half of the length is too early: what is short compiles easily.
    assert latex.cut("a\n\nb\nc", 20) == "a\n\nb"
    assert latex.paragraphs("\n\na\nb\n \n\n\nc\n") == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("text", "before", "after", "environments", "brackets"),
    [
        ("plain $x$ and $$y$$", (), (), True, True),
        (r"\begin{a}\begin{b}x\end{b}\end{a}", (), (), True, True),
        (r"x\end{b} y \end{a} \begin{c} z", ("a", "b"), ("c",), True, True),
        (r"\begin{a}\begin{b}x", (), ("a", "b"), True, True),
        (r"\begin{a}\begin{b}x\end{a}y", (), (), False, True),
        (r"\begin{a}x\end{b}y", (), ("a",), False, True),
        (r"\{ \% \$ \\{}", (), (), True, True),
        ("% $ { \\begin{a}\nx", (), (), True, True),
        (r"\begin{verbatim}$ { \begin{b}\end{verbatim} $x$", (), (), True, True),
        (r"\beginning \endinput \lefteqn{a}", (), (), True, True),
        ("}{", (), (), True, False),
        ("{", (), (), True, False),
        ("$a", (), (), True, False),
        ("$ { $ }", (), (), True, False),
        (r"\[ \left( x \right. \]", (), (), True, True),
        (r"\[ \left( x \]", (), (), True, False),
        (r"\( x \]", (), (), True, False),
    ],
)
def test_environments_and_brackets_are_read(text, before, after, environments, brackets):
    assert latex.scan(text) == latex.Scan(before, after, environments, brackets)


pieces = st.sampled_from(
    [*"abx $%[(\n\\{}", "\\begin", "\\end", "{a}", "{b}", "\\begin{a}", "\\end{a}", "\\begin{b}"]
)


@given(st.lists(pieces, max_size=25).map("".join))
def test_a_body_needs_no_environment_more(text):
    found = latex.scan(text)
    assert latex.body(text).endswith(
        "".join(rf"\end{{{n}}}" + "\n" for n in found.after[::-1])[:-1]
    )
    if found.environments:
        assert latex.scan(latex.body(text))[:3] == ((), (), True)


def test_a_document_begins_and_ends_what_its_text_lies_in():
    text = "b\n\\end{enumerate}\n\\end{proof}\n\\begin{lemma}\nc"
    lines = latex.document(text, "\\usepackage{x}\n").split("\n")
    assert lines[:3] == [r"\documentclass{article}", r"\usepackage{x}", r"\begin{document}"]
    assert lines[3:6] == [r"\begin{proof}", r"\begin{enumerate}\item ", "b"]
    assert lines[-5:-3] == ["c", r"\end{lemma}"]
    assert latex.END in lines[-3]
    assert lines[-2] == r"\end{document}"


# What a log says


@pytest.mark.parametrize(
    ("log", "kind", "message"),
    [
        ("This is pdfTeX\n(a!b)\nOutput written", "", ""),
        (
            "x\n! Undefined control sequence.\nl.5 a \\Foo\n       {b}\n! Emergency stop.",
            "undefined command",
            "Undefined control sequence \\Foo",
        ),
        (
            "! Undefined control sequence.\n<argument> a \\bar \n b",
            "undefined command",
            "Undefined control sequence \\bar",
        ),
        ("! Missing $ inserted.\n", "formulas", None),
        ("! Extra }, or forgotten $.\n", "formulas", None),
        ("! Extra }, or forgotten \\endgroup.\n", "braces", None),
        ("! LaTeX Error: Command \\end{a} invalid in math mode.\n", "formulas", None),
        ("Runaway argument?\n{a\n! Paragraph ended before \\b was complete.", "braces", None),
        ("! File ended while scanning use of \\b.", "braces", None),
        ("! Too many }'s.", "braces", None),
        (
            "! LaTeX Error: \\begin{a} on input line 4 ended by \\end{b}.",
            "environments",
            "LaTeX Error: \\begin{a} on input line 4 ended by \\end{b}.",
        ),
        ("! LaTeX Error: Environment foo undefined.", "undefined environment", None),
        ("! Extra alignment tab has been changed to \\cr.", "alignment", None),
        ("! Misplaced alignment tab character &.", "alignment", None),
        ("! Double subscript.", "scripts", None),
        ("! Missing \\right. inserted.", "delimiters", None),
        ("! LaTeX Error: Lonely \\item--perhaps a missing list environment.", "list items", None),
        ("! LaTeX Error: File `a.tex' not found.", "missing file", None),
        ("! LaTeX Error: Unicode character x (U+1234)", "characters", None),
        ("! TeX capacity exceeded, sorry.", "other", None),
    ],
)
def test_the_first_error_of_a_log_has_a_class(log, kind, message):
    found = latex.classify(log)
    assert found[0] == kind
    assert kind in ("", *latex.KINDS)
    if message is not None:
        assert found[1] == message


# The program, played by a script


def script(folder: Path, lines: str, monkeypatch) -> None:
    """Make it the only pdflatex there is."""
    path = folder / "pdflatex"
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


# As pdflatex would: it knows no \bad, and cannot stand an odd number of $.
PLAYED = rf"""
[ "$1" = --version ] && echo "played TeX" && exit
if grep -q 'bad' text.tex; then
  printf '! Undefined control sequence.\nl.1 \\bad\n\n' > text.log; exit 1
fi
echo '{latex.END}' > text.log; echo '%PDF' > text.pdf
"""


def test_it_is_kept_in(tmp_path, monkeypatch):
    seen = tmp_path / "seen"
    monkeypatch.setenv("openin_any", "a")
    script(
        tmp_path,
        f'(echo "$@"; pwd; ulimit -t; ulimit -f; ulimit -c; env; cat) > {seen}\n' + PLAYED,
        monkeypatch,
    )
    assert latex.compile("x", timeout=7.0) == latex.Verdict("", "", b"%PDF\n")
    arguments, folder, seconds, blocks, core, *rest = seen.read_text().splitlines()
    assert arguments.split() == [
        *("-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "text.tex")
    ]
    assert not Path(folder).exists()  # and it is another one each time
    assert (seconds, int(blocks) * 512, core) == ("8", latex.LARGEST, "0")
    assert {"openin_any=p", "openout_any=p", "shell_escape=f", f"HOME={folder}"} <= set(rest)


def test_the_time_limit_ends_what_it_started_too(tmp_path, monkeypatch):
    child = tmp_path / "child"
    script(tmp_path, f"sleep 60 & echo $! > {child}\nsleep 60\n", monkeypatch)
    began = time.monotonic()
    verdict = latex.compile("x", timeout=0.5)
    assert verdict == latex.Verdict("timeout", "not done after 0.5 s")
    assert time.monotonic() - began < 10
    number = int(child.read_text())
    for _ in range(100):  # init may take a moment to bury it
        stat = Path(f"/proc/{number}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives")


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ("exit 3", "other"),
        ("echo fine > text.log", "other"),  # \stop: the end of the text was not reached
        ("echo '! Double subscript.' > text.log; exit 1", "scripts"),
        ("kill -XCPU $$", "timeout"),
    ],
)
def test_what_has_not_come_to_the_end_has_not_compiled(tmp_path, monkeypatch, lines, kind):
    script(tmp_path, lines, monkeypatch)
    assert latex.compile("x", timeout=20.0).kind == kind


def test_without_pdflatex_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused(capsys, ["compile", f"--workdir={tmp_path}"])
    assert "texlive-latex-base" in line


def test_a_preamble_that_does_not_compile_is_refused(tmp_path, monkeypatch):
    script(tmp_path, PLAYED, monkeypatch)
    latex.check("good", 5.0)
    with pytest.raises(UsageError, match=r"preamble does not compile.*\\bad.*texlive-latex"):
        latex.check("bad", 5.0)
    with pytest.raises(UsageError, match="timeout must be above 0"):
        latex.check("good", 0.0)


def test_the_longest_fragment_is_the_longest_run_of_paragraphs(tmp_path, monkeypatch):
    script(tmp_path, PLAYED, monkeypatch)
    options = {"preamble": "", "timeout": 5.0}
    texts = ["one\n\n\\bad\n\ntwo\n\nthree", "one\n\ntwo", "bad", " "]
    first, second, third, fourth = latex.judge_all(texts, **options)
    assert not first.compiled
    assert first.verdict.message == "Undefined control sequence \\bad"
    assert first.fragment == len("two\n\nthree")
    assert second.compiled
    assert (second.fragment, second.runs) == (len("one\n\ntwo"), 1)
    assert (third.fragment, third.runs) == (0, 1)
    assert (fourth.verdict.kind, fourth.runs) == (latex.NOTHING, 0)


# The program itself


@real
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"Let $x \in \Spec(R)$, $\colim\nolimits_i \mathfrak p_i$ and \textit{so} on.", ""),
        ("$$\n\\xymatrix{ A \\ar[r]^f \\ar[d] & B \\\\ C }\n$$", ""),
        ("b \\qed\n\\end{enumerate}\n\\end{proof}\n\n\\begin{lemma}\n\\label{a}\nc \\ref{b}", ""),
        (r"\foo", "undefined command"),
        (r"a_b", "formulas"),
        ("\\begin{lemma}a\\end{proof}", "environments"),
        (r"\textit{a" + "\n\nb", "braces"),
        (r"\stop", "other"),
        (r"\end{document}", "environments"),
        (r"\loop\iftrue\repeat", "timeout"),
    ],
)
def test_pdflatex_agrees(text, kind):
    document = latex.document(text, latex.PREAMBLE)
    verdict = latex.compile(document, timeout=1.0 if kind == "timeout" else 30.0)
    assert verdict.kind == kind, verdict.message
    assert bool(verdict.pdf) == (kind == "")


@real
def test_pdflatex_reads_no_file_of_others_and_starts_no_program(tmp_path):
    secret, made = tmp_path / "secret.tex", tmp_path / "made"
    secret.write_text("a secret")
    text = rf"\input{{{secret}}}"
    assert latex.compile(latex.document(text, ""), timeout=30.0).kind == "missing file"
    text = rf"\immediate\write18{{touch {made}}} \immediate\openout5={made} a"
    latex.compile(latex.document(text, ""), timeout=30.0)
    assert not made.exists()


# The report


def test_excerpts_begin_at_paragraphs():
    text = "".join(f"paragraph {i}\nof two lines\n\n\n" for i in range(50))
    found = latex_report.excerpts(text, count=10, length=40, seed=0, kind=0)
    assert len(set(found)) == 10
    assert all(piece.startswith("paragraph") and piece in text for piece in found)
    assert found == latex_report.excerpts(text, count=10, length=40, seed=0, kind=0)
    assert found != latex_report.excerpts(text, count=10, length=40, seed=0, kind=1)
    assert latex_report.excerpts("short", count=10, length=40, seed=0, kind=0) == []


def test_an_interval_of_a_share():
    assert latex_report.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert latex_report.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on a folder of .tex files that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("latex")
    pieces = [f"Let $x_{i}$ be \\textit{{so}}.\n\n" for i in range(600)]
    (folder / "a.tex").write_text("".join(pieces))
    (folder / "b.txt").write_text("no LaTeX: ß")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "retain_memory", lambda: True)
        patch.setattr(process, "keep_compiled", lambda folder: None)
        data = [f"--config.data.path={folder}", "--config.data.glob=*.tex"]
        assert launch.main(["train", DEFAULT, f"--workdir={folder / 'run'}", *data, *TINY]) == 0
    return folder / "run"


def test_the_verb_reports_all_sources(run, tmp_path, monkeypatch, capsys):
    script(tmp_path, PLAYED, monkeypatch)
    out, preamble = tmp_path / "out", tmp_path / "own.tex"
    preamble.write_text("% mine\n")
    (out / "model").mkdir(parents=True)
    (out / "model" / "999.tex").write_text("an old one")
    flags = ["--num=3", "--length=40", "--seed=1", f"--out={out}", f"--preamble={preamble}"]
    assert launch.main(["compile", f"--workdir={run}", *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"the report is in {out / 'latex.md'}"
    found = json.loads((out / "latex.json").read_text())
    names = list(found["sources"])
    assert names[:2] == ["held-out text", "training text"]
    assert names[-2:] == ["9-gram", "model"] or names[-2].endswith("-gram")
    for name, numbers in found["sources"].items():
        assert numbers["texts"] == 3
        assert numbers["compile"] + sum(numbers["errors"].values()) / 3 == pytest.approx(1.0)
        assert 0.0 <= numbers["fragment_share"] <= 1.0
        documents = sorted(path.name for path in (out / name.replace(" ", "_")).iterdir())
        assert documents == ["001.tex", "002.tex", "003.tex"]
    real = found["sources"]["held-out text"]
    assert real["compile"] == real["environments_balance"] == real["brackets_balance"] == 1.0
    assert found["sources"]["model"]["novel"]["10"] > 0.9  # it has learned nothing
    document = (out / "held-out_text" / "001.tex").read_text()
    assert document.startswith(
        "% compiles\n\\documentclass{article}\n% mine\n\\begin{document}\nLet $x_"
    )
    page = (out / "latex.md").read_text()
    assert "| **compile** | **100%** | **100%** |" in page
    assert "played TeX" in page
    assert (out / "latex.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "model.pdf").exists() == (found["sources"]["model"]["compile"] > 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num=0"], "num and length must be at least 1"),
        (["--timeout=0"], "timeout must be above 0"),
        (["--preamble=nowhere.tex"], "--preamble=nowhere.tex cannot be used: No such file"),
        (["--temperature=-1"], "temperature must be"),
        (["--config.seed=1"], "--config.KEY is for"),
    ],
)
def test_a_wrong_flag_is_one_line(run, tmp_path, monkeypatch, capsys, flags, said):
    script(tmp_path, PLAYED, monkeypatch)
    out = tmp_path / "out"
    arguments = ["compile", f"--workdir={run}", f"--out={out}", *flags]
    if "config" in said:
        with pytest.raises(SystemExit, match="2"):
            launch.main(arguments)
        assert said.removeprefix("--") in capsys.readouterr().err
    else:
        assert said in refused(capsys, arguments).replace("model writes", "")
    assert not out.exists()
