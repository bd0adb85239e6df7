"""The task translation; see the package's docstring for what it is."""

import functools
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.data import archives, cache, draws, optional, words
from rnnlab.errors import UsageError
from rnnlab.models import beam as decoding
from rnnlab.models import configured, decoder
from rnnlab.run.files import read_json, write_json
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import examples
from rnnlab.tasks.metrics import tokens as metrics
from rnnlab.tasks.translation import dates, figure
from rnnlab.types import About, Array, Config, Params, Task

ABOUT = About(
    mapping="many-to-many",
    data="drawn: dates in words to digits; parallel files of yours, or Multi30k, downloaded",
    metric="sacreBLEU and exact matches; nats per symbol",
    experiment="translation",
)
_ADDRESS = "https://quest.dcs.shef.ac.uk/wmt16_files_mmt/"
MULTI30K = {  # part -> (archive, sha256, the name of its files)
    "train": (
        "training.tar.gz",
        "20140d013d05dd9a72dfde46478663ba05737ce983f478f960c1123c6671be5e",
        "train",
    ),
    "valid": (
        "validation.tar.gz",
        "a7aa20e9ebd5ba5adce7909498b94410996040857154dab029851af3a866da8c",
        "val",
    ),
    "test": (
        "mmt16_task1_test.tar.gz",
        "0681be16a532912288a91ddd573594fbdd57c0fbb81486eff7c55247e35326c2",
        "test",
    ),
}
PARTS = ("train", "valid", "test")
SIDES = ("source", "target")
Pairs = tuple[list[str], list[str]]  # sentences and their translations


# ---- texts


def lines(content: bytes, name: str) -> list[str]:
    r"""The sentences of a file, split on "\n" alone. Raises UsageError, with the line, for one that is
    empty or not UTF-8."""
    parts = content.split(b"\n")
    found = []
    for number, line in enumerate(parts[:-1] if parts[-1] == b"" else parts, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number} is not UTF-8: {error.reason}") from None
        if not text:
            raise UsageError(f"{name}:{number} is empty: each line must be a sentence")
        found.append(text)
    return found


def parallel(contents: dict[str, bytes]) -> Pairs:
    """The pairs of two files {name: content}. Raises UsageError if they differ in length."""
    (first, source), (second, target) = (
        (name, lines(content, name)) for name, content in contents.items()
    )
    if len(source) != len(target) or not source:
        raise UsageError(
            f"{first} has {len(source)} lines and {second} has {len(target)}: line N of one must be "
            "the translation of line N of the other"
        )
    return source, target


def _member(archive: str, digest: str, name: str) -> bytes:
    remote = cache.Remote(
        f"multi30k-{archive}", _ADDRESS + archive, f"sha256:{digest}", folder="", member=""
    )
    path = cache.fetch(remote)
    try:
        with open(path, "rb") as packed:
            found = archives.members(packed, archive, lambda entry: entry.name == name)
    except (OSError, *archives.DAMAGED) as error:
        raise UsageError(f"cannot read {path}: {cache.reason_of(error)}") from None
    if name not in found:
        raise UsageError(f"{archive} of Multi30k holds no {name}")
    return found[name]


@functools.lru_cache(maxsize=2)
def load(
    path: str, download: str, names: tuple[str, ...], languages: tuple[str, str]
) -> tuple[dict[str, Pairs], str]:
    """(part -> its pairs, sha256 of all files one after the other).

    names: of the files of PARTS, without the language. Raises UsageError for files that are missing,
    damaged or not parallel.
    """
    if download not in ("", "multi30k") or bool(download) == bool(path):
        raise UsageError(
            f"data.download must be 'multi30k', or '' with data.path set, got '{download}'"
        )
    digest, found = hashlib.sha256(), {}
    for part, name in zip(PARTS, names, strict=True):
        contents = {}
        for language in languages:
            if download:
                archive, sha256, base = MULTI30K[part]
                file = f"{base}.{language}"
                contents[file] = _member(archive, sha256, file)
            else:
                file = f"{name}.{language}"
                contents[file] = cache.local(Path(path).expanduser(), file)
            digest.update(contents[file])
        found[part] = parallel(contents)
    return found, digest.hexdigest()


# ---- scores


def bleu(answers: list[str], truths: list[str]) -> float:
    """sacreBLEU's corpus BLEU, 0 to 100. Raises UsageError where the package is missing."""
    sacrebleu = optional.needed("sacrebleu", "BLEU")
    return float(sacrebleu.corpus_bleu(answers, [truths]).score)


# ---- the task


class Translator:
    """The network of a config: the encoder, the decoder, and what is made of them."""

    def __init__(self, config: Config, sizes: tuple[int, int], values: dict[str, Any]):
        own = {f"model.{key}": config.encoder[key] for key in ("layers", "hidden", "bidirectional")}
        own |= {"model.input": "embedding", "model.embedding_size": config.encoder.embedding}
        self.smoothing, self.sampled = config.decoder.smoothing, config.decoder.sampled
        self.reader = configured.model_of(
            config,
            input_size=sizes[0],
            output_size=config.encoder.size,
            future=True,
            values={**values, **own},
        )
        top = jax.eval_shape(lambda: self.reader.carry(1))[-1]
        options = {key: config.decoder[key] for key in ("attention", "size", "embedding", "tied")}
        self.writer = decoder.make_decoder(
            config,
            vocabulary=sizes[1],
            summary=sum(leaf.shape[-1] for leaf in jax.tree.leaves(top)),
            memory=config.encoder.size,
            values=values,
            **options,
        )

    def init(self, key: Array, dtype: Any = jnp.float32) -> Params:
        """The parameters of both."""
        first, second = jax.random.split(key)
        return {
            "encoder": self.reader.init(first, dtype),
            "decoder": self.writer.init(second, dtype),
        }

    def begun(self, params: Params, batch: Any, key: Array | None) -> tuple[Any, Any]:
        """(memory, state) of the decoder once the source is read."""
        source, dtype = batch["source"], params["decoder"]["embedding"].dtype
        carry, memory = self.reader.apply(
            params["encoder"],
            self.reader.carry(source.shape[1], dtype),
            source,
            lengths=batch["lengths"],
            key=key,
        )
        summary = jnp.concatenate(jax.tree.leaves(carry[-1]), axis=-1)
        there = jnp.arange(source.shape[0])[:, None] < batch["lengths"]
        return self.writer.start(params["decoder"], summary, memory, there)

    def logits(self, params: Params, batch: Any, key: Array | None = None) -> tuple[Array, Any]:
        """(logits [T, B, V], weights of attention [T, B, S]) given the true symbols before each."""
        one, two = (None, None) if key is None else jax.random.split(key)
        own = batch["own"] if self.sampled and key is not None else None
        return self.writer.teach(
            params["decoder"], *self.begun(params, batch, one), batch["inputs"], two, own
        )

    def loss(self, params: Params, batch: Any, key: Array | None) -> dict[str, Any]:
        """See `examples.Network`; in training with label smoothing (Szegedy et al. 2016)."""
        logits, _ = self.logits(params, batch, key)
        weights = batch["weights"] & batch["there"]
        names = ("loss",) if key is not None else ("loss", "accuracy")
        found = metrics.sums(names, logits, batch["targets"], weights)
        if key is not None and self.smoothing:
            even = -jax.nn.log_softmax(logits).mean(-1)
            total, count = found["loss"]
            even = jnp.where(weights, even, jnp.zeros_like(even)).sum()
            found["loss"] = ((1 - self.smoothing) * total + self.smoothing * even, count)
        return found

    def answers(
        self, params: Params, batch: Any, *, width: int, length: int, penalty: float
    ) -> decoding.Continuations:
        """What a beam finds, see `decoding.search`."""
        memory, state = self.begun(params, batch, None)
        memory = decoding.repeated(memory, width)

        def advance(state: Any, token: Array) -> tuple[Any, Array]:
            state, logits, _ = self.writer.advance(params["decoder"], memory, state, token)
            return state, jax.nn.log_softmax(logits)

        first = jnp.full(batch["source"].shape[1], words.BEGIN)
        return decoding.search(
            advance, state, first, length=length, width=width, end=words.END, penalty=penalty
        )


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


def _units(config: Config, kept: Path | None, texts: Callable[[], Pairs]) -> list[words.Units]:
    if kept is not None:
        return [words.from_json(read_json(kept / f"{side}.json")) for side in SIDES]
    options = config.data
    return [
        words.learn(text, level=options.level, most=options.vocabulary, rare=options.rare)
        for text in texts()
    ]


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, vocabularies come from that run, whose texts must be the same.

    Raises UsageError for texts or options that do not fit.
    """
    check(config)
    options, window = config.data, config.train.window
    built_in = not (options.path or options.download)
    if built_in:
        if options.level != "char" or window < dates.LONGEST:
            raise UsageError(
                f"the dates are read by characters, up to {dates.LONGEST} of them: set data.level to "
                f"'char' and train.window to {dates.LONGEST} or more"
            )
        parts, sha256 = {}, ""

        def date(purpose: int, number: int) -> tuple[str, str]:
            return dates.drawn(draws.Random(config.seed, purpose, number))

        def texts() -> Pairs:
            found = [date(draws.ORDER, number) for number in range(5000)]
            return [source for source, _ in found], [target for _, target in found]

    else:
        optional.needed("sacrebleu", "BLEU")  # now, and not at the first validation
        names = (options.train, options.valid, options.test)
        parts, sha256 = load(
            options.path, options.download, names, (options.source, options.target)
        )

        def texts() -> Pairs:
            return parts["train"]

        unchanged(kept, "texts", options.path or options.download, sha256)
    units = _units(config, kept, texts)
    lengths = (*options.buckets, window)

    def batch_of(sources: list[list[int]], targets: list[list[int]]) -> examples.Batch:
        longest = max(max(map(len, sources)), 1 + max(map(len, targets)))
        length = next((n for n in lengths if n >= longest), window)
        sources = [tokens[:length] for tokens in sources]
        return {
            "source": words.padded(sources, length),
            "lengths": np.array([len(tokens) for tokens in sources], np.int32),
            **words.taught([tokens[: length - 1] for tokens in targets], length),
        }

    def of_dates(purpose: int) -> examples.Examples:
        def batch(numbers: np.ndarray) -> examples.Batch:
            pairs = [date(purpose, int(number)) for number in numbers]
            return batch_of(
                [units[0].encode(source) for source, _ in pairs],
                [units[1].encode(target) for _, target in pairs],
            )

        return examples.Examples(batch, lambda number: date(purpose, number), None)

    def of_text(part: str) -> tuple[examples.Examples, int]:
        pairs = list(zip(*parts[part], strict=True))
        tokens = [(units[0].encode(a), units[1].encode(b)) for a, b in pairs]
        sizes = np.array([max(len(a), len(b) + 1) for a, b in tokens])
        there = np.flatnonzero(sizes <= window) if part == "train" else np.arange(len(pairs))

        def batch(numbers: np.ndarray) -> examples.Batch:
            chosen = [tokens[i] for i in there[numbers]]
            return batch_of([a for a, _ in chosen], [b for _, b in chosen])

        found = examples.Examples(
            batch,
            lambda number: pairs[there[number]],
            len(there),
            sizes[there] if options.buckets else None,
        )
        return found, len(pairs) - len(there)

    left_out = 0
    if built_in:
        purposes = (draws.TRAIN, draws.EVALUATE, draws.TEST)
        train, valid, test = (of_dates(purpose) for purpose in purposes)
    else:
        (train, left_out), (valid, _), (test, _) = (of_text(part) for part in PARTS)

    def network_of(values: dict[str, Any]) -> examples.Network:
        made = Translator(config, (units[0].size, units[1].size), values)
        return examples.Network(made.init, made.loss)

    served = Translator(config, (units[0].size, units[1].size), {})
    found_by = functools.cache(
        lambda width: jax.jit(
            functools.partial(
                served.answers,
                width=width,
                length=config.eval.length,
                penalty=config.eval.penalty,
            )
        )
    )

    def answer(params: Params, batch: examples.Batch, width: int) -> list[str]:
        tokens = np.asarray(found_by(width)(params, batch).tokens)[:, 0]  # [B, T]
        return [units[1].decode(row) for row in tokens]

    def score(answers: list[str], truths: list[tuple[str, str]]) -> dict[str, float]:
        right = [target for _, target in truths]
        exact = sum(a == b for a, b in zip(answers, right, strict=True)) / len(right)
        return {"exact": exact} | ({} if built_in else {"bleu": bleu(answers, right)})

    def tell(examples: examples.Examples, number: int, answer: str) -> str:
        source, target = examples.truth(number)
        return f"source  {source}\ntarget  {target}\nanswer  {answer}"

    def draw(params: Params, folder: Path) -> list[Path]:
        numbers = np.arange(8)
        batch = {**test.batch(numbers), "there": np.ones(len(numbers), bool)}
        answers = answer(params, batch, config.eval.beam)
        text = "\n\n".join(tell(test, i, a) for i, a in enumerate(answers))
        written = [folder / "translations.txt"]
        written[0].write_text(text + "\n", encoding="utf-8")
        if config.decoder.attention != "none":
            source, _ = test.truth(0)
            written.append(folder / "attention.png")
            _attention(served, params, units, source, answers[0], written[1])
        return written

    target_tokens = [units[1].encode(text) for text in texts()[1]]
    loss = words.entropy(target_tokens, units[1].size)

    def keep(folder: Path) -> None:
        for side, vocabulary in zip(SIDES, units, strict=True):
            write_json(folder / f"{side}.json", vocabulary.stored)

    def schedule(step: int) -> examples.Batch:
        if not config.decoder.sampled:
            return {}
        return {"own": np.float32(config.decoder.sampled * min(1.0, step / config.train.steps))}

    facts: dict[str, Any] = {
        "source": "dates, drawn" if built_in else options.path or _ADDRESS,
        "source_symbols": units[0].size,
        "target_symbols": units[1].size,
    }
    if not built_in:
        facts |= {
            "sha256": sha256,
            "languages": f"{options.source} to {options.target}",
            "train_sentences": train.size,
            "too_long_to_train_on": left_out,
            "valid_sentences": valid.size,
            "test_sentences": test.size,
        }
    return examples.make_task(
        config,
        network_of=network_of,
        train=train,
        valid=valid,
        tests={"test": test},
        answer=answer,
        score=score,
        tell=tell,
        unit="symbol",
        measure="nats",
        baseline=("frequency of the symbols", loss),
        facts=facts,
        fingerprint={
            side: f"{vocabulary.size} symbols, sha256 {vocabulary.sha256[:12]}"
            for side, vocabulary in zip(SIDES, units, strict=True)
        },
        keep=keep,
        draw=draw,
        schedule=schedule,
        writes=f"--prime={shlex.quote(valid.truth(0)[0])}",
        shapes=len(lengths),
    )


def _attention(
    served: Translator,
    params: Params,
    units: list[words.Units],
    source: str,
    answer: str,
    path: Path,
) -> None:
    """The figure of where the decoder looked while it said `answer`."""
    read, said = units[0].encode(source), units[1].encode(answer)
    batch = {
        "source": words.padded([read], len(read)),
        "lengths": np.array([len(read)], np.int32),
        **words.taught([said], len(said) + 1),
        "there": np.ones(1, bool),
    }
    _, weights = served.logits(params, batch)
    rows = [units[1].symbols[token] for token in said] + ["end"]
    columns = [units[0].symbols[token] for token in read]
    figure.attention(np.asarray(weights)[:, 0], rows=rows, columns=columns, path=path)


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
    units = _units(config, kept, lambda: ([], []))
    tokens = units[0].encode(prime.strip())
    made = Translator(config, (units[0].size, units[1].size), {})
    batch = {
        "source": words.padded([tokens], len(tokens)),
        "lengths": np.array([len(tokens)], np.int32),
    }
    found = made.answers(
        params,
        batch,
        width=beam or config.eval.beam,
        length=min(length, config.eval.length),
        penalty=config.eval.penalty,
    )
    texts = [units[1].decode(row) for row in np.asarray(found.tokens)[0]]
    if not beam:
        print(texts[0])
        return
    for text, score in zip(texts, np.asarray(found.scores)[0], strict=True):
        print(f"{score:9.3f}  {text}")
