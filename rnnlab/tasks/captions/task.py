"""The task captions; see the package's docstring for what it is."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.run.folder import unchanged
from rnnlab.tasks.captions import flickr, gallery, scenes
from rnnlab.tasks.captions.data import Data, load_data, words_of
from rnnlab.tasks.captions.network import Captioner
from rnnlab.tasks.kinds import examples
from rnnlab.tasks.kinds.examples import Batch, Examples
from rnnlab.tasks.kinds.shades import shaded
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.tasks.metrics.texts import caption_scores, exact_matches
from rnnlab.types import About, Config, Params, Task

ABOUT = About(
    mapping="one-to-many",
    data="scenes with sentences, drawn; or a folder in Flickr8k's layout, or features",
    metric="exact match; BLEU-1 to 4 and ROUGE-L",
    experiment="captions",
)


def reads(config: Config) -> dict[str, tuple[str, ...]]:
    """See `Reads`: of a folder whose pictures have features the lists alone; beside the features their
    names."""
    lists = (flickr.TOKENS, *flickr.LISTS.values())
    return {
        "data.path": lists if config.data.features else ("*",),
        "data.features": (".txt",),
    }


READS = Reads(reads)

ON_PAGE, ON_SHEET = 48, 12  # pictures of captions.html and captions.png


@dataclass(frozen=True, eq=False)
class Captions:
    """What a network says of pictures, how that is judged, and how it is shown."""

    config: Config
    data: Data
    network: Captioner

    @functools.cached_property
    def search(self) -> Callable[[int], Callable[[Params, Batch], Any]]:
        """width of the beam -> (params, batch) -> answers int [B, T], compiled once."""
        options = {"length": self.config.train.window, "penalty": self.config.eval.penalty}
        return functools.cache(
            lambda width: jax.jit(functools.partial(self.network.answers, width=width, **options))
        )

    def answer(self, params: Params, batch: Batch, width: int) -> list[str]:
        """See `examples.Answering`."""
        found = np.asarray(self.search(width)(params, batch))
        return [words_of(self.data.symbols, row) for row in found]

    def score(self, answers: list[str], truths: list[tuple[str, ...]]) -> dict[str, float]:
        """The share of exact matches where there is one right sentence, else BLEU and ROUGE-L."""
        if self.data.exact:
            return {"exact": exact_matches(answers, truths)}
        return caption_scores(answers, truths)

    def tell(self, of: Examples, number: int, said: str) -> str:
        """A picture in characters if it is a scene, its captions and the answer."""
        lines = [f"target  {truth}" for truth in of.truth(number)]
        if self.data.exact:
            lines.insert(0, sketch(of.batch(np.array([number]))["picture"][0, 0]))
        return "\n".join([*lines, f"answer  {said}"])

    def shown(self, params: Params) -> list[gallery.Shown]:
        """The first pictures of the test, answered by a beam."""
        of = self.data.tests["test"]
        count = ON_PAGE if of.size is None else min(ON_PAGE, of.size)
        found = []
        for numbers, batch in examples.chunks(of, count, min(self.config.eval.chunk, count)):
            answers = self.answer(params, batch, self.config.eval.beam)
            for row, number in enumerate(numbers):
                truths, said = of.truth(int(number)), answers[row]
                picture = batch["picture"][0, row] if len(self.data.shape) == 3 else None
                found.append(gallery.Shown(f"test {number}", picture, said, truths, said in truths))
        return found

    def draw(self, params: Params, folder: Path) -> list[Path]:
        """Writes captions.html and captions.png."""
        shown = self.shown(params)
        right = sum(one.right for one in shown)
        about = [
            f"Pictures of the test, {self.config.data.name}, with what the model says of them by a beam of "
            f"{self.config.eval.beam}: {right} of these {len(shown)} answers are a reference word for word."
        ]
        html, sheet = folder / "captions.html", folder / "captions.png"
        html.write_text(gallery.page("Captions", about, shown), encoding="utf-8")
        gallery.sheet(sheet, shown[:ON_SHEET])
        return [html, sheet]


def sketch(picture: np.ndarray) -> str:
    """Every second pixel of a scene [h, w, 3], twice side by side, by how far it is from the ground."""
    away = np.abs(picture.astype(int) - scenes.GROUND).max(-1)[::2, ::2] / 255
    return "\n".join(line.rstrip() for line in shaded((away * 1.5).repeat(2, 1)))


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the captions and pictures must be those of that run.

    Raises UsageError for options that do not fit together, or other data than the run's.
    """
    data = load_data(config)
    unchanged(kept, "data", config.data.path, data.facts.get("sha256"))
    captions = Captions(config, data, Captioner(config, data, {}))

    def network_of(values: dict[str, Any]) -> examples.Network:
        made = Captioner(config, data, values)
        return examples.Network(made.init, made.loss)

    return examples.make_task(
        config,
        network_of=network_of,
        train=data.train,
        valid=data.valid,
        tests=data.tests,
        answering=examples.Answering(captions.answer, captions.score, captions.tell),
        unit="word",
        measure="nats",
        baseline=("words by frequency", data.baseline),
        facts=data.facts,
        fingerprint={"vocabulary": hashlib.sha256("\n".join(data.symbols).encode()).hexdigest()},
        draw=captions.draw,
        symbols={"words": data.symbols},
        resized=lambda sizes: (
            Captioner(config, data._replace(symbols=("",) * sizes["words"]), {}).init
        ),
    )
