"""The task speech; see the package's docstring for what it is."""

import functools
import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from rnnlab.data import optional
from rnnlab.data.draws import EVALUATE, TEST, TRAIN, Random
from rnnlab.errors import UsageError
from rnnlab.models import configured
from rnnlab.run.figure import COLOURS, GREY, save
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import examples, sequences
from rnnlab.tasks.speech import audio, ctc, morse
from rnnlab.types import About, Array, Config, Params, Task

ABOUT = About(
    mapping="many-to-many",
    data="Morse code, built in; or strings of spoken digits from a folder of FSDD's wav files",
    metric="character and word error rate",
    experiment="speech",
)
MEL = {
    "morse": audio.Mel(
        rate=morse.RATE, window=64, hop=32, size=128, bands=16, low=200.0, high=1000.0
    ),
    "fsdd": audio.Mel(),
}
_OWN = {  # what an unset key of config.data is, for those that the source has a use for
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
_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_HISS = 40.0  # dB that an utterance of digits is above the noise of its silences
FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"


class Sounds(NamedTuple):
    """Where utterances come from."""

    names: tuple[str, ...]  # of the symbols 1, 2 ...; between those of a text stands `gap`
    gap: str
    most: int  # symbols of a text, at the most
    # (purpose TRAIN, EVALUATE or TEST, number) -> (symbols, samples float32 [N]); pure
    utterance: Callable[[int, int], tuple[list[int], np.ndarray]]
    errors: tuple[str, ...]  # cer, wer
    facts: dict[str, Any]

    def text(self, symbols: list[int]) -> str:
        """Symbols for a person, and for counting errors."""
        return self.gap.join(self.names[symbol - 1] for symbol in symbols)


# ---- Morse code


def _morse(config: Config, seconds: float, snr: float) -> Sounds:
    ranges = morse.Ranges()
    if seconds < (least := morse.least(ranges)):
        raise UsageError(
            f"train.window is {config.train.window} steps, {seconds:.2f} s, and a character may take "
            f"{least:.2f} s: set it to {math.ceil(config.train.window * least / seconds)} or more"
        )
    if math.isnan(snr) or snr == -math.inf:
        raise UsageError(f"data.snr takes decibels, or inf for no noise, got {snr}")

    def utterance(purpose: int, number: int) -> tuple[list[int], np.ndarray]:
        said, samples = morse.utterance(Random(config.seed, purpose, number), seconds, snr, ranges)
        return [morse.SYMBOLS.index(character) + 1 for character in said], samples

    names = tuple(morse.SYMBOLS)
    facts = {"snr": snr, **ranges._asdict()}
    return Sounds(names, "", morse.most(ranges, seconds), utterance, ("cer", "wer"), facts)


# ---- spoken digits


class Clips(NamedTuple):
    """A folder of spoken digits."""

    samples: dict[tuple[str, int, int], np.ndarray]  # (speaker, digit, index) -> float32 [N]
    sha256: str  # of names and samples


@functools.lru_cache(maxsize=1)
def load(folder: str) -> Clips:
    """The clips of a folder. Raises UsageError for a folder that is not there or has none, and what
    `audio.read` raises, which names the file."""
    wanted = (
        f"a folder with FSDD's files {{digit}}_{{speaker}}_{{index}}.wav, which {FSDD} has in its "
        "folder 'recordings'"
    )
    if not folder:
        raise UsageError(f"set data.path to {wanted}: download and unpack it first")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UsageError(f"data.path {path} is no folder: it takes {wanted}")
    named = [(file, _NAME.fullmatch(file.name)) for file in sorted(path.glob("*.wav"))]
    if not any(match for _, match in named):
        raise UsageError(f"data.path {path} has no clips: it takes {wanted}")
    samples, digest = {}, hashlib.sha256()
    for file, match in named:
        if match is None:
            raise UsageError(
                f"{file} is not named {{digit}}_{{speaker}}_{{index}}.wav: rename it, or take it away"
            )
        digit, speaker, index = match.groups()
        samples[speaker, int(digit), int(index)] = found = audio.read(file, MEL["fsdd"].rate)
        digest.update(file.name.encode() + found.tobytes())
    return Clips(samples, digest.hexdigest())


def split(clips: Clips, held: str) -> dict[int, dict[str, list[list[np.ndarray]]]]:
    """purpose -> speaker -> digit -> clips: see the head of this file. held: a speaker, or "".
    Raises UsageError for an unknown speaker, or a digit that a speaker does not say in a part."""
    speakers = sorted({speaker for speaker, _, _ in clips.samples})
    if held and held not in speakers:
        raise UsageError(f"data.speaker is '{held}', and there are {', '.join(speakers)}")
    if held and len(speakers) == 1:
        raise UsageError(f"data.speaker holds out '{held}', and there is no other speaker")
    parts: dict[int, dict[str, list[list[np.ndarray]]]] = {TRAIN: {}, EVALUATE: {}, TEST: {}}
    for (speaker, digit, index), samples in sorted(clips.samples.items()):
        if held:
            part = TEST if speaker == held else EVALUATE if 5 <= index < 10 else TRAIN
            if part != TEST and index < 5:  # the test of the official split stays unheard
                continue
        else:
            part = TEST if index < 5 else EVALUATE if index < 10 else TRAIN
        of_digit = parts[part].setdefault(speaker, [[] for _ in range(10)])
        of_digit[digit].append(samples)
    names = {TRAIN: "training", EVALUATE: "validation", TEST: "the test"}
    for part, by_speaker in parts.items():
        if not by_speaker:
            raise UsageError(f"the folder has no clips for {names[part]}, by their indices")
        for speaker, digits in by_speaker.items():
            for digit, there in enumerate(digits):
                if not there:
                    raise UsageError(
                        f"the folder has no clip of {speaker} saying {digit} for {names[part]}"
                    )
    return parts


def _digits(config: Config, seconds: float, chosen: dict[str, Any], kept: Path | None) -> Sounds:
    shortest, longest, speed = chosen["shortest"], chosen["longest"], chosen["speed"]
    if not 1 <= shortest <= longest:
        raise UsageError(
            f"data.shortest and data.longest are {shortest} and {longest}: they take 1 or more digits"
        )
    if not 0 <= speed < 0.5:
        raise UsageError(f"data.speed must be in [0, 0.5), got {speed}")
    clips = load(chosen["path"])
    unchanged(kept, "clips", chosen["path"], clips.sha256)
    parts = split(clips, chosen["speaker"])
    rate = MEL["fsdd"].rate
    room = int(seconds * rate)

    def utterance(purpose: int, number: int) -> tuple[list[int], np.ndarray]:
        random = Random(config.seed, purpose, number)
        by_speaker = parts[purpose]
        digits = by_speaker[sorted(by_speaker)[int(random.integers(0, len(by_speaker), (1,))[0])]]
        count = int(random.integers(shortest, longest + 1, (1,))[0])
        said = random.integers(0, 10, (longest,))[:count]
        which = random.integers(0, 2**31, (longest,))
        silences = (rate * (0.05 + 0.2 * random.uniform((longest + 1,)))).astype(int)
        varied = random.uniform((2,))
        stretch = 1.0 + speed * (2.0 * varied[0] - 1.0) if purpose == TRAIN else 1.0
        pieces, symbols, total = [np.zeros(silences[0], np.float32)], [], silences[0]
        for place, digit in enumerate(said):
            clip = digits[digit][which[place] % len(digits[digit])]
            total += len(clip) + silences[place + 1]
            if symbols and total * stretch > room:
                break
            pieces += [clip, np.zeros(silences[place + 1], np.float32)]
            symbols.append(int(digit) + 1)
        samples = np.concatenate(pieces)
        if stretch != 1.0:  # as a tape at another speed, whose pitch changes too
            places = np.arange(int(len(samples) * stretch)) / stretch
            samples = np.interp(places, np.arange(len(samples)), samples)
        samples = samples[:room]
        quiet = _HISS
        if purpose == TRAIN and math.isfinite(chosen["noise"]):
            quiet = chosen["noise"] + (_HISS - chosen["noise"]) * varied[1]
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-quiet / 20)
        return symbols, (samples + level * random.normal(samples.shape)).astype(np.float32)

    facts = {
        **{key: value for key, value in chosen.items() if key not in ("stack", "source")},
        "sha256": clips.sha256,
        "speakers": sorted(parts[TRAIN]),
        **{
            f"{name}_clips": sum(len(c) for d in parts[part].values() for c in d)
            for name, part in (("train", TRAIN), ("valid", EVALUATE), ("test", TEST))
        },
    }
    return Sounds(tuple("0123456789"), " ", longest, utterance, ("wer",), facts)


# ---- examples


def _numbered(
    sounds: Sounds, mel: audio.Mel, purpose: int, *, stack: int, window: int, mask: int, seed: int
) -> examples.Examples:
    """The utterances of a purpose: numbers -> inputs float32 [T, B, F], lengths int32 [B], labels int32
    [N, B], label_lengths int32 [B]."""

    def batch(numbers: np.ndarray) -> examples.Batch:
        rows = len(numbers)
        inputs = np.zeros((window, rows, stack * mel.bands), np.float32)
        labels = np.zeros((sounds.most, rows), np.int32)
        lengths, label_lengths = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for row, number in enumerate(numbers):
            symbols, samples = sounds.utterance(purpose, int(number))
            features = audio.normalised(audio.log_mel(samples, mel))
            if mask and purpose == TRAIN:
                _mask(features, Random(seed, purpose, int(number), 1), mask)
            features = audio.stacked(features, stack)
            if ctc.needed(np.array(symbols)) > len(features):
                raise UsageError(
                    f"an utterance of {len(features)} steps has {len(symbols)} symbols, which takes "
                    f"{ctc.needed(np.array(symbols))}: lower data.stack, which is {stack}"
                )
            inputs[: len(features), row], lengths[row] = features, len(features)
            labels[: len(symbols), row], label_lengths[row] = symbols, len(symbols)
        return {
            "inputs": inputs,
            "labels": labels,
            "lengths": lengths,
            "label_lengths": label_lengths,
        }

    def truth(number: int) -> str:
        return sounds.text(sounds.utterance(purpose, number)[0])

    return examples.Examples(batch, truth, size=None)


def _mask(features: np.ndarray, random: Random, most: int) -> None:
    """Up to `most` bands side by side become their mean, 0 (SpecAugment: Park et al. 2019)."""
    bands = features.shape[1]
    count = int(random.integers(0, most + 1, (1,))[0])
    first = int(random.integers(0, bands - count + 1, (1,))[0])
    features[:, first : first + count] = 0.0


def errors(answers: list[str], truths: list[str], names: tuple[str, ...]) -> dict[str, float]:
    """cer and wer, as `names` has them: insertions, deletions and substitutions over the characters
    or words of the truths, all texts together."""
    jiwer = optional.needed("jiwer", "counting errors")
    return {name: float(getattr(jiwer, name)(truths, answers)) for name in names}


def constant(truths: list[str], name: str, gap: str) -> tuple[str, float]:
    """(text, its error): one text for all, grown from nothing by the unit that helps most, as long as
    one does; local search, so an upper bound. name: cer or wer; gap: what stands between units."""
    units = sorted(set("".join(truths) if not gap else gap.join(truths).split(gap)))
    best, least = "", 1.0  # nothing: all is deleted
    while True:
        grown = [f"{best}{gap}{unit}" if best else unit for unit in units]
        found = [errors([text] * len(truths), truths, (name,))[name] for text in grown]
        if min(found) >= least:
            return best, least
        best, least = grown[int(np.argmin(found))], min(found)


# ---- the task


def make_task(config: Config, kept: Path | None = None) -> Task:
    """The task of `config`; with `kept`, the clips must be those of that run.

    Raises UsageError for options that do not fit, or clips that are missing or damaged.
    """
    optional.needed("jiwer", "counting errors")  # now, and not at the first validation
    source = config.data.source
    if source not in MEL:
        raise UsageError(f"data.source must be one of {', '.join(MEL)}, got '{source}'")
    mel = MEL[source]
    chosen = sequences.options(config, source=source, stack=1, **_OWN[source])
    stack, window, mask = chosen["stack"], config.train.window, chosen.get("mask", 0)
    if stack < 1:
        raise UsageError(f"data.stack must be at least 1, got {stack}")
    if not 0 <= mask < mel.bands:
        raise UsageError(f"data.mask must be in [0, {mel.bands}), got {mask}")
    seconds = ((window * stack - 1) * mel.hop + mel.window) / mel.rate
    if source == "morse":
        sounds = _morse(config, seconds, chosen["snr"])
    else:
        sounds = _digits(config, seconds, chosen, kept)
    symbols = len(sounds.names) + 1
    sizes: dict[str, Any] = {"input_size": stack * mel.bands, "output_size": symbols}
    sizes |= {"real": True, "future": True}

    def of(purpose: int) -> examples.Examples:
        options = {"stack": stack, "window": window, "mask": mask, "seed": config.seed}
        return _numbered(sounds, mel, purpose, **options)

    def network_of(values: dict[str, Any]) -> examples.Network:
        net = configured.model_of(config, values=values, **sizes)

        def loss(params: Params, batch: examples.Batch, key: Array | None) -> examples.Sums:
            logits = _outputs(net, params, batch, key)
            there, count = batch["there"], batch["label_lengths"]
            nats = ctc.loss(logits, batch["lengths"], batch["labels"], count)
            total = jnp.where(there, nats, jnp.zeros_like(nats)).sum()
            return {"loss": (total, jnp.where(there, count, 0).sum().astype(total.dtype))}

        return examples.Network(net.init, loss)

    reader = _reader(configured.model_to_read(config, **sizes))

    def heard(params: Params, batch: examples.Batch) -> list[np.ndarray]:
        """ln p [T, V] of every row's steps."""
        found = ctc.log_softmax(np.asarray(reader(params, batch)))
        return [found[:length, row] for row, length in enumerate(batch["lengths"])]

    def answer(params: Params, batch: examples.Batch, width: int) -> list[Any]:
        rows = heard(params, batch)
        path = [sounds.text(ctc.greedy(row)) for row in rows]
        if width == 1:
            return path
        best = [sounds.text(ctc.beam(row, width)[0][0]) for row in rows]
        return list(zip(best, path, strict=True))

    def score(answers: list[Any], truths: list[str]) -> dict[str, float]:
        if isinstance(answers[0], str):
            return errors(answers, truths, sounds.errors)
        best, path = (list(texts) for texts in zip(*answers, strict=True))
        found = errors(best, truths, sounds.errors)
        for name, value in errors(path, truths, sounds.errors).items():
            found[f"greedy_{name}"] = value
        name = sounds.errors[0]
        found[f"trivial_{name}"] = constant(truths, name, sounds.gap)[1]
        return found

    def tell(them: examples.Examples, number: int, said: Any) -> str:
        return f"target  {them.truth(number)}\nanswer  {said}"

    def draw(params: Params, folder: Path) -> list[Path]:
        files = []
        for number in range(config.sample.utterances):
            batch = of(TEST).batch(np.array([number]))
            log_probs = heard(params, batch)[0]
            samples = sounds.utterance(TEST, number)[1]
            figure = pictured(
                samples,
                mel,
                np.exp(log_probs),
                step=stack * mel.hop / mel.rate,
                names=sounds.names,
                target=of(TEST).truth(number),
                answer=sounds.text(ctc.beam(log_probs, config.eval.beam)[0][0]),
            )
            files.append(folder / f"utterance_{number + 1}.png")
            save(figure, files[-1])
        return files

    few = of(EVALUATE).batch(np.arange(32))
    hears_nothing = ctc.unheard(few["lengths"], few["labels"], few["label_lengths"])
    return examples.make_task(
        config,
        network_of=network_of,
        train=of(TRAIN),
        valid=of(EVALUATE),
        tests={"test": of(TEST)},
        answer=answer,
        score=score,
        tell=tell,
        unit="symbol",
        measure="nats",
        baseline=("hearing nothing", hears_nothing),
        facts={
            "source": source,
            "symbols": symbols - 1,
            "frame_ms": 1000 * mel.hop / mel.rate,
            "step_ms": 1000 * stack * mel.hop / mel.rate,
            "longest_seconds": round(seconds, 3),
            **mel._asdict(),
            **sounds.facts,
        },
        fingerprint={"source": source, "symbols": symbols, "stack": stack},
        draw=draw,
    )


def _outputs(net: Any, params: Params, batch: examples.Batch, key: Array | None = None) -> Array:
    """Logits [T, B, V]."""
    dtype = params["readout"]["bias"].dtype
    x = jnp.asarray(batch["inputs"]).astype(dtype)
    start = net.carry(x.shape[1], dtype)
    return net.apply(params, start, x, lengths=batch["lengths"], key=key)[1]


@functools.lru_cache(maxsize=16)
def _reader(net: Any) -> Callable[[Params, examples.Batch], Array]:
    return jax.jit(functools.partial(_outputs, net))


# ---- for a person


def pictured(
    samples: np.ndarray,
    mel: audio.Mel,
    probabilities: np.ndarray,
    *,
    step: float,
    names: tuple[str, ...],
    target: str,
    answer: str,
) -> Figure:
    """An utterance over time: the power in each mel band, and below it how probable the network finds
    each symbol, [T, V] with the blank first, at each of its steps of `step` seconds."""
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    decibels = audio.log_mel(samples, mel) * (10 / math.log(10))
    duration = len(decibels) * mel.hop / mel.rate
    mesh = above.pcolormesh(
        np.arange(len(decibels) + 1) * mel.hop / mel.rate,
        np.arange(mel.bands + 1),
        decibels.T - decibels.max(),
        cmap="cividis",
        vmin=max(np.percentile(decibels, 1) - decibels.max(), -60.0),
        rasterized=True,
    )
    figure.colorbar(mesh, ax=above, label="dB below the loudest", pad=0.01)
    hertz = audio.from_mel(
        np.linspace(audio.to_mel(mel.low), audio.to_mel(mel.high), mel.bands + 2)
    )
    ticks = np.linspace(0, mel.bands - 1, 5).astype(int)
    above.set_yticks(ticks + 0.5, [f"{hertz[tick + 1]:.0f}" for tick in ticks])
    above.set_ylabel("middle of the band, Hz")
    above.set_title(f"said:  {target}\nread:  {answer}", loc="left", family="monospace")

    middles = (np.arange(len(probabilities)) + 0.5) * step
    below.plot(middles, probabilities[:, 0], ":", color=GREY, lw=1)
    path = probabilities.argmax(-1)
    for place, symbol in enumerate(sorted(set(path) - {ctc.BLANK})):
        colour = COLOURS[place % len(COLOURS)]
        below.plot(middles, probabilities[:, symbol], color=colour, lw=1.5)
        runs = np.flatnonzero(np.diff(np.concatenate([[0], path == symbol, [0]])))
        for begin, end in runs.reshape(-1, 2):
            peak = begin + int(probabilities[begin:end, symbol].argmax())
            name = names[symbol - 1].replace(" ", "\u2423")
            where = (middles[peak], probabilities[peak, symbol])
            options: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
            below.annotate(name, where, (0, 4), color=colour, weight="bold", **options)
    below.set(xlim=(0, duration), ylim=(0, 1.15), xlabel="time, s", ylabel="probability")
    below.set_title("each symbol; dotted: the blank", loc="left", fontsize=10)
    return figure
