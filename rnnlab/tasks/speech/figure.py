"""The figure of an utterance, for the verb show: what was heard and what was read in it."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnlab.run.figure import COLOURS, GREY
from rnnlab.tasks.speech import audio, ctc


def utterance(
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
