"""The verb compile: how much of what a character model writes compiles as LaTeX, beside what else would.

The same is done with texts from five sources: excerpts of the held-out text and of the training text,
what two n-gram models of the training text write, and what the model writes. All of them begin at the
border of a paragraph and are cut at the one nearest to the length asked for (`latex`).
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rnnlab.data import textfile
from rnnlab.data.draws import EVALUATE, SHOW, Random
from rnnlab.data.reading import reading
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError
from rnnlab.run.figure import COLOURS, GREY, save
from rnnlab.run.files import read_rows, write_json
from rnnlab.tasks.language_model import latex, ngrams
from rnnlab.tasks.language_model.data import kept_vocabulary, read_text
from rnnlab.tasks.language_model.network import reader
from rnnlab.tasks.language_model.text import prime_tokens, text_samples

REACH = 3  # times the length are looked at, for the border of a paragraph that is nearest to it
PRIME = "\n\n"  # a text begins where a paragraph does
SIZES = (10, 20, 30)  # of the n-grams that are new or copied, in characters
PLACES = 4096  # characters of the held-out text that an n-gram model is measured on
READ_FOR_COPIES = 32_000_000  # characters of the training text at most: 1.3 GB of memory


class Source(NamedTuple):
    """Texts of one origin, and what became of them."""

    name: str
    texts: list[str]  # as written, not yet cut
    nats: float = math.nan  # per character of the held-out text
    own: bool = False  # taken from the training text, so that nothing in it is new
    judged: tuple[latex.Judgement, ...] = ()
    matches: tuple[np.ndarray, ...] = ()  # of `ngrams.matches`, for each judged text


def excerpts(text: str, *, count: int, length: int, seed: int, kind: int) -> list[str]:
    """Up to `count` pieces of `text`, of REACH x `length` characters or to its end, at least `length`: each
    from a paragraph's beginning, drawn without replacement from (seed, kind)."""
    borders = re.finditer(r"\n[ \t]*\n\s*", text)
    starts = [place for found in borders if (place := found.end()) + length <= len(text)]
    chosen = Random(seed, SHOW, 0, kind).order(len(starts))[:count]
    return [text[starts[i] : starts[i] + REACH * length] for i in chosen]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (
        max(0.0, (middle - spread) / (1 + z * z / count)),
        (middle + spread) / (1 + z * z / count),
    )


def counted(
    tokens: np.ndarray, valid: np.ndarray, vocabulary: Vocabulary, **choice: Any
) -> list[Source]:
    """What two n-gram models of the tokens write: that of the order whose loss on the held-out text is
    the lowest, and that of the highest order, which copies the most. choice: count, length,
    temperature, seed."""
    model = ngrams.count(tokens, size=vocabulary.size)
    seed, count = choice["seed"], choice.pop("count")
    if len(valid) <= model.highest:
        raise UsageError(f"the held-out text has {len(valid)} characters: too few to measure on")
    places = Random(seed, EVALUATE).integers(model.highest, len(valid), (PLACES,))
    nats = {
        order: ngrams.nats(model, valid, places, order=order)
        for order in range(1, model.highest + 1)
    }
    first = prime_tokens(vocabulary, PRIME, count=count).astype(np.int64)
    found = []
    for order in sorted({min(nats, key=nats.__getitem__), model.highest}):
        written = ngrams.generate(model, first, order=order, **choice)
        texts = [vocabulary.decode(column) for column in written.T]
        found.append(Source(f"{order}-gram", texts, nats[order]))
    return found


def write_report(
    workdir: Path,
    folder: Path,
    *,
    opened: Callable[[], Any],
    num: int,
    length: int,
    temperature: float,
    seed: int,
    preamble: str | None,
    timeout: float,
    say: Callable[[str], None],
) -> Path:
    """Judge the model of a run and write latex.md, its figure, the numbers and the texts to `folder`.

    opened: gives the run, opened at a checkpoint (a `Run` of rnnlab.train), once the options have been
    checked. num: texts of each source. length: characters that a text should have. preamble: a file that
    comes after the document's class; "" for the built-in. timeout: seconds for one document.
    Returns the path of latex.md.

    Raises UsageError without pdflatex, for a run of another task, a text that has changed, a preamble
    that is missing or does not compile, and options out of range.
    """
    version = latex.version()
    if num < 1 or length < 1:
        raise UsageError(f"num and length must be at least 1, got {num} and {length}")
    own = latex.PREAMBLE if not preamble else _read(Path(preamble))
    latex.check(own, timeout)
    run = opened()
    if run.config.task != "language_model":
        raise UsageError(f"compile is for a language_model: this run is of {run.config.task}")
    vocabulary = kept_vocabulary(workdir)
    _, tokens, valid = read_text(run.config, workdir)
    choice: dict[str, Any] = {"length": REACH * length, "temperature": temperature, "seed": seed}
    net = reader(run.config, vocabulary.size).net
    say(f"the model writes {num} texts")
    written = text_samples(net, run.params, vocabulary, prime=PRIME, count=num, **choice)
    say("two n-gram models are counted, and write as many")
    text, held = vocabulary.decode(tokens), vocabulary.decode(valid)
    cutting = {"count": num, "length": length, "seed": seed}
    sources = [
        Source("held-out text", excerpts(held, kind=0, **cutting)),
        Source("training text", excerpts(text, kind=1, **cutting), own=True),
        *counted(tokens, valid, vocabulary, count=num, **choice),
        Source("model", written, _loss(workdir, run.meta["step"])),
    ]
    sources = [source for source in sources if source.texts]
    copies = ngrams.index(text[:READ_FOR_COPIES], depth=REACH * length)
    done = []
    for source in sources:
        cuts = [latex.cut(piece, length) for piece in source.texts]
        judged = latex.judge_all(cuts, preamble=own, timeout=timeout)
        found = () if source.own else tuple(ngrams.matches(copies, cut) for cut in cuts)
        done.append(source._replace(judged=tuple(judged), matches=found))
        say(f"{source.name}: {sum(j.compiled for j in judged)} of {len(judged)} compile")
    facts = {
        "checkpoint": run.meta["step"],
        "texts": num,
        "length": length,
        "temperature": temperature,
        "seed": seed,
        "timeout": timeout,
        "pdflatex": version,
        "preamble": Path(preamble).name if preamble else "built in",
        "diagrams": _diagrams(own, timeout) if not preamble else "as the preamble has them",
        "read_for_copies": min(len(text), READ_FOR_COPIES),
    }
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {source.name: summary(source) for source in done}
    write_json(folder / "latex.json", {**facts, "sources": numbers})
    figure(done, folder / "latex.png", title=f"{workdir.resolve().name}, step {run.meta['step']}")
    for source in done:
        _texts(folder / source.name.replace(" ", "_"), source, own)
    pages = _pages(done[-1], folder / "model.pdf", own, timeout)
    page = folder / "latex.md"
    page.write_text(markdown(done, facts, workdir.resolve().name, pages), encoding="utf-8")
    return page


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise UsageError(f"cannot read the preamble {path}: it is no file")
    with reading(f"the preamble {path}"), open(path, "rb") as file:
        return textfile.decoded(file.read(), f"the preamble {path}")


def _loss(workdir: Path, step: int) -> float:
    rows = read_rows(workdir / "metrics.jsonl")
    losses = [r["loss"] for r in rows if r.get("split") == "valid" and r["step"] == step]
    return float(losses[-1]) if losses else math.nan


def _diagrams(preamble: str, timeout: float) -> str:
    asked = latex.document(r"\IfFileExists{xy.sty}{}{\missing}", preamble)
    there = not latex.compile(asked, timeout=timeout).kind
    return "Xy-pic" if there else "a stand-in for Xy-pic, which is not installed"


# What is reported


def summary(source: Source) -> dict[str, Any]:
    """The numbers of a source."""
    judged = source.judged
    count, good = len(judged), sum(j.compiled for j in judged)

    def share(values: Any) -> float:
        return sum(values) / count

    copied = [int(found.max(initial=0)) for found in source.matches]
    return {
        "texts": count,
        "characters": share(len(j.text) for j in judged),
        "compile": good / count,
        "interval": list(wilson(good, count)),
        "compile_as_they_stand": share(j.compiled and not j.scan.before for j in judged),
        "environments_balance": share(j.scan.environments for j in judged),
        "brackets_balance": share(j.scan.brackets for j in judged),
        "fragment_share": share(j.fragment / max(1, len(j.text)) for j in judged),
        "fragment_median": float(np.median([j.fragment for j in judged])),
        "errors": dict(Counter(j.verdict.kind for j in judged if not j.compiled).most_common()),
        "novel": {str(n): ngrams.novel(list(source.matches), n) for n in SIZES},
        "copied_median": float(np.median(copied)) if copied else math.nan,
        "copied_longest": max(copied, default=0),
        "nats": source.nats,
        "runs_of_pdflatex": sum(j.runs for j in judged),
    }


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f}%"


def _plain(value: float, digits: int = 0) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(sources: list[Source], facts: dict[str, Any], name: str, pages: str) -> str:
    """The text of latex.md."""
    found = [summary(source) for source in sources]

    def row(label: str, show: Callable[[dict[str, Any]], str]) -> str:
        return f"| {label} | " + " | ".join(show(numbers) for numbers in found) + " |"

    def interval(numbers: dict[str, Any]) -> str:
        low, high = numbers["interval"]
        return f"{100 * low:.0f} to {100 * high:.0f}%"

    head = [f"| | {' | '.join(s.name for s in sources)} |", "|---" * (len(sources) + 1) + "|"]
    novel = [
        row(f"new {n}-grams of characters", lambda f, n=n: _percent(f["novel"][str(n)]))
        for n in SIZES
    ]
    kinds = [kind for kind in latex.KINDS if any(kind in f["errors"] for f in found)]
    messages = Counter(j.verdict.message for j in sources[-1].judged if not j.compiled)
    lines = [
        f"# LaTeX that compiles: {name}, step {facts['checkpoint']}",
        "",
        f"{facts['texts']} texts of about {facts['length']} characters from each source, temperature "
        f"{facts['temperature']:g}, seed {facts['seed']}; {facts['pdflatex']}, preamble "
        f"{facts['preamble']}, diagrams: {facts['diagrams']}.",
        "",
        *head,
        row("**compile**", lambda f: f"**{_percent(f['compile'])}**"),
        row("with 95% (Wilson)", interval),
        row(
            "compile with nothing begun before them", lambda f: _percent(f["compile_as_they_stand"])
        ),
        row("environments balance", lambda f: _percent(f["environments_balance"])),
        row("brackets balance", lambda f: _percent(f["brackets_balance"])),
        row("longest compiling fragment, mean share", lambda f: _percent(f["fragment_share"])),
        row("the same, median characters", lambda f: _plain(f["fragment_median"])),
        row("characters, mean", lambda f: _plain(f["characters"])),
        *novel,
        row("longest copied, median characters", lambda f: _plain(f["copied_median"])),
        row("longest copied of all", lambda f: _plain(f["copied_longest"] or math.nan)),
        row("nats per character, held-out text", lambda f: _plain(f["nats"], 3)),
        "",
        "![First errors by class](latex.png)",
        "",
        "First error, number of texts:",
        "",
        *head,
        *(row(kind, lambda f, kind=kind: str(f["errors"].get(kind, 0))) for kind in kinds),
        "",
        "The model's most frequent first errors:",
        "",
        *(
            f"- {times} x `{text.replace('`', chr(39))}`"
            for text, times in messages.most_common(12)
        ),
        "",
        "What was judged. Each text begins at the border of a paragraph: an excerpt at one drawn at "
        "random, a written text after an empty line and, for the model, from a zero state. Of three "
        "times the length it is cut at the paragraph's border nearest to the length, and beyond half of it. "
        "Environments that it ends without having begun them are begun before it, those left open are "
        "ended after it; nothing else is repaired, and the third row counts only texts that "
        "needed nothing before them. It "
        "compiles if pdflatex, which halts on the first error, comes to the end of the text. "
        "The longest compiling fragment is the longest run of whole paragraphs that compiles, with "
        "environments begun and ended in the same way. Environments balance if each one's end is that "
        "of the innermost open one, brackets if braces, formulas and \\left \\right pair; comments and "
        "escaped characters do not count. An n-gram of characters is new if it does not occur in the "
        f"training text ({facts['read_for_copies']:,} characters of it read). The first n-gram model "
        "has the order of the lowest loss on the held-out text, the second the highest counted "
        "(Witten-Bell interpolation), both at the same temperature.",
        "",
        pages,
        "",
    ]
    return "\n".join(lines)


def figure(sources: list[Source], path: Path, *, title: str) -> None:
    """Bars: of each source the share of texts that compile, and that have a first error of each class."""
    found = [summary(source) for source in sources]
    kinds = [kind for kind in latex.KINDS if any(kind in f["errors"] for f in found)]
    labels = ["compile", *kinds]
    drawing = Figure(figsize=(9, 1.4 + 0.5 * len(labels)), layout="constrained")
    axis = drawing.subplots()
    height = 0.8 / len(found)
    for number, (source, numbers) in enumerate(zip(sources, found, strict=True)):
        shares = [100 * numbers["compile"]]
        shares += [100 * numbers["errors"].get(kind, 0) / numbers["texts"] for kind in kinds]
        places = np.arange(len(labels)) - 0.4 + (number + 0.5) * height
        bars = axis.barh(places, shares, height, color=COLOURS[number], label=source.name)
        axis.bar_label(bars, [f"{s:.0f}" if s else "" for s in shares], fontsize=7, padding=2)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.axhline(0.5, color=GREY, lw=0.8)
    axis.set(xlabel="% of texts", xlim=(0, 105), title="compile, or the class of the first error")
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", fontsize=8, framealpha=0.85, edgecolor="none")
    drawing.suptitle(title, parse_math=False)
    save(drawing, path)


def _texts(folder: Path, source: Source, preamble: str) -> None:
    """Each judged document, with its verdict as a comment in the first line."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9][0-9]*.tex"):
        old.unlink()
    for number, judged in enumerate(source.judged, start=1):
        verdict = judged.verdict.message if judged.verdict.kind else "compiles"
        body = f"% {verdict}\n{latex.document(judged.text, preamble)}"
        (folder / f"{number:03}.tex").write_text(body, encoding="utf-8", errors="replace")


def _pages(source: Source, path: Path, preamble: str, timeout: float) -> str:
    """Write all texts of a source that compile as one PDF, or as many as compile together; what to say."""
    good = [(n, j.text) for n, j in enumerate(source.judged, start=1) if j.compiled]

    def together(chosen: list[tuple[int, str]]) -> bytes:
        bodies = [latex.body(text) for _, text in chosen]
        parts = [
            rf"\par\bigskip\hrule\medskip\noindent\textsf{{{number}}}\par" + "\n" + body + "\n\n"
            for (number, _), body in zip(chosen, bodies, strict=True)
        ]
        source = latex.document("", preamble).replace(
            r"\begin{document}", "\\begin{document}\n" + "".join(parts), 1
        )
        return latex.compile(source, timeout=timeout).pdf

    for some in (good, good[:10], good[:1]):
        if some and (pdf := together(some)):
            path.write_bytes(pdf)
            return (
                f"model.pdf shows {len(some)} of the {len(good)} texts of the model that compile."
            )
    path.unlink(missing_ok=True)
    return "No text of the model compiles to a page."
