"""The task captions; see the package's docstring for what it is."""

import collections
import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.cells import parts
from rnnlab.data import optional
from rnnlab.data.draws import EVALUATE, TEST, TRAIN
from rnnlab.errors import UsageError
from rnnlab.models import beam, decoder, encoders
from rnnlab.run.folder import unchanged
from rnnlab.tasks.captions import flickr, gallery, scenes
from rnnlab.tasks.kinds import examples
from rnnlab.tasks.kinds.examples import Batch, Examples, Network
from rnnlab.tasks.metrics import tokens
from rnnlab.types import About, Array, Config, Params, Task

ABOUT = About(
    mapping="one-to-many",
    data="scenes with sentences, drawn; or a folder in Flickr8k's layout, or features",
    metric="exact match; BLEU-1 to 4 and ROUGE-L",
    experiment="captions",
)

UNKNOWN = "<unknown>"
SPECIAL = (scenes.PAD, scenes.BEGIN, scenes.END, UNKNOWN)
FAMILIAR = 1 << 40  # scenes from this number on are of training's kind and not trained on
ON_PAGE, ON_SHEET = 48, 12
SHADES = " .:+#"


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


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the captions and pictures must be those of that run.

    Raises UsageError for options that do not fit together, or other data than the run's.
    """
    known = {"scenes": _scenes, "flickr8k": _flickr}
    if config.data.name not in known:
        raise UsageError(f"data.name must be one of {', '.join(known)}, not {config.data.name!r}")
    data = known[config.data.name](config)
    unchanged(kept, "data", config.data.path, data.facts.get("sha256"))
    network, answers = _networks(config, data)

    def answer(params: Params, batch: Batch, width: int) -> list[str]:
        return [_text(data.symbols, row) for row in np.asarray(answers(width)(params, batch))]

    def tell(of: Examples, number: int, said: str) -> str:
        lines = [f"target  {truth}" for truth in of.truth(number)]
        if data.exact:
            lines.insert(0, _sketch(of.batch(np.array([number]))["picture"][0, 0]))
        return "\n".join([*lines, f"answer  {said}"])

    def draw(params: Params, folder: Path) -> list[Path]:
        shown = _shown(config, data, answer, params)
        right = sum(one.right for one in shown)
        about = [
            f"Pictures of the test, {config.data.name}, with what the model says of them by a beam of "
            f"{config.eval.beam}: {right} of these {len(shown)} answers are a reference word for word."
        ]
        html, sheet = folder / "captions.html", folder / "captions.png"
        html.write_text(gallery.page("Captions", about, shown), encoding="utf-8")
        gallery.sheet(sheet, shown[:ON_SHEET])
        return [html, sheet]

    return examples.make_task(
        config,
        network_of=network,
        train=data.train,
        valid=data.valid,
        tests=data.tests,
        answer=answer,
        score=exact if data.exact else overlap,
        tell=tell,
        unit="word",
        measure="nats",
        baseline=("words by frequency", data.baseline),
        facts=data.facts,
        fingerprint={"vocabulary": hashlib.sha256("\n".join(data.symbols).encode()).hexdigest()},
        draw=draw,
    )


# ---- data


def _scenes(config: Config) -> Data:
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
        baseline=by_frequency(seen, asked),
        exact=True,
        facts={
            "source": "rnnlab.tasks.captions.scenes",
            "combinations": f"{held[TRAIN]} to train on, {held[EVALUATE]} held out for validation, "
            f"{held[TEST]} for the test",
            "words": len(scenes.SYMBOLS),
            "most_frequent": f"{most[0]!r}: an exact match in {most[1] / len(asked):.2%} of validation",
        },
    )


def _flickr(config: Config) -> Data:
    for package in ("sacrebleu", "rouge_score"):  # now, and not at the first validation
        optional.needed(package, "scoring captions")
    splits = flickr.load(config.data.path, config.data.size, config.data.features)
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
        baseline=by_frequency(
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


def _text(symbols: tuple[str, ...], row: np.ndarray) -> str:
    """The words before the end symbol."""
    words: list[str] = [symbols[int(token)] for token in row]
    return " ".join(words[: words.index(scenes.END)] if scenes.END in words else words)


def by_frequency(seen: Iterable[str], asked: Iterable[str]) -> float:
    """Nats a word of `asked`, the end symbol included, for whoever says each word as often as it comes
    in `seen` (plus one)."""
    counts, total = collections.Counter(), 0
    for text in seen:
        counts.update([*text.split(), scenes.END])
    wanted = collections.Counter(word for text in asked for word in [*text.split(), scenes.END])
    total = counts.total() + len(counts | wanted)
    nats = sum(-math.log((counts[word] + 1) / total) * many for word, many in wanted.items())
    return nats / wanted.total()


# ---- the network


def _networks(config: Config, data: Data) -> tuple[Any, Any]:
    """(values -> the network; width -> (params, batch) -> answers int [B, T], both compiled once)."""
    how = {"features": config.encoder.features, "precision": config.model.precision}
    if len(data.shape) == 1:
        encoder = encoders.dense(inputs=data.shape[0], **how)
    else:
        encoder = encoders.conv(shape=data.shape, channels=tuple(config.encoder.channels), **how)
    places, looks = encoder.places, config.decoder.attention != "none"
    options = dict(config.decoder)
    forget = options.pop("word_dropout")
    if not 0.0 <= forget < 1.0:
        raise UsageError(f"decoder.word_dropout must be in [0, 1), got {forget}")
    if looks and not places:
        raise UsageError(
            f"decoder.attention is '{config.decoder.attention}', and the encoder gives one vector of a "
            "picture: with encoder.features 0 it gives one of each place; features computed beforehand "
            "have no places"
        )

    def decoder_of(values: dict[str, Any]) -> decoder.Decoder:
        return decoder.make_decoder(
            config,
            vocabulary=len(data.symbols),
            summary=encoder.size * max(places, 1),
            memory=encoder.size if looks else 0,
            values=values,
            **options,
        )

    def begun(words: decoder.Decoder, params: Params, batch: Batch, repeat: int) -> tuple[Any, Any]:
        """(memory, state) of each picture, `repeat` times."""
        x = encoder.apply(params["encoder"], batch["picture"][0])  # [B, E] or [B, S, E]
        summary = jax.nn.standardize(x.reshape(x.shape[0], -1), epsilon=1e-5)
        memory = jnp.swapaxes(x + params["places"], 0, 1) if looks else None  # [S, B, E]
        return beam.repeated(words.start(params["decoder"], summary, memory), repeat)

    def network(values: dict[str, Any]) -> Network:
        words = decoder_of(values)

        def init(key: Array, dtype: Any = jnp.float32) -> Params:
            keys = jax.random.split(key, 3)
            params = {
                "encoder": encoder.init(keys[0], dtype),
                "decoder": words.init(keys[1], dtype),
            }
            if looks:
                shape = (places, encoder.size)
                params["places"] = 0.1 * jax.random.normal(keys[2], shape, dtype)
            return params

        def loss(params: Params, batch: Batch, key: Array | None) -> examples.Sums:
            targets = jnp.asarray(batch["words"])  # [T, B, R]
            length, rows, captions = targets.shape
            there = (targets != 0) & batch["there"][:, None]
            targets = targets.reshape(length, rows * captions)
            first = jnp.full((1, rows * captions), 1, targets.dtype)  # BEGIN
            inputs = jnp.concatenate([first, targets[:-1]])
            if key is not None and forget:
                key, key_words = jax.random.split(key)
                inputs = jnp.where(parts.bernoulli(key_words, 1 - forget, inputs.shape), inputs, 0)
            memory, state = begun(words, params, batch, captions)
            logits, _ = words.teach(params["decoder"], memory, state, inputs, key)
            return tokens.sums(("loss",), logits, targets, there.reshape(targets.shape))

        return Network(init, loss)

    # Captions never have these in them, and what is asked for is a caption.
    never = np.isin(data.symbols, [scenes.PAD, scenes.BEGIN, UNKNOWN])

    @functools.cache
    def answers(width: int) -> Any:
        words = decoder_of({})

        @jax.jit
        def best(params: Params, batch: Batch) -> Array:
            memory, state = begun(words, params, batch, 1)
            wide = beam.repeated(memory, width)

            def advance(state: Any, token: Array) -> tuple[Any, Array]:
                state, logits, _ = words.advance(params["decoder"], wide, state, token)
                return state, jax.nn.log_softmax(jnp.where(never, -jnp.inf, logits))

            begin = jnp.ones(batch["picture"].shape[1], jnp.int32)
            found = beam.search(
                advance,
                state,
                begin,
                length=config.train.window,
                width=width,
                end=2,
                penalty=config.eval.penalty,
            )
            return found.tokens[:, 0]

        return best

    return network, answers


# ---- scores


def exact(answers: list[str], truths: list[tuple[str, ...]]) -> dict[str, float]:
    """The share of answers that are a truth word for word."""
    return {"exact": float(np.mean([a in t for a, t in zip(answers, truths, strict=True)]))}


def overlap(answers: list[str], truths: list[tuple[str, ...]]) -> dict[str, float]:
    """BLEU-1 to 4 of the corpus (Papineni et al. 2002) and the mean of the best ROUGE-L F-measure, in
    percent. Raises UsageError if a package is missing."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise UsageError(
            f"scoring captions needs the package {error.name}: pip install -c constraints.txt -e '.[media]'"
        ) from None
    streams: list[Any] = [list(of) for of in itertools.zip_longest(*truths)]
    found = {}
    for order in (1, 2, 3, 4):
        # force: that the answers are split into words already is what is meant
        bleu = BLEU(tokenize="none", max_ngram_order=order, force=True)
        found[f"bleu{order}"] = bleu.corpus_score(answers, streams).score
    scorer = RougeScorer(["rougeL"], tokenizer=_Blanks())
    best = [
        scorer.score_multi(of, answer)["rougeL"].fmeasure
        for answer, of in zip(answers, truths, strict=True)
    ]
    return {**found, "rouge_l": 100 * float(np.mean(best))}


class _Blanks:
    """The tokenizer of what is words with blanks between."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


# ---- for a person


def _sketch(picture: np.ndarray) -> str:
    """Every second pixel of a scene [h, w, 3], by how far it is from the ground."""
    away = np.abs(picture.astype(int) - scenes.GROUND).max(-1)[::2, ::2] / 255
    shades = np.minimum((away * 1.5 * len(SHADES)).astype(int), len(SHADES) - 1)
    return "\n".join("".join(SHADES[shade] * 2 for shade in row).rstrip() for row in shades)


def _shown(config: Config, data: Data, answer: Any, params: Params) -> list[gallery.Shown]:
    """The first pictures of the test, answered."""
    of = data.tests["test"]
    count = ON_PAGE if of.size is None else min(ON_PAGE, of.size)
    found = []
    for numbers, batch in examples.chunks(of, count, min(config.eval.chunk, count)):
        answers = answer(params, batch, config.eval.beam)
        for row, number in enumerate(numbers):
            truths = of.truth(int(number))
            picture = batch["picture"][0, row] if len(data.shape) == 3 else None
            said = answers[row]
            found.append(gallery.Shown(f"test {number}", picture, said, truths, said in truths))
    return found
