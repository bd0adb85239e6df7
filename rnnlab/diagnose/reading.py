"""Reading a character model: which unit follows what in the text, and how far back it remembers.

After Karpathy, Johnson and Fei-Fei 2015 (arXiv 1506.02078), who found single units of an LSTM that
are on inside quotes, or count the characters of a line. Here every unit is ranked for every label of
`labels`, beside what the best of as many units would reach by chance; `write_page` makes a page of
it, in which the text is coloured by any unit.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.data.vocabulary import Vocabulary
from rnnlab.diagnose import context, labels, page
from rnnlab.diagnose.context import Memory, at_least_float32, check_causal, check_length
from rnnlab.diagnose.ranking import Ranking, rank
from rnnlab.diagnose.subject import Findings, Section, Subject
from rnnlab.errors import UsageError
from rnnlab.run.files import write_file
from rnnlab.tasks.metrics.tokens import cross_entropy
from rnnlab.types import Array, Model, Params


class Unit(NamedTuple):
    """A number of the state; `str` names it in words."""

    layer: str  # of Model.names
    part: str  # of the state, as "c" or "h"; "" where there is one part alone
    number: int  # from 0

    def __str__(self) -> str:
        return f"unit {self.number} of {self.layer}" + f" ({self.part})" * bool(self.part)


class Read(NamedTuple):
    """What a model did while it read N characters, its state carried from each to the next."""

    units: tuple[Unit, ...]
    values: np.ndarray  # [N, units], after each character
    losses: np.ndarray  # [N], -log p of each character in nats; nan for the first, never predicted


def write_page(
    net: Model,
    params: Params,
    vocabulary: Vocabulary,
    tokens: Any,
    folder: Path,
    *,
    title: str,
    seed: int,
    characters: int = 20_000,
    shown: int = 4_000,
    units: int = 600,
    top: int = 8,
    shifts: int = 200,
    longest: int = 512,
    positions: int = 512,
) -> list[str]:
    """Read a held-out text, and write reading.html and context.png into `folder`.

    tokens: int [N]; of these the first `characters` are read (bytes, at byte level).
    title: what model this is; seed: of the shifts, the positions and the sample of units.
    shown: characters that the page shows: of the stretches that begin with a line, that in which the
        labels begin to hold most often, by the sum over the labels of log(1 + times).
    units: the page has all of the model's units if they are not more, else the best for each label
        and a random sample of the others, so many in all; about 5 kB each.
    top, shifts: see `rank`; longest, positions: see `context.measure`.

    Returns what can be said of the model, a sentence each. The files replace older ones at once.

    Raises UsageError for a bidirectional model, a state that is not finite, tokens that the
    vocabulary does not have, and a text that is too short.
    """
    check_causal(net)
    least = {"characters": characters, "shown": shown, "units": units, "top": top}
    for name, value in (
        least | {"shifts": shifts, "longest": longest, "positions": positions}
    ).items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    tokens = np.asarray(tokens).reshape(-1)[:characters]
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary.size:
        raise UsageError(
            f"the text has tokens from {tokens.min()} to {tokens.max()}, the vocabulary those from 0 "
            f"to {vocabulary.size - 1}: give the text and the vocabulary of one run"
        )
    check_length(tokens, longest)
    unit = "byte" if vocabulary.level == "byte" else "character"
    seen = read(net, params, tokens)
    text = text_of(vocabulary, tokens)
    found = labels.of(text)
    rankings = rank(seen.values, found, top=top, shifts=shifts, seed=seed)
    kept = context.measure(
        net, params, tokens, seen.losses, longest=longest, positions=positions, seed=seed
    )
    said = sentences(rankings, seen.units, kept, unit=unit)
    context.draw(kept, Path(folder) / "context.png", title=title, unit=unit)
    begin = _stretch(text, found, shown)
    part = slice(begin, begin + shown)
    columns = _columns(rankings, len(seen.units), units, seed)
    made = page.Page(
        title=title,
        about=_about(net, params, vocabulary, len(tokens), part, len(columns), len(seen.units)),
        sentences=said,
        begin=begin,
        pieces=_pieces(vocabulary, tokens[part]),
        marks={name: label[part] for name, label in found.items() if label.dtype == bool},
        units=[seen.units[column] for column in columns],
        values=seen.values[part][:, columns],
        columns={column: place for place, column in enumerate(columns)},
        rankings=rankings,
        names=seen.units,
        chance=_chance(len(seen.units), shifts),
        figure=(Path(folder) / "context.png").read_bytes(),
        caption=said[-1],
    )
    write_file(Path(folder) / "reading.html", page.html(made))
    return said


def text_of(vocabulary: Vocabulary, tokens: Any) -> str:
    """The text of tokens [T] with exactly one character each: a byte that is no ASCII is a letter
    without case."""
    tokens = np.asarray(tokens)
    if vocabulary.level == "byte":
        return "".join(map(chr, np.where(tokens < 128, tokens, ord("א"))))
    return vocabulary.decode(tokens)


def sentences(
    rankings: Sequence[Ranking], units: Sequence[Unit], kept: Memory, *, unit: str
) -> list[str]:
    """What the numbers say: one sentence for each label and, the last, one for the memory.

    A label that no unit follows beyond chance, or that is too rare, gets a sentence that says so and
    nothing else. unit: "character" or "byte".
    """
    said = []
    for ranking in rankings:
        name = f"'{ranking.label}'"
        if not ranking.columns:
            said.append(f"{name} is too rare in this text to rank units by it")
            continue
        chance = f"chance, best of {len(units)} units: {ranking.chance:.2f}"
        if not ranking.follows:
            said.append(f"no unit follows {name} beyond chance: {ranking.best:.2f} ({chance})")
            continue
        who, value = units[ranking.columns[0]], ranking.values[0]
        if ranking.binary:
            high = "high" if value > 0.5 else "low"
            said.append(
                f"{who} follows {name} with AUC {ranking.best:.2f} ({chance}), {high} where it holds; "
                f"a threshold from the first half of the text has a balanced accuracy of "
                f"{100 * ranking.accuracies[0]:.0f}% on the second"
            )
        else:
            said.append(f"{who} follows {name} with a rank correlation of {value:+.2f} ({chance})")
    return [*said, context.sentence(kept, unit)]


def _chance(units: int, shifts: int) -> str:
    return (
        "AUC: the probability that the unit is higher (or lower) at a character where the label holds "
        "than at one where it does not; 0.5 is no relation, 1 a perfect one. For numbers: Spearman's "
        "rank correlation. Balanced accuracy: of a threshold chosen on the first half of the text, on "
        f"the second. Chance, the black line: the largest value of any of the {units:,} units for "
        f"{shifts} copies of the label, each shifted around the text by a random offset; what does not "
        "reach it is grey. Units are numbered from 0."
    )


def _about(
    net: Model,
    params: Params,
    vocabulary: Vocabulary,
    length: int,
    part: slice,
    here: int,
    units: int,
) -> list[str]:
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    layers = len(net.names)
    unit = "bytes" if vocabulary.level == "byte" else "characters"
    lines = [
        f"Model: {net.cell.name}, {layers} layer{'s' * (layers > 1)} of {net.cell.hidden} units, "
        f"{size:,} parameters. Text: {length:,} {unit} that it was not trained on, read with the state "
        f"carried from each to the next; below are those from {part.start:,} to "
        f"{min(part.stop, length):,}.",
        "Colours: the state of the chosen unit after it has read the character: blue is negative, white "
        "0, orange positive."
        + " The inner state c is shown as tanh(c)."
        * ("c" in _part_names(net)),
    ]
    if here < units:
        lines.append(
            f"This page has {here:,} of the {units:,} units: the best for each label, and a random "
            "sample of the others. The ranking is of all."
        )
    if vocabulary.level == "byte":
        lines.append("A character of several bytes stands at its last one, a dot at those before.")
    return lines


def _part_names(net: Model) -> set[str]:
    return set(getattr(jax.eval_shape(lambda: net.cell.carry(1)), "_fields", ()))


def _pieces(vocabulary: Vocabulary, tokens: np.ndarray) -> list[str]:
    """What each token adds to the text that can be shown; "" within a character of several bytes."""
    decoder = vocabulary.decoder()
    last = len(tokens) - 1
    return [decoder.decode([token], final=t == last) for t, token in enumerate(tokens)]


def _stretch(text: str, found: dict[str, np.ndarray], shown: int) -> int:
    """Where what is shown begins: see `write_page`."""
    flags = np.stack([label for label in found.values() if label.dtype == bool])  # [labels, N]
    begins = flags & ~np.pad(flags[:, :-1], ((0, 0), (1, 0)))
    times = np.pad(np.cumsum(begins, axis=1), ((0, 0), (1, 0)))  # before each character
    starts = [0, *(t + 1 for t, c in enumerate(text) if c == "\n" and t + 1 + shown <= len(text))]
    ends = np.minimum(np.array(starts) + shown, len(text))
    return starts[int(np.argmax(np.log1p(times[:, ends] - times[:, starts]).sum(axis=0)))]


def _columns(rankings: Sequence[Ranking], count: int, units: int, seed: int) -> list[int]:
    """The columns that the page has: see `write_page`."""
    if count <= units:
        return list(range(count))
    best = {column for ranking in rankings for column in ranking.columns}
    others = np.random.default_rng(seed).permutation([c for c in range(count) if c not in best])
    return sorted(best | {int(column) for column in others[: max(0, units - len(best))]})


# ---- reading


def read(net: Model, params: Params, tokens: Any, *, window: int = 256) -> Read:
    """The state after each of `tokens`, int [N], and the loss of each.

    A part of the state called c, the inner state of an LSTM, has no bounds; it is given as tanh(c),
    which is how the cell itself reads it. All other parts are given as they are: h lies in [-1, 1]
    in every cell but an rnn with relu.

    Raises UsageError for a bidirectional model, and where a state is not finite.
    """
    check_causal(net)
    tokens = np.asarray(tokens, np.int32)
    dtype = jax.tree.leaves(params)[0].dtype
    units: tuple[Unit, ...] = ()
    values, losses = np.empty((0, 0)), np.full(len(tokens), np.nan)
    carry = net.carry(1, dtype)
    for begin in range(0, len(tokens), window):
        piece = tokens[begin : begin + window]
        padded = np.zeros(
            window + 1, np.int32
        )  # one program; nothing before depends on the padding
        padded[: len(piece)] = piece
        following = tokens[begin + window : begin + window + 1]
        padded[window : window + len(following)] = following
        carry, parts, found = _watch(net, params, carry, padded[:, None])
        if not units:
            units = _units(net, parts)
            values = np.empty((len(tokens), len(units)), jax.tree.leaves(parts)[0].dtype)
        rows = [np.asarray(leaf)[: len(piece)] for leaf in jax.tree.leaves(parts)]
        values[begin : begin + len(piece)] = np.concatenate(rows, axis=1)
        after = losses[begin + 1 : begin + 1 + window]
        after[:] = np.asarray(found)[: len(after)]
    if not np.isfinite(values).all():
        raise UsageError("the state of this model is not finite: it has diverged; read another one")
    return Read(units, values, losses)


@functools.partial(jax.jit, static_argnums=0)
def _watch(net: Model, params: Params, carry: Any, x: Array) -> tuple[Any, Any, Array]:
    """x int [T + 1, 1] -> (carry, a tuple with {part: [T, H]} a layer, losses [T] of x[1:])."""
    carry, logits, seen = net.watch(params, carry, x[:-1])
    parts = tuple(_parts(each.states) for each in seen)
    return carry, parts, cross_entropy(at_least_float32(logits), x[1:])[:, 0]


def _parts(states: Any) -> dict[str, Array]:
    """{part: [T, H]} of the states [T, 1, H] of a layer."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        value = at_least_float32(leaf.reshape(leaf.shape[0], -1))
        found[name] = jnp.tanh(value) if name == "c" else value
    return found


def _units(net: Model, parts: Any) -> tuple[Unit, ...]:
    return tuple(
        Unit(layer, name if len(found) > 1 else "", number)
        for layer, found in zip(net.names, parts, strict=True)
        for name, value in sorted(found.items())
        for number in range(value.shape[1])
    )


def examine(subject: Subject, folder: Path) -> Findings | None:
    """The section: reading.html and context.png; None at initialisation, and of a model that is not
    one of text or has two directions."""
    if subject.probe.text is None or not subject.is_run or not subject.probe.net.causal:
        return None
    vocabulary, tokens = subject.probe.text()
    said = write_page(
        subject.probe.net,
        subject.params,
        vocabulary,
        tokens,
        folder,
        title=subject.title,
        seed=subject.config.seed,
    )
    figures = [
        (
            "reading.html",
            "Every unit's activation coloured over held-out text; open it in a browser.",
        ),
        ("context.png", "The loss against how many characters the model sees."),
    ]
    return Findings([f"{s[0].upper()}{s[1:]}." for s in said], figures)


SECTION = Section(110, "Reading the model", examine)
