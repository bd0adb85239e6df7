"""The task language_model; see the package's docstring for what it is."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnnlab.run.limits import check_sizes, check_together
from rnnlab.tasks.kinds.assemble import assemble
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.tasks.language_model import network
from rnnlab.tasks.language_model.data import Data
from rnnlab.tasks.language_model.text import FUNCTION, check_samples, parses, text_samples
from rnnlab.tasks.metrics import tokens
from rnnlab.types import About, Config, Params, Probe, Task

ABOUT = About(
    mapping="many-to-many in step",
    data="Python's own library; Shakespeare, text8, PTB: downloaded; a text or folder of yours",
    metric="nats and bits per character",
    experiment="quickstart",
)
READS = Reads(lambda config: {"data.path": (config.data.glob,)}, at_once=False)


def validate(data: Data, reader: network.Reader, params: Params, *, unit: str) -> dict[str, float]:
    """See `Task.evaluate`. unit: what a token is, "char" or "byte"."""
    text, windows = data.validation
    net, measure = reader

    def of_streams() -> Any:
        carry = net.carry(text.streams)
        for i in range(text.windows):
            carry, sums = measure(params, carry, text(i))
            yield sums

    found = tokens.means(of_streams(), names=tokens.TOKEN_METRICS)
    _, sums = measure(params, net.carry(windows["inputs"].shape[1]), windows)
    loss = found.pop("loss")
    return {
        "loss": loss,
        f"bits_per_{unit}": tokens.bits(loss),
        "perplexity": tokens.perplexity(loss),
        **found,
        "loss_random_windows": tokens.means([sums])["loss"],
    }


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, vocabulary and held-out text come from that run.

    Raises UsageError for a text or options that do not fit.
    """
    check_sizes(config, "sample.python_snippets")
    check_together(
        config,
        ("eval.random_windows", "eval.random_window"),
        ("sample.python_snippets", "sample.snippet_length"),
    )
    data = Data(config, kept)
    vocabulary, options = data.vocabulary, config.sample
    net, reader = network.build(config, vocabulary.size), network.reader(config, vocabulary.size)
    if kept is None:
        # Now, so that a text that is too short, or samples that cannot be drawn, are refused before
        # anything is written.
        _ = data.batches, data.validation
        check_samples(config, vocabulary, reader.net)

    def loss_of(values: dict[str, Any]) -> Callable[..., Any]:
        return functools.partial(network.loss, network.build(config, vocabulary.size, values))

    draw = functools.partial(
        text_samples, reader.net, vocabulary=vocabulary, temperature=options.temperature
    )

    def show(params: Params, step: int) -> str:
        seed = (config.seed + step) % 2**32
        return draw(params, prime=options.prime, length=options.length, seed=seed)[0]

    def finish(params: Params) -> dict[str, float]:
        count, length = options.python_snippets, options.snippet_length
        if not count:
            return {}
        texts = draw(params, prime=FUNCTION, length=length, count=count, seed=config.seed)
        return {"python_parses": sum(parses(text) for text in texts) / count}

    return assemble(
        config,
        init=net.init,
        carry=lambda: net.carry(config.train.batch_size),
        batch=lambda step: data.batches(step),
        loss_of=loss_of,
        evaluate=functools.partial(validate, data, reader, unit=config.data.level),
        finish=finish,
        show=show,
        keep=data.keep,
        facts=data.facts,
        layers=net.layers,
        fingerprint={
            "vocabulary": f"{vocabulary.size} symbols, sha256 {vocabulary.sha256[:12]}",
        },
        unit=config.data.level,
        symbols={"text": vocabulary.symbols},
        resized=lambda sizes: network.build(config, sizes["text"]).init,
        writes="--length=500",
        probe=Probe(
            net,
            lambda batch: {"x": batch["inputs"]},
            network.losses,
            fresh=lambda batch: batch["fresh"],
            text=lambda: (vocabulary, data.held_tokens()),
        ),
    )
