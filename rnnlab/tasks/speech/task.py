"""The task speech; see the package's docstring for what it is."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.data import optional
from rnnlab.data.draws import EVALUATE, TEST, TRAIN
from rnnlab.errors import UsageError
from rnnlab.models import configured
from rnnlab.run.figure import save
from rnnlab.run.limits import check_sizes
from rnnlab.tasks.kinds import examples, sequences
from rnnlab.tasks.kinds.sources import Reads
from rnnlab.tasks.metrics.texts import best_constant, error_rates
from rnnlab.tasks.metrics.tokens import Sums
from rnnlab.tasks.speech import audio, ctc, figure
from rnnlab.tasks.speech.digits import spoken_digits
from rnnlab.tasks.speech.sounds import MEL, Sounds, examples_of, morse_code
from rnnlab.types import About, Array, Config, Params, Task

ABOUT = About(
    mapping="many-to-many",
    data="Morse code, built in; or strings of spoken digits from a folder of FSDD's wav files",
    metric="character and word error rate",
    experiment="speech",
)
READS = Reads(lambda config: {"data.path": ("*.wav",)})
OPTIONS = {  # what an unset key of config.data is, for those that the source has a use for
    "morse": {"snr": 10.0},
    "fsdd": {
        "path": "",
        "speaker": "",
        "shortest": 3,
        "longest": 7,
        "speed": 0.0,
        "noise": math.inf,
        "mask": 0,
    },
}


@dataclass(frozen=True, eq=False)
class Question:
    """What is heard and asked for: the utterances of a config, as the network gets them."""

    sounds: Sounds
    mel: audio.Mel
    stacked: int  # frames side by side, one step of the network
    window: int  # T, steps at the most
    mask: int  # mel bands at the most that are blanked in training
    seed: int

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the network: it reads mel bands, and says a symbol or the blank."""
        inputs, outputs = self.stacked * self.mel.bands, len(self.sounds.names) + 1
        return {"input_size": inputs, "output_size": outputs, "real": True, "future": True}

    @property
    def step(self) -> float:
        """Seconds between two steps of the network."""
        return self.stacked * self.mel.hop / self.mel.rate

    def examples(self, purpose: int) -> examples.Examples:
        """The utterances for TRAIN, EVALUATE or TEST."""
        how = {"stack": self.stacked, "window": self.window, "mask": self.mask, "seed": self.seed}
        return examples_of(self.sounds, self.mel, purpose, **how)


def question_of(config: Config, kept: Path | None) -> Question:
    """What is asked for by a config. Raises UsageError for options that do not fit, or clips that are
    missing, damaged or not those of the run in `kept`."""
    source = config.data.source
    if source not in MEL:
        raise UsageError(f"data.source must be one of {', '.join(MEL)}, got '{source}'")
    mel, window = MEL[source], config.train.window
    chosen = sequences.options(config, source=source, stack=1, **OPTIONS[source])
    stacked, mask = chosen["stack"], chosen.get("mask", 0)
    if stacked < 1:
        raise UsageError(f"data.stack must be at least 1, got {stacked}")
    if not 0 <= mask < mel.bands:
        raise UsageError(f"data.mask must be in [0, {mel.bands}), got {mask}")
    seconds = longest_seconds(mel, window * stacked)
    if source == "morse":
        sounds = morse_code(config, seconds, chosen["snr"])
    else:
        sounds = spoken_digits(config, seconds, chosen, kept)
    return Question(sounds, mel, stacked, window, mask, config.seed)


def longest_seconds(mel: audio.Mel, frames: int) -> float:
    """Seconds of sound of which that many frames are made."""
    return ((frames - 1) * mel.hop + mel.window) / mel.rate


@dataclass(frozen=True, eq=False)
class Transcripts:
    """What a network reads in sounds, how that is judged, and how it is shown.

    The answer of a beam of width 1 is a text, the most probable symbol at every step; that of a wider
    one is a pair of texts, (the beam's, that one).
    """

    config: Config
    question: Question
    logits: Callable[[Params, examples.Batch], Array]  # jitted

    def log_probabilities(self, params: Params, batch: examples.Batch) -> list[np.ndarray]:
        """ln p [T, V] at the steps of each utterance, T of its own."""
        found = ctc.log_softmax(np.asarray(self.logits(params, batch)))
        return [found[:length, row] for row, length in enumerate(batch["lengths"])]

    def answer(self, params: Params, batch: examples.Batch, width: int) -> list[Any]:
        """See `examples.Answering`."""
        rows, sounds = self.log_probabilities(params, batch), self.question.sounds
        path = [sounds.text(ctc.greedy(row)) for row in rows]
        if width == 1:
            return path
        best = [sounds.text(ctc.beam(row, width)[0][0]) for row in rows]
        return list(zip(best, path, strict=True))

    def score(self, answers: list[Any], truths: list[str]) -> dict[str, float]:
        """The error rates of the answers; after a beam also of the greedy and of the constant ones."""
        sounds = self.question.sounds
        if isinstance(answers[0], str):
            return error_rates(answers, truths, sounds.errors)
        best, path = (list(texts) for texts in zip(*answers, strict=True))
        found = error_rates(best, truths, sounds.errors)
        for name, value in error_rates(path, truths, sounds.errors).items():
            found[f"greedy_{name}"] = value
        name = sounds.errors[0]
        found[f"trivial_{name}"] = best_constant(truths, name, sounds.gap)[1]
        return found

    def tell(self, of: examples.Examples, number: int, said: Any) -> str:
        """The true text and the answer."""
        return f"target  {of.truth(number)}\nanswer  {said}"

    def draw(self, params: Params, folder: Path) -> list[Path]:
        """Writes a figure for each of the first sample.utterances utterances of the test."""
        question, test = self.question, self.question.examples(TEST)
        files = []
        for number in range(self.config.sample.utterances):
            log_probs = self.log_probabilities(params, test.batch(np.array([number])))[0]
            beam = ctc.beam(log_probs, self.config.eval.beam)
            picture = figure.utterance(
                question.sounds.utterance(TEST, number)[1],
                question.mel,
                np.exp(log_probs),
                step=question.step,
                names=question.sounds.names,
                target=test.truth(number),
                answer=question.sounds.text(beam[0][0]),
            )
            files.append(folder / f"utterance_{number + 1}.png")
            save(picture, files[-1])
        return files


def logits_of(net: Any, params: Params, batch: examples.Batch, key: Array | None = None) -> Array:
    """Logits [T, B, V] of the symbols, the blank first."""
    dtype = params["readout"]["bias"].dtype
    x = jnp.asarray(batch["inputs"]).astype(dtype)
    start = net.carry(x.shape[1], dtype)
    return net.apply(params, start, x, lengths=batch["lengths"], key=key)[1]


@functools.lru_cache(maxsize=16)
def reader(net: Any) -> Callable[[Params, examples.Batch], Array]:
    """`logits_of` a network, jitted; the same one for all runs that share it."""
    return jax.jit(functools.partial(logits_of, net))


def loss(net: Any, params: Params, batch: examples.Batch, key: Array | None) -> Sums:
    """See `examples.Network`: CTC's -ln p(text | sound), summed, and the symbols of the texts."""
    logits = logits_of(net, params, batch, key)
    there, count = batch["there"], batch["label_lengths"]
    nats = ctc.loss(logits, batch["lengths"], batch["labels"], count)
    total = jnp.where(there, nats, jnp.zeros_like(nats)).sum()
    return {"loss": (total, jnp.where(there, count, 0).sum().astype(total.dtype))}


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the clips must be those of that run.

    Raises UsageError for options that do not fit, or clips that are missing or damaged.
    """
    optional.needed("jiwer", "counting errors")  # now, and not at the first validation
    check_sizes(config, "data.stack")
    question = question_of(config, kept)
    sounds, mel, sizes = question.sounds, question.mel, question.sizes
    transcripts = Transcripts(config, question, reader(configured.model_to_read(config, **sizes)))

    def network_of(values: dict[str, Any]) -> examples.Network:
        net = configured.model_of(config, values=values, **sizes)
        return examples.Network(net.init, functools.partial(loss, net))

    valid = question.examples(EVALUATE)
    few = valid.batch(np.arange(32))
    hears_nothing = ctc.unheard(few["lengths"], few["labels"], few["label_lengths"])
    longest = longest_seconds(mel, question.window * question.stacked)
    return examples.make_task(
        config,
        network_of=network_of,
        train=question.examples(TRAIN),
        valid=valid,
        tests={"test": question.examples(TEST)},
        answering=examples.Answering(transcripts.answer, transcripts.score, transcripts.tell),
        unit="symbol",
        measure="nats",
        baseline=("hearing nothing", hears_nothing),
        facts={
            "source": config.data.source,
            "symbols": len(sounds.names),
            "frame_ms": 1000 * mel.hop / mel.rate,
            "step_ms": 1000 * question.stacked * mel.hop / mel.rate,
            "longest_seconds": round(longest, 3),
            **mel._asdict(),
            **sounds.facts,
        },
        fingerprint={
            "source": config.data.source,
            "symbols": sizes["output_size"],
            "stack": question.stacked,
        },
        draw=transcripts.draw,
    )
