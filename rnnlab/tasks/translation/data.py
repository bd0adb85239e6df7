"""What is translated: dates, drawn; or parallel texts. Both as examples of tokens with their vocabularies."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import draws, optional, textfile, words, wordsplit
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.run.files import read_json
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds.examples import Batch, Examples
from rnnlab.tasks.translation import dates, texts
from rnnlab.types import Config

SIDES = ("source", "target")
KNOWN_DATES = 5000  # dates, of which the vocabularies are learned


class Vocabularies(NamedTuple):
    """Of both languages."""

    source: words.Units
    target: words.Units


class Data(NamedTuple):
    """The examples of a config; a truth is a pair of texts (source, target)."""

    vocabularies: Vocabularies
    train: Examples
    valid: Examples
    test: Examples
    targets: list[str]  # whose symbols' frequencies are the baseline
    facts: dict[str, Any]
    real: bool  # texts that people wrote: judged by BLEU too


def kept_vocabularies(folder: Path) -> Vocabularies:
    """Those of the run in `folder`. Raises UsageError if they are damaged."""
    found = (words.from_json(read_json(folder / f"{side}.json")) for side in SIDES)
    return Vocabularies(*found)


def vocabularies_of(config: Config, kept: Path | None, pairs: texts.Pairs) -> Vocabularies:
    """Those of the run in `kept`, or learned from `pairs`, in NFC."""
    if kept is not None:
        return kept_vocabularies(kept)
    options = config.data
    found = (
        words.learn(
            [*map(wordsplit.normal, text)],
            level=options.level,
            most=options.vocabulary,
            rare=options.rare,
        )
        for text in pairs
    )
    return Vocabularies(*found)


def lengths_of(config: Config) -> tuple[int, ...]:
    """The lengths T that batches may have, rising; the last is train.window."""
    return (*config.data.buckets, config.train.window)


def batch_of(lengths: tuple[int, ...], sources: list[list[int]], targets: list[list[int]]) -> Batch:
    """A batch of the shortest of `lengths` that holds them all, or of the last one, where longer ones are
    cut: source int32 [T, B], lengths int32 [B], and what `words.taught` gives of the targets."""
    longest = max(max(map(len, sources)), 1 + max(map(len, targets)))
    length = next((n for n in lengths if n >= longest), lengths[-1])
    sources = [tokens[:length] for tokens in sources]
    return {
        "source": words.padded(sources, length),
        "lengths": np.array([len(tokens) for tokens in sources], np.int32),
        **words.taught([tokens[: length - 1] for tokens in targets], length),
    }


def load_data(config: Config, kept: Path | None) -> Data:
    """The data of a config; with `kept`, vocabularies come from that run, whose texts must be the same.

    Raises UsageError for texts or options that do not fit.
    """
    built_in = not (config.data.path or config.data.download)
    return _dates(config, kept) if built_in else _texts(config, kept)


def _dates(config: Config, kept: Path | None) -> Data:
    if config.data.level != "char" or config.train.window < dates.LONGEST:
        raise UsageError(
            f"the dates are read by characters, up to {dates.LONGEST} of them: set data.level to "
            f"'char' and train.window to {dates.LONGEST} or more"
        )

    def date(purpose: int, number: int) -> tuple[str, str]:
        return dates.drawn(draws.Random(config.seed, purpose, int(number)))

    known = [date(draws.ORDER, number) for number in range(KNOWN_DATES)]
    pairs = [source for source, _ in known], [target for _, target in known]
    vocabularies, lengths = vocabularies_of(config, kept, pairs), lengths_of(config)

    def examples(purpose: int) -> Examples:
        def batch(numbers: np.ndarray) -> Batch:
            drawn = [date(purpose, number) for number in numbers]
            return batch_of(
                lengths,
                [vocabularies.source.encode(source) for source, _ in drawn],
                [vocabularies.target.encode(target) for _, target in drawn],
            )

        return Examples(batch, functools.partial(date, purpose), None)

    return Data(
        vocabularies,
        *(examples(purpose) for purpose in (draws.TRAIN, draws.EVALUATE, draws.TEST)),
        targets=pairs[1],
        facts={"source": "dates, drawn", **_sizes(vocabularies)},
        real=False,
    )


def _texts(config: Config, kept: Path | None) -> Data:
    optional.needed("sacrebleu", "BLEU")  # now, and not at the first validation
    options, window = config.data, config.train.window
    names = (options.train, options.valid, options.test)
    source, languages = (options.path, options.download), (options.source, options.target)
    with reading(options.path or options.download):
        encoding = options.get("encoding", textfile.OLDER)
        parts, sha256 = texts.load(*source, names, languages, encoding)
    unchanged(kept, "texts", options.path or options.download, sha256)
    vocabularies, lengths = vocabularies_of(config, kept, parts["train"]), lengths_of(config)

    def examples(part: str) -> tuple[Examples, int]:
        """(the examples of a part, how many are left out since they are too long to train on)."""
        texts_of = zip(vocabularies, parts[part], strict=True)
        pairs = list(zip(*(map(side.normal, text) for side, text in texts_of), strict=True))
        tokens = [
            (vocabularies.source.encode(source), vocabularies.target.encode(target))
            for source, target in pairs
        ]
        sizes = np.array([max(len(source), len(target) + 1) for source, target in tokens])
        there = np.flatnonzero(sizes <= window) if part == "train" else np.arange(len(pairs))

        def batch(numbers: np.ndarray) -> Batch:
            chosen = [tokens[i] for i in there[numbers]]
            return batch_of(lengths, [a for a, _ in chosen], [b for _, b in chosen])

        found = Examples(
            batch,
            lambda number: pairs[there[number]],
            len(there),
            sizes[there] if options.buckets else None,
        )
        return found, len(pairs) - len(there)

    (train, left_out), (valid, _), (test, _) = (examples(part) for part in texts.PARTS)
    return Data(
        vocabularies,
        train,
        valid,
        test,
        targets=[*map(vocabularies.target.normal, parts["train"][1])],
        facts={
            "source": options.path or texts.ADDRESS,
            **_sizes(vocabularies),
            "sha256": sha256,
            "languages": f"{options.source} to {options.target}",
            "train_sentences": train.size,
            "too_long_to_train_on": left_out,
            "valid_sentences": valid.size,
            "test_sentences": test.size,
        },
        real=True,
    )


def _sizes(vocabularies: Vocabularies) -> dict[str, int]:
    return {
        "source_symbols": vocabularies.source.size,
        "target_symbols": vocabularies.target.size,
    }
