"""Text from a character model: what it begins with, what it continues, and whether that is Python."""

import ast
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError
from rnnlab.models import sample
from rnnlab.tasks.language_model.data import kept_vocabulary
from rnnlab.tasks.language_model.network import reader
from rnnlab.types import Config, Model, Params

FUNCTION = "\ndef "  # what a generated function begins with


def prime_tokens(vocabulary: Vocabulary, text: str, *, count: int = 1, seed: int = 0) -> np.ndarray:
    """What each of `count` texts starts with, int32 [P, count].

    text: the prime of all of them; if it is empty, each starts with a letter of its own, drawn from
        (seed, n) among the letters of the vocabulary (of ASCII at byte level), or among all its
        symbols if there are none.

    Raises UsageError for a text with a character that the vocabulary does not have.
    """
    sample.check_counts(count=count)
    sample.check_seed(seed)
    if text:
        return sample.as_columns(vocabulary.encode(text), count)
    symbols = map(chr, range(128)) if vocabulary.level == "byte" else map(str, vocabulary.symbols)
    letters = [token for token, symbol in enumerate(symbols) if symbol.isalpha()]
    letters = letters or range(vocabulary.size)
    drawn = [np.random.SeedSequence((seed, n)).generate_state(1)[0] for n in range(count)]
    return np.array([[letters[number % len(letters)] for number in drawn]], np.int32)


def text_samples(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    *,
    length: int,
    prime: str = "",
    count: int = 1,
    seed: int = 0,
    **knobs: Any,
) -> list[str]:
    """`count` texts, each the prime (or a random letter: `prime_tokens`) and `length` characters.

    knobs: temperature, top_k and top_p, as for `sample.generate`. Raises what `sample.generate` and
    `prime_tokens` raise.
    """
    first = prime_tokens(vocabulary, prime, count=count, seed=seed)
    pieces = sample.generate(
        model, params, first, length=length, count=count, seed=seed, chunk=length, **knobs
    )
    return [vocabulary.decode(column) for column in np.concatenate([first, *pieces]).T]


def check_samples(config: Config, vocabulary: Vocabulary, net: Model) -> None:
    """Raises UsageError for what config.sample asks for and cannot be drawn. Nothing is computed."""
    wanted = config.sample
    if wanted.python_snippets < 0:
        raise UsageError(f"sample.python_snippets must be at least 0, got {wanted.python_snippets}")
    drawn = [("prime", wanted.prime, wanted.length)]
    if wanted.python_snippets:
        drawn.append(("python_snippets", FUNCTION, wanted.snippet_length))
    for key, prime, length in drawn:
        try:
            first = prime_tokens(vocabulary, prime, seed=config.seed)
        except UsageError as error:
            raise UsageError(f"sample.{key}: {error}") from None
        sample.generate(net, None, first, length=length, temperature=wanted.temperature)


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
    vocabulary = kept_vocabulary(kept)
    net = reader(config, vocabulary.size).net
    first = prime_tokens(vocabulary, prime, count=count, seed=seed)
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
