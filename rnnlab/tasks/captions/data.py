"""What is captioned: scenes, drawn; or pictures with captions of a folder. Both as examples of symbols."""

import collections
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnlab.data import optional
from rnnlab.data.draws import EVALUATE, TEST, TRAIN
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError
from rnnlab.tasks.captions import flickr, scenes
from rnnlab.tasks.kinds.examples import Batch, Examples
from rnnlab.types import Config

UNKNOWN = "<unknown>"
SPECIAL = (scenes.PAD, scenes.BEGIN, scenes.END, UNKNOWN)
FAMILIAR = 1 << 40  # scenes from this number on are of training's kind and not trained on


class Data(NamedTuple):
    """What is trained and tested on, of either source."""

    symbols: tuple[str, ...]  # V of them, PAD, BEGIN and END first
    shape: tuple[int, ...]  # of a picture: (size, size, 3), or (E,) of features
    train: Examples
    valid: Examples
    tests: dict[str, Examples]
    baseline: float  # nats a word
    exact: bool  # an answer is right or wrong: there is one right sentence
    facts: dict[str, Any]


def load_data(config: Config) -> Data:
    """The data that config.data.name names. Raises UsageError for options or files that do not fit."""
    known = {"scenes": scenes_of, "flickr8k": flickr_of}
    if config.data.name not in known:
        raise UsageError(f"data.name must be one of {', '.join(known)}, not {config.data.name!r}")
    return known[config.data.name](config)


def scenes_of(config: Config) -> Data:
    """The drawn scenes. Raises UsageError for options that do not fit them."""
    if config.train.window < scenes.LONGEST + 1:
        raise UsageError(
            f"train.window is {config.train.window}: the sentences of the scenes have up to "
            f"{scenes.LONGEST + 1} symbols, the end included"
        )
    if config.data.path or config.data.features:
        raise UsageError(
            "data.path and data.features are for data.name 'flickr8k': leave them empty"
        )
    size, seed, index = config.data.size, config.seed, _index(scenes.SYMBOLS)
    scenes.check(size)

    def of(purpose: int, first: int = 0) -> Examples:
        def batch(numbers: np.ndarray) -> Batch:
            drawn = scenes.draw(seed, purpose, first + np.asarray(numbers), size)
            texts = [[scenes.sentence(scene)] for scene in drawn]
            return {
                "picture": np.stack([scene.picture for scene in drawn])[None],
                "words": encoded(texts, index, config.train.window),
            }

        def truth(number: int) -> tuple[str, ...]:
            return tuple(scenes.sentences(seed, purpose, first + np.array([number])))

        return Examples(batch, truth, None)

    count = config.eval.examples
    seen = scenes.sentences(seed, TRAIN, FAMILIAR - 1 - np.arange(2000))
    asked = scenes.sentences(seed, EVALUATE, np.arange(max(count, 1)))
    most = collections.Counter(asked).most_common(1)[0]
    held = {purpose: len(scenes.combinations(purpose)) for purpose in (TRAIN, EVALUATE, TEST)}
    return Data(
        symbols=scenes.SYMBOLS,
        shape=(size, size, 3),
        train=of(TRAIN),
        valid=of(EVALUATE),
        tests={"test": of(TEST), "familiar": of(TRAIN, FAMILIAR)},
        baseline=baseline_loss(seen, asked),
        exact=True,
        facts={
            "source": "rnnlab.tasks.captions.scenes",
            "combinations": f"{held[TRAIN]} to train on, {held[EVALUATE]} held out for validation, "
            f"{held[TEST]} for the test",
            "words": len(scenes.SYMBOLS),
            "most_frequent": f"{most[0]!r}: an exact match in {most[1] / len(asked):.2%} of validation",
        },
    )


def flickr_of(config: Config) -> Data:
    """The pictures of a folder in Flickr8k's layout. Raises UsageError for options or files that do not
    fit."""
    for package in ("sacrebleu", "rouge_score"):  # now, and not at the first validation
        optional.needed(package, "scoring captions")
    options, encoding = config.data, config.data.get("encoding")
    path, size, features = options.path, options.size, options.features
    with reading(path):
        splits = flickr.load(path, size, features, encoding)
    if config.data.rare < 1:
        raise UsageError(f"data.rare must be at least 1, got {config.data.rare}")
    train = splits["train"]
    every = list(itertools.chain.from_iterable(train.captions))
    counts = collections.Counter(word for text in every for word in text.split())
    words = sorted(word for word, count in counts.items() if count >= config.data.rare)
    symbols = (*SPECIAL, *words)
    index, window = _index(symbols), config.train.window
    pairs = [
        (picture, text) for picture, texts in enumerate(train.captions) for text in texts
    ]  # each caption is an example to train on

    def drawn(pictures: np.ndarray, rows: Sequence[int], texts: list[list[str]]) -> Batch:
        return {"picture": pictures[list(rows)][None], "words": encoded(texts, index, window)}

    def batch(numbers: np.ndarray) -> Batch:
        chosen = [pairs[number] for number in numbers]
        return drawn(train.pictures, [row for row, _ in chosen], [[text] for _, text in chosen])

    def of(split: flickr.Split) -> Examples:
        most = max(map(len, split.captions))

        def all_captions(numbers: np.ndarray) -> Batch:
            texts = [list(split.captions[number]) for number in numbers]
            filled = [text + [""] * (most - len(text)) for text in texts]
            return drawn(split.pictures, numbers.tolist(), filled)

        return Examples(all_captions, lambda number: split.captions[number], len(split.names))

    digest = hashlib.sha256(repr([(s.names, s.captions) for s in splits.values()]).encode())
    for split in splits.values():
        digest.update(np.ascontiguousarray(split.pictures).data)
    asked = list(itertools.chain.from_iterable(splits["valid"].captions))
    held = {word for text in asked for word in text.split()}
    return Data(
        symbols=symbols,
        shape=train.pictures.shape[1:],
        train=Examples(batch, lambda number: (pairs[number][1],), len(pairs)),
        valid=of(splits["valid"]),
        tests={"test": of(splits["test"])},
        baseline=baseline_loss(
            *([_known(text, index) for text in texts] for texts in (every, asked))
        ),
        exact=False,
        facts={
            "source": config.data.path,
            "features": config.data.features,
            "sha256": digest.hexdigest(),
            **{f"{name}_images": len(split.names) for name, split in splits.items()},
            "train_captions": len(pairs),
            "words": len(symbols),
            "unknown_words": f"{len(held - set(words))} of {len(held)} in validation",
        },
    )


def _index(symbols: Sequence[str]) -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(symbols)}


def _known(text: str, index: dict[str, int]) -> str:
    return " ".join(word if word in index else UNKNOWN for word in text.split())


def encoded(texts: list[list[str]], index: dict[str, int], window: int) -> np.ndarray:
    """int32 [T, B, R] of R captions of each of B pictures, with the end symbol and then PAD; of a longer
    one than `window` its beginning. A caption "" is none: all PAD."""
    result = np.full((window, len(texts), len(texts[0])), index[scenes.PAD], np.int32)
    for row, of in enumerate(texts):
        for column, text in enumerate(of):
            if text:
                words = [*_known(text, index).split(), scenes.END][:window]
                result[: len(words), row, column] = [index[word] for word in words]
    return result


def words_of(symbols: tuple[str, ...], row: np.ndarray) -> str:
    """The words before the end symbol."""
    words: list[str] = [symbols[int(token)] for token in row]
    return " ".join(words[: words.index(scenes.END)] if scenes.END in words else words)


def baseline_loss(seen: Iterable[str], asked: Iterable[str]) -> float:
    """Nats a word of `asked`, the end symbol included, for whoever says each word as often as it comes
    in `seen` (plus one)."""
    counts, total = collections.Counter(), 0
    for text in seen:
        counts.update([*text.split(), scenes.END])
    wanted = collections.Counter(word for text in asked for word in [*text.split(), scenes.END])
    total = counts.total() + len(counts | wanted)
    nats = sum(-math.log((counts[word] + 1) / total) * many for word, many in wanted.items())
    return nats / wanted.total()
