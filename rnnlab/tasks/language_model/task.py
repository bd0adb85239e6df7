"""The task language_model; see the package's docstring for what it is."""

import ast
import functools
import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.data import archives
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError
from rnnlab.models import configured, sample
from rnnlab.recurrence.leaves import select
from rnnlab.run.files import read_json, write_file, write_json
from rnnlab.run.folder import unchanged
from rnnlab.run.limits import check_sizes, check_together
from rnnlab.tasks.language_model import batches as data
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.metrics import tokens as metrics
from rnnlab.types import About, Array, Config, Model, Params, Probe, Task

ABOUT = About(
    mapping="many-to-many in step",
    data="Python's own library; Shakespeare, text8, PTB: downloaded; a text or folder of yours",
    metric="nats and bits per character",
    experiment="quickstart",
)

FUNCTION = "\ndef "  # what a generated function begins with
KEPT_AT_MOST = 64 << 20  # bytes of held-out tokens that are copied into the run


def build(config: Config, size: int, values: dict[str, Any] | None = None) -> Model:
    """The model of the config for a vocabulary of that size: one-hot or embedded symbols in, logits
    out. `values` take the place of the config's own, by dotted key."""
    return configured.model_of(config, input_size=size, output_size=size, values=values)


class Reader(NamedTuple):
    """The model where it is only read from: its initial values and dropout do not matter."""

    net: Model
    measure: Callable[..., Any]  # (params, carry, batch) -> (carry, sums of TOKEN_METRICS), jitted


def reader(config: Config, size: int) -> Reader:
    """The reader of a config; the same one for all configs whose programs are the same: see
    `configured.model_to_read`."""
    return _reader(configured.model_to_read(config, input_size=size, output_size=size))


@functools.lru_cache(maxsize=16)
def _reader(net: Model) -> Reader:
    @jax.jit
    def measure(params: Params, carry: Any, batch: Any) -> tuple[Any, Any]:
        carry, logits = net.apply(params, carry, batch["inputs"])
        names = tuple(metrics.TOKEN_METRICS)
        return carry, metrics.sums(names, logits, batch["targets"], batch.get("weights"))

    return Reader(net, measure)


def vocabulary_of(folder: Path) -> Vocabulary:
    """The vocabulary kept in a run. Raises UsageError if it is missing or broken."""
    return Vocabulary.from_json(read_json(folder / "vocabulary.json"))


def write_samples(
    config: Config,
    kept: Path,
    params: Params,
    *,
    prime: str,
    length: int,
    count: int,
    beam: int,
    seed: int,
    **choice: Any,
) -> None:
    """Print text from the model of the run in `kept`, as it is written.

    One text streams to the terminal character by character; several come one after another, each
    under a line with its number. `beam` > 0 prints the most probable texts that a beam of that
    width finds, with their log-probabilities. `choice`: temperature, top_k, top_p.

    Raises UsageError for options out of range, or a prime with characters the run has not seen.
    """
    vocabulary = vocabulary_of(kept)
    net = reader(config, vocabulary.size).net
    first = sample.prime_tokens(vocabulary, prime, count=count, seed=seed)
    if beam:
        tokens, scores = sample.beam_search(net, params, first[:, 0], length=length, width=beam)
        for row, score in zip(tokens[:count], scores, strict=False):
            print(f"---- log-probability {score:.2f} ----")
            print(vocabulary.decode(np.concatenate([first[:, 0], row])))
        return
    pieces = sample.generate(net, params, first, length=length, count=count, seed=seed, **choice)
    if count == 1:
        decoder = vocabulary.decoder()
        print(decoder.decode(first[:, 0]), end="", flush=True)
        for piece in pieces:
            print(decoder.decode(piece[:, 0]), end="", flush=True)
        print(decoder.decode([], final=True))
        return
    tokens = np.concatenate([first, *pieces])
    for number, column in enumerate(tokens.T, start=1):
        print(f"---- {number} of {count} ----\n{vocabulary.decode(column)}")


def _sha256(tokens: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()


def parses(text: str) -> bool:
    """Whether Python's own parser accepts the first function of `text`.

    That is the text from its first "def " to the next line that is not indented, or to the last
    complete line if the text ends before.
    """
    lines = text[text.index("def ") :].split("\n")[:-1]
    end = next((i for i, line in enumerate(lines) if i and line[:1].strip()), len(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in generated text is no warning of ours
        try:
            ast.parse("\n".join(lines[:end]) + "\n")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return bool(lines[:end])


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, vocabulary and held-out text come from that run."""
    check_sizes(config, "sample.python_snippets")
    check_together(
        config,
        ("eval.random_windows", "eval.random_window"),
        ("sample.python_snippets", "sample.snippet_length"),
    )
    train_config, unit = config.train, config.data.level
    rows, window = train_config.batch_size, train_config.window
    held = None if kept is None else kept / "valid.npy"

    @functools.cache
    def corpus() -> tuple[corpora.Corpus, np.ndarray, np.ndarray]:
        options = config.data
        text = corpora.load(
            corpus=options.corpus, path=options.path, level=options.level, glob=options.glob
        )
        unchanged(kept, "text", text.source, text.sha256)
        train, valid = data.split(text.tokens, valid_fraction=config.data.valid_fraction)
        return text, train, valid

    vocabulary = corpus()[0].vocabulary if kept is None else vocabulary_of(kept)
    net = build(config, vocabulary.size)
    served = reader(config, vocabulary.size)

    @functools.cache
    def batches() -> data.Batches:
        train = corpus()[1]
        if config.data.batching == "streams":
            return data.stream_batches(
                train,
                batch_size=rows,
                window=window,
                seed=config.seed,
                shift=config.data.shift,
                forget=config.data.forget,
            )
        if config.data.batching == "windows":
            return data.window_batches(train, batch_size=rows, window=window, seed=config.seed)
        raise UsageError(
            f"data.batching must be 'streams' or 'windows', got '{config.data.batching}'"
        )

    def held_tokens() -> np.ndarray:
        if held is None or not held.exists():
            return corpus()[2]
        assert kept is not None
        # Runs of older versions do not say what it was.
        told = read_json(kept / "run.json")["data"].get("valid_sha256")
        try:
            found = np.array(archives.array(held))
        except (ValueError, OSError, EOFError):
            found = None
        if (
            found is None
            or told not in (None, _sha256(found))
            or found.ndim != 1
            or found.dtype.kind != "u"
            or (found >= vocabulary.size).any()
        ):
            raise UsageError(f"{held} is damaged: remove it, and the text itself is read again")
        return found

    @functools.cache
    def validation() -> tuple[data.HeldOut, dict[str, np.ndarray]]:
        tokens, options = held_tokens(), config.eval
        text = data.held_out(
            tokens, streams=options.streams, window=options.window, burn_in=options.burn_in
        )
        windows = data.random_windows(
            tokens, count=options.random_windows, window=options.random_window, seed=config.seed
        )
        return text, windows

    if kept is None:
        # Now, so that a text that is too short, or samples that cannot be drawn, are refused before
        # anything is written. `generate` checks what it is given at once and computes nothing yet.
        batches()
        validation()
        wanted = config.sample
        if wanted.python_snippets < 0:
            raise UsageError(
                f"sample.python_snippets must be at least 0, got {wanted.python_snippets}"
            )
        drawn = [("prime", wanted.prime, wanted.length)]
        if wanted.python_snippets:
            drawn.append(("python_snippets", FUNCTION, wanted.snippet_length))
        for key, prime, length in drawn:
            try:
                first = sample.prime_tokens(vocabulary, prime, seed=config.seed)
            except UsageError as error:
                raise UsageError(f"sample.{key}: {error}") from None
            sample.generate(served.net, None, first, length=length, temperature=wanted.temperature)

    def loss_of(values: dict[str, Any]) -> Callable[..., Any]:
        own = build(config, vocabulary.size, values)

        def loss(
            params: Params, carry: Any, batch: Any, key: Array | None, taps: Any = None
        ) -> tuple[Any, Any]:
            carry = select(batch["fresh"], jax.tree.map(jnp.zeros_like, carry), carry)
            carry, logits = own.apply(params, carry, batch["inputs"], key=key, taps=taps)
            return carry, metrics.sums(("loss",), logits, batch["targets"])

        return loss

    def inputs(batch: Any) -> dict[str, Any]:
        return {"x": batch["inputs"]}

    def losses(logits: Array, batch: Any) -> tuple[Array, Array]:
        values = metrics.cross_entropy(logits, batch["targets"])
        return values, jnp.ones_like(values)

    def evaluate(params: Params) -> dict[str, float]:
        text, windows = validation()
        totals = {name: np.zeros(2) for name in metrics.TOKEN_METRICS}
        carry = net.carry(text.streams)
        for i in range(text.windows):
            carry, found = served.measure(params, carry, text(i))
            for name, pair in found.items():
                totals[name] += np.array([float(v) for v in pair])
        result = {name: float(total / count) for name, (total, count) in totals.items()}
        _, found = served.measure(params, net.carry(windows["inputs"].shape[1]), windows)
        total, count = found["loss"]
        estimate = float(total) / float(count)
        return {
            "loss": result.pop("loss"),
            f"bits_per_{unit}": metrics.bits(totals["loss"][0] / totals["loss"][1]),
            "perplexity": metrics.perplexity(totals["loss"][0] / totals["loss"][1]),
            **result,
            "loss_random_windows": estimate,
        }

    def show(params: Params, step: int) -> str:
        options = config.sample
        return sample.text_samples(
            served.net,
            params,
            vocabulary,
            prime=options.prime,
            length=options.length,
            temperature=options.temperature,
            seed=(config.seed + step) % 2**32,
        )[0]

    def finish(params: Params) -> dict[str, float]:
        count = config.sample.python_snippets
        if not count:
            return {}
        texts = sample.text_samples(
            served.net,
            params,
            vocabulary,
            prime=FUNCTION,
            length=config.sample.snippet_length,
            count=count,
            temperature=config.sample.temperature,
            seed=config.seed,
        )
        return {"python_parses": sum(parses(text) for text in texts) / count}

    def keep(folder: Path) -> None:
        write_json(folder / "vocabulary.json", vocabulary.to_json())
        valid = corpus()[2]
        if valid.nbytes <= KEPT_AT_MOST:
            content = io.BytesIO()
            np.save(content, valid)
            write_file(folder / "valid.npy", content.getvalue())

    def facts() -> dict[str, Any]:
        text, train, valid = corpus()
        return {
            "corpus": Path(config.data.path).name if config.data.path else text.name,
            "source": text.source,
            "sha256": text.sha256,
            "bytes": text.bytes,
            "characters": len(text.tokens),
            "train_characters": len(train),
            "valid_characters": len(valid),
            "vocabulary": vocabulary.size,
            "steps_per_epoch": batches().steps_per_epoch,
            **({"valid_sha256": _sha256(valid)} if valid.nbytes <= KEPT_AT_MOST else {}),
        }

    return Task(
        init=net.init,
        carry=lambda: net.carry(rows),
        batch=lambda step: batches()(step),
        loss=loss_of({}),
        loss_of=loss_of,
        initial=tuple(f"model.{key}" for key in configured.INITIAL),
        rates=tuple(f"model.{key}" for key in configured.RATES),
        evaluate=evaluate,
        finish=finish,
        show=show,
        keep=keep,
        facts=facts,
        layers=net.layers,
        fingerprint={
            "task": "language_model",
            "cell": config.model.cell,
            "vocabulary": f"{vocabulary.size} symbols, sha256 {vocabulary.sha256[:12]}",
            **dict(net.layers),
        },
        unit=unit,
        writes="--length=500",
        probe=Probe(
            net,
            inputs,
            losses,
            fresh=lambda batch: batch["fresh"],
            text=lambda: (vocabulary, held_tokens()),
        ),
    )
