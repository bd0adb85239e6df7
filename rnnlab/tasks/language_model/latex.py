r"""Does a generated piece of LaTeX compile? Its balance, its document, and a real pdflatex that is kept in.

What is judged. A text of about N characters is cut out of a longer one, so all texts, real and
generated, go the same way. Each begins at the border of a paragraph (an empty line) and is cut at
the border nearest to N, beyond N / 2 (`cut`). It may lie within environments: those it ends without
having begun them are begun before it, and those it leaves open are ended after it (`Scan.before`,
`Scan.after`); nothing else is repaired. It compiles if pdflatex, told to halt on the first error, comes
to its end.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rnnlab.errors import UsageError
from rnnlab.run import machine
from rnnlab.run.files import temporary_folder
from rnnlab.run.signals import tidied

# For mathematics as the Stacks Project writes it. Its diagrams need Xy-pic (Debian: texlive-pictures);
# without it their arrows are set as text, so that a formula in one is checked but no arrow's direction.
PREAMBLE = r"""
\usepackage{amsmath,amssymb,amsthm,verbatim}
\newtheorem{theorem}{Theorem}[section]
\newtheorem{lemma}[theorem]{Lemma}
\newtheorem{proposition}[theorem]{Proposition}
\newtheorem{corollary}[theorem]{Corollary}
\newtheorem{conjecture}[theorem]{Conjecture}
\theoremstyle{definition}
\newtheorem{definition}[theorem]{Definition}
\newtheorem{example}[theorem]{Example}
\newtheorem{exercise}[theorem]{Exercise}
\newtheorem{situation}[theorem]{Situation}
\theoremstyle{remark}
\newtheorem{remark}[theorem]{Remark}
\newtheorem{remarks}[theorem]{Remarks}
\newenvironment{slogan}{\begin{quote}}{\end{quote}}
\newenvironment{reference}{\begin{quote}}{\end{quote}}
\newenvironment{history}{\begin{quote}}{\end{quote}}
\DeclareMathOperator*{\colim}{colim}
\renewcommand{\lim}{\mathop{\mathrm{lim}}}
\renewcommand{\Im}{\mathop{\mathrm{Im}}}
\DeclareMathOperator{\Spec}{Spec}
\DeclareMathOperator{\Hom}{Hom}
\DeclareMathOperator{\Ext}{Ext}
\DeclareMathOperator{\Mor}{Mor}
\DeclareMathOperator{\Ob}{Ob}
\DeclareMathOperator{\Ker}{Ker}
\DeclareMathOperator{\Coker}{Coker}
\DeclareMathOperator{\Pic}{Pic}
\newcommand{\Sh}{\mathop{\mathit{Sh}}\nolimits}
\newcommand{\Sch}{\mathit{Sch}}
\newcommand{\QCoh}{\mathit{QCoh}}
\newcommand{\Coh}{\mathit{Coh}}
\newcommand{\NL}{\mathop{N\!L}\nolimits}
\newcommand{\SheafHom}{\mathop{\mathcal{H}\!\mathit{om}}\nolimits}
\newcommand{\SheafExt}{\mathop{\mathcal{E}\!\mathit{xt}}\nolimits}
\newcommand{\etale}{\acute{e}tale}
\newcommand{\proetale}{pro\text{-}\etale}
\providecommand{\phantomsection}{}
\IfFileExists{xy.sty}{\usepackage[all,2cell]{xy}\UseAllTwocells}{%
  \def\xymatrix##1##{\diagram}%
  \def\diagram##1{\hbox{$\begin{matrix}##1\end{matrix}$}}%
  \setcounter{MaxMatrixCols}{40}%
  \let\ar\relax \let\rtwocell\relax \let\rrtwocell\relax
  \let\rruppertwocell\relax \let\rrlowertwocell\relax \let\ruppertwocell\relax \let\rlowertwocell\relax
}
"""
END = "rnnlab: the end of the text"  # only who comes to it writes it
LISTS = ("enumerate", "itemize", "description")
LITERAL = ("verbatim", "verbatim*", "comment")
LARGEST = 32 << 20  # bytes of a file that pdflatex writes
INSTALL = "apt-get install texlive-latex-base (Debian, Ubuntu), or any other TeX distribution"


class Scan(NamedTuple):
    """What a text leaves open. Comments and escaped characters do not count."""

    before: tuple[str, ...]  # environments that it ends but did not begin, the outermost first
    after: tuple[str, ...]  # those open at its end, the outermost first
    environments: bool  # each \end closes the innermost open one, or one from before the text
    brackets: bool  # braces pair, and so do $, $$, \( \), \[ \] and \left \right


_TOKEN = re.compile(
    r"%[^\n]*"
    r"|\\(?P<verb>begin|end)\s*\{(?P<name>[^{}\\$%\n]*)\}"
    r"|\\(?P<command>left|right)(?![a-zA-Z])"
    r"|\\(?P<formula>[()\[\]])"
    r"|\\(?:[a-zA-Z]+|.|\n)"
    r"|(?P<mark>\$\$|[${}])"
)


def scan(text: str) -> Scan:
    r"""Read the environments, braces and formulas of `text`, without expanding a macro."""
    before: list[str] = []
    stack: list[str] = []
    nesting: list[str] = []  # of braces, formulas and delimiters
    environments = brackets = True
    partner = {"}": "{", ")": "(", "]": "[", "right": "left"}
    at = 0
    while found := _TOKEN.search(text, at):
        at = found.end()
        verb, name = found["verb"], found["name"]
        mark = found["mark"] or found["formula"] or found["command"]
        if verb == "begin":
            stack.append(name)
            if name in LITERAL:
                end = text.find(f"\\end{{{name}}}", at)
                at = len(text) if end < 0 else end
        elif verb == "end" and stack:
            if stack[-1] != name:
                environments = False
            if name in stack:
                while stack.pop() != name:
                    pass
        elif verb == "end":
            before.insert(0, name)
        elif mark in ("$", "$$"):
            nesting.pop() if nesting and nesting[-1] == mark else nesting.append(mark)
        elif mark in ("{", "(", "[", "left"):
            nesting.append(mark)
        elif mark:
            if nesting and nesting[-1] == partner[mark]:
                nesting.pop()
            else:
                brackets = False
    return Scan(tuple(before), tuple(stack), environments, brackets and not nesting)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of `text`, which empty lines part, without those lines."""
    return [part for part in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")) if part.strip()]


def cut(text: str, length: int) -> str:
    """The beginning of `text`, which starts with a paragraph, to the paragraph's border that is nearest
    to `length` characters, the earlier of two, and not before half of it: what is short compiles easily.
    Without such a border, to the last end of a line before `length`."""
    text = text.lstrip("\n")
    borders = [found.start() for found in re.finditer(r"\n[ \t]*\n", text)]
    if far := [border for border in borders if 2 * border >= length]:
        return text[: min(far, key=lambda border: abs(border - length))]
    lines, newline, _ = text[:length].rpartition("\n")
    return lines if newline else text


def body(text: str) -> str:
    """`text` with the environments begun and ended that it needs."""
    found = scan(text)
    before = [rf"\begin{{{name}}}" + r"\item " * (name in LISTS) for name in found.before]
    after = [rf"\end{{{name}}}" for name in reversed(found.after)]
    return "\n".join([*before, text, *after])


def document(text: str, preamble: str) -> str:
    r"""A document of which `text` is the body; `preamble` comes after \documentclass{article}."""
    begin = [r"\documentclass{article}", preamble.strip("\n"), r"\begin{document}"]
    return "\n".join([*begin, body(text), rf"\typeout{{{END}}}", r"\end{document}", ""])


# The first error of a log, by what TeX, LaTeX and amsmath say. The first that matches counts.
CLASSES = (
    ("undefined command", r"Undefined control sequence"),
    ("undefined environment", r"Environment .* undefined"),
    ("environments", r"\\begin\{.*\} on .* ended by|Bad math environment|Erroneous nesting"),
    ("environments", r"Can be used only in preamble"),
    ("formulas", r"Missing \$ inserted|Display math should end|forgotten \$|allowed only in math"),
    ("formulas", r"invalid in math mode|allowed only in paragraph mode"),
    ("braces", r"Missing [{}] inserted|Too many \}'s|forgotten|File ended while|Paragraph ended"),
    ("braces", r"Argument of .* has an extra|Missing \\endcsname"),
    ("delimiters", r"Missing delimiter|Missing \\right|Extra \\(right|left|middle)"),
    ("scripts", r"Double (super|sub)script"),
    ("alignment", r"lignment tab|Misplaced \\(noalign|cr|omit)|Too many columns"),
    ("list items", r"missing \\item|Lonely \\item"),
    ("characters", r"macro parameter character|Unicode character|invalid character"),
    ("missing file", r"File `.*' not found|can't find file"),
)
TIMEOUT, OTHER, NOTHING = "timeout", "other", "no text"
KINDS = (*dict.fromkeys(name for name, _ in CLASSES), TIMEOUT, OTHER, NOTHING)


def classify(log: str) -> tuple[str, str]:
    """(one of KINDS, the message) of the first error in a log of TeX; ("", "") if there is none."""
    found = re.search(r"^! ?(.*)", log, re.MULTILINE)
    if found is None:
        return "", ""
    message = found[1].strip()
    if message == "Undefined control sequence.":
        # The first line below it ends where TeX stopped, with the command.
        name = re.search(r"(\\[a-zA-Z@]+|\\.)\s*$", log[found.end() :].lstrip("\n").split("\n")[0])
        message = f"Undefined control sequence {name[1]}" if name else message
    for name, pattern in CLASSES:
        if re.search(pattern, message):
            return name, message
    return OTHER, message


class Verdict(NamedTuple):
    """What became of a document."""

    kind: str  # "" if it compiled, or one of KINDS
    message: str  # of the first error
    pdf: bytes = b""  # b"" too where what compiled has no page


def program() -> str:
    """The path of pdflatex. Raises UsageError, with what to install, where there is none."""
    path = shutil.which("pdflatex")
    if path is None:
        raise UsageError(f"compiling needs the program pdflatex, which is not there: {INSTALL}")
    return path


def version() -> str:
    """The first line of what pdflatex says of itself. Raises UsageError where there is none."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=False)
    return (said.stdout.splitlines() or ["pdflatex of an unknown version"])[0]


def command(pdflatex: str, seconds: float) -> list[str]:
    """The command that compiles text.tex of the current folder.

    A shell sets the limits of CPU time, file size and core files and becomes pdflatex: a process with
    threads, as JAX makes one of ours, must not run Python between fork and exec (`preexec_fn`).
    """
    limits = (
        f"ulimit -c 0; ulimit -t {int(seconds) + 1}; ulimit -f {LARGEST // 512}; " + 'exec "$@"'
    )
    flags = ("-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error")
    return ["/bin/sh", "-c", limits, "sh", pdflatex, *flags, "text.tex"]


def environment(folder: Path) -> dict[str, str]:
    """The environment of pdflatex: it reads and writes below its own folder and in TeX's trees alone."""
    own = {
        "openin_any": "p",  # paranoid: no absolute path, no parent folder, no hidden file
        "openout_any": "p",
        "shell_escape": "f",
        "max_print_line": "1000",  # messages in one line
        "HOME": str(folder),
        "SOURCE_DATE_EPOCH": "0",  # the same PDF each time
        "FORCE_SOURCE_DATE": "1",
    }
    trees = {"TEXMFHOME": os.path.expanduser("~/texmf")}
    return {**trees, **os.environ, **own}


def compile(source: str, *, timeout: float) -> Verdict:
    """Compile a document in a fresh folder that is removed afterwards.

    timeout: seconds, after which pdflatex is killed with all that it has started.
    Raises UsageError without pdflatex.
    """
    pdflatex = program()
    with temporary_folder() as folder:
        (folder / "text.tex").write_text(source, encoding="utf-8", errors="replace")
        process = subprocess.Popen(
            command(pdflatex, timeout),
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a process group of its own
        )
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired), tidied(process.kill):
                code = process.wait(timeout)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code is None or code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Verdict(TIMEOUT, f"not done after {timeout:g} s")
        return _verdict(folder, code)


def _verdict(folder: Path, code: int) -> Verdict:
    log, pdf = folder / "text.log", folder / "text.pdf"
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    kind, message = classify(said)
    if kind:
        return Verdict(kind, message)
    if code:
        return Verdict(OTHER, f"pdflatex ended with {code}")
    # `\stop` or `\end` ends it without an error, and whatever comes after has not been looked at.
    if END not in said:
        return Verdict(OTHER, "it ended before the end of the text")
    return Verdict("", "", pdf.read_bytes() if pdf.exists() else b"")


class Judgement(NamedTuple):
    """A text as it was judged."""

    text: str  # as cut
    scan: Scan
    verdict: Verdict
    fragment: int  # characters of the longest run of whole paragraphs that compiles
    runs: int  # of pdflatex, to find that out

    @property
    def compiled(self) -> bool:
        """Whether it compiled."""
        return not self.verdict.kind


def judge(text: str, *, preamble: str, timeout: float) -> Judgement:
    """Compile `text`, as cut; if it fails, look for the longest run of its paragraphs that compiles.

    The runs are tried from the longest, in characters, to the shortest, each with its own repair of
    environments, so the one found is the longest there is.
    """
    found, runs = scan(text), 1
    if not text.strip():
        return Judgement(text, found, Verdict(NOTHING, "there is nothing to compile"), 0, 0)
    verdict = compile(document(text, preamble), timeout=timeout)
    if not verdict.kind:
        return Judgement(text, found, verdict, len(text), runs)
    parts = paragraphs(text)
    places = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]
    pieces = {place: "\n\n".join(parts[slice(*place)]) for place in places}
    pieces.pop((0, len(parts)))  # the whole
    for piece in sorted(pieces.values(), key=len, reverse=True):
        runs += 1
        if not compile(document(piece, preamble), timeout=timeout).kind:
            return Judgement(text, found, verdict, len(piece), runs)
    return Judgement(text, found, verdict, 0, runs)


def check(preamble: str, timeout: float) -> None:
    """Raises UsageError for a time limit that is not above 0 and a preamble that does not compile."""
    if not 0.0 < timeout < 1e6:
        raise UsageError(f"timeout must be above 0 seconds, got {timeout:g}")
    empty = compile(document("Text.", preamble), timeout=timeout)
    if empty.kind:
        raise UsageError(
            f"the preamble does not compile: {empty.message}; packages that TeX lacks are in Debian's "
            "texlive-latex-recommended or texlive-latex-extra; --preamble=FILE takes one of yours"
        )


def judge_all(texts: list[str], *, preamble: str, timeout: float) -> list[Judgement]:
    """`judge` for each text, over the cores. Raises UsageError without pdflatex."""
    with ThreadPoolExecutor(machine.cores()) as pool:
        jobs = [pool.submit(judge, text, preamble=preamble, timeout=timeout) for text in texts]
        try:
            return [job.result() for job in jobs]
        finally:
            pool.shutdown(cancel_futures=True)
