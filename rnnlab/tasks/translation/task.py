"""The task translation; see the package's docstring for what it is."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.data import words
from rnnlab.errors import UsageError
from rnnlab.run.command import quoted
from rnnlab.run.files import write_json
from rnnlab.tasks.kinds import examples
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.tasks.metrics.texts import bleu, exact_matches
from rnnlab.tasks.translation import figure
from rnnlab.tasks.translation.data import (
    SIDES,
    Data,
    Vocabularies,
    kept_vocabularies,
    lengths_of,
    load_data,
)
from rnnlab.tasks.translation.network import Translator
from rnnlab.types import About, Config, Params, Task

ABOUT = About(
    mapping="many-to-many",
    data="drawn: dates in words to digits; parallel files of yours, or Multi30k, downloaded",
    metric="sacreBLEU and exact matches; nats per symbol",
    experiment="translation",
)


def reads(config: Config) -> dict[str, tuple[str, ...]]:
    """See `Reads`: the parallel files, packed or not."""
    options = config.data
    names = (options.train, options.valid, options.test)
    files = [f"{name}.{side}" for name in names for side in (options.source, options.target)]
    return {"data.path": (*files, *(f"{file}.gz" for file in files))}


READS = Reads(reads)


def check(config: Config) -> None:
    """Raise UsageError for what does not fit together."""
    for part, key in (("decoder", "smoothing"), ("decoder", "sampled")):
        if not 0 <= config[part][key] < 1:
            raise UsageError(f"{part}.{key} must be in [0, 1), got {config[part][key]}")
    least = {"encoder.size": config.encoder.size, "encoder.embedding": config.encoder.embedding}
    least |= {"eval.length": config.eval.length}
    for key, value in least.items():
        if value < 1:
            raise UsageError(f"{key} must be at least 1, got {value}")
    if not 0 <= config.eval.penalty <= 10:
        raise UsageError(f"eval.penalty must be from 0 to 10, got {config.eval.penalty}")
    buckets = config.data.buckets
    if not all(isinstance(b, int) and 1 < b < config.train.window for b in buckets) or list(
        buckets
    ) != sorted(set(buckets)):
        raise UsageError(
            f"data.buckets must be rising lengths below train.window, {config.train.window}, got "
            f"{tuple(buckets)}"
        )


def translator(
    config: Config, vocabularies: Vocabularies, values: dict[str, Any] | None = None
) -> Translator:
    """The network of a config, with `values` in place of its own, by dotted key."""
    sizes = (vocabularies.source.size, vocabularies.target.size)
    return Translator(config, sizes, values or {})


@dataclass(frozen=True, eq=False)
class Translations:
    """What a network answers, how that is judged, and how it is shown."""

    config: Config
    data: Data
    network: Translator

    @functools.cached_property
    def search(self) -> Callable[[int], Callable[..., Any]]:
        """width of the beam -> (params, batch) -> what it finds, compiled once."""
        options = {"length": self.config.eval.length, "penalty": self.config.eval.penalty}
        return functools.cache(
            lambda width: jax.jit(functools.partial(self.network.answers, width=width, **options))
        )

    def answer(self, params: Params, batch: examples.Batch, width: int) -> list[str]:
        """See `examples.Answering`."""
        tokens = np.asarray(self.search(width)(params, batch).tokens)[:, 0]  # [B, T]
        return [self.data.vocabularies.target.decode(row) for row in tokens]

    def score(self, answers: list[str], truths: list[tuple[str, str]]) -> dict[str, float]:
        """The share of exact matches, and of texts that people wrote BLEU."""
        right = [target for _, target in truths]
        found = {"exact": exact_matches(answers, [(target,) for target in right])}
        return found | ({"bleu": bleu(answers, right)} if self.data.real else {})

    def tell(self, of: examples.Examples, number: int, answer: str) -> str:
        """A source, its translation and the answer, a line each."""
        source, target = of.truth(number)
        return f"source  {source}\ntarget  {target}\nanswer  {answer}"

    def draw(self, params: Params, folder: Path) -> list[Path]:
        """Writes translations.txt and, with attention, attention.png of its first sentence."""
        test, numbers = self.data.test, np.arange(8)
        batch = {**test.batch(numbers), "there": np.ones(len(numbers), bool)}
        answers = self.answer(params, batch, self.config.eval.beam)
        text = "\n\n".join(self.tell(test, i, a) for i, a in enumerate(answers))
        written = [folder / "translations.txt"]
        written[0].write_text(text + "\n", encoding="utf-8")
        if self.config.decoder.attention != "none":
            source, _ = test.truth(0)
            written.append(folder / "attention.png")
            self.draw_attention(params, source, answers[0], written[1])
        return written

    def draw_attention(self, params: Params, source: str, answer: str, path: Path) -> None:
        """The figure of where the decoder looked while it said `answer`."""
        reads, says = self.data.vocabularies
        read, said = reads.encode(source), says.encode(answer)
        batch = {
            **source_of(reads, source),
            **words.taught([said], len(said) + 1),
            "there": np.ones(1, bool),
        }
        _, weights = self.network.logits(params, batch)
        rows = [says.symbols[token] for token in said] + ["end"]
        columns = [reads.symbols[token] for token in read]
        figure.attention(np.asarray(weights)[:, 0], rows=rows, columns=columns, path=path)


def source_of(vocabulary: words.Units, text: str) -> examples.Batch:
    """What the encoder reads of one sentence."""
    tokens = vocabulary.encode(vocabulary.normal(text))
    return {
        "source": words.padded([tokens], len(tokens)),
        "lengths": np.array([len(tokens)], np.int32),
    }


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, vocabularies come from that run, whose texts must be the same.

    Raises UsageError for texts or options that do not fit.
    """
    check(config)
    data = load_data(config, kept)
    vocabularies, sampled = data.vocabularies, config.decoder.sampled
    translations = Translations(config, data, translator(config, vocabularies))
    known = [vocabularies.target.encode(text) for text in data.targets]

    def network_of(values: dict[str, Any]) -> examples.Network:
        made = translator(config, vocabularies, values)
        return examples.Network(made.init, made.loss)

    def keep(folder: Path) -> None:
        for side, vocabulary in zip(SIDES, vocabularies, strict=True):
            write_json(folder / f"{side}.json", vocabulary.stored)

    def schedule(step: int) -> examples.Batch:
        """How often the decoder reads its own symbol in place of the true one: more and more."""
        return {"own": np.float32(sampled * min(1.0, step / config.train.steps))} if sampled else {}

    return examples.make_task(
        config,
        network_of=network_of,
        train=data.train,
        valid=data.valid,
        tests={"test": data.test},
        answering=examples.Answering(translations.answer, translations.score, translations.tell),
        unit="symbol",
        measure="nats",
        baseline=("frequency of the symbols", words.entropy(known, vocabularies.target.size)),
        facts=data.facts,
        fingerprint={
            side: f"{vocabulary.size} symbols, sha256 {vocabulary.sha256[:12]}"
            for side, vocabulary in zip(SIDES, vocabularies, strict=True)
        },
        keep=keep,
        draw=translations.draw,
        schedule=schedule,
        symbols={side: getattr(vocabularies, side).symbols for side in SIDES},
        resized=lambda sizes: Translator(config, (sizes["source"], sizes["target"]), {}).init,
        writes=f"--prime={quoted(data.valid.truth(0)[0])}",
        shapes=len(lengths_of(config)),
    )


def write_samples(
    config: Config,
    kept: Path,
    params: Params,
    *,
    prime: str,
    length: int,
    beam: int,
    **others: Any,
) -> None:
    """Print what the run in `kept` says for the sentence `prime`, of the source language: the `beam`
    best translations with their log-probabilities, or for 0 the best of a beam of eval.beam, of at
    most `length` symbols. `others`, which draw a text, have no use here.

    Raises UsageError for no sentence.
    """
    if not prime.strip():
        raise UsageError("a translation needs its source: --prime='a sentence'")
    if min(length, beam + 1) < 1:
        raise UsageError(f"--length must be at least 1 and --beam at least 0: {length}, {beam}")
    vocabularies = kept_vocabularies(kept)
    found = translator(config, vocabularies).answers(
        params,
        source_of(vocabularies.source, prime.strip()),
        width=beam or config.eval.beam,
        length=min(length, config.eval.length),
        penalty=config.eval.penalty,
    )
    texts = [vocabularies.target.decode(row) for row in np.asarray(found.tokens)[0]]
    if not beam:
        print(texts[0])
        return
    for text, score in zip(texts, np.asarray(found.scores)[0], strict=True):
        print(f"{score:9.3f}  {text}")
