"""The text of a run: its vocabulary, the batches of training, and what is held out."""

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import archives, textfile
from rnnlab.data.reading import reading
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError
from rnnlab.run.files import read_json, write_file, write_json
from rnnlab.run.folder import unchanged
from rnnlab.tasks.kinds import sources
from rnnlab.tasks.language_model import corpora
from rnnlab.tasks.language_model.batches import (
    Batch,
    Batches,
    HeldOut,
    held_out,
    random_windows,
    split,
    stream_batches,
    window_batches,
)
from rnnlab.types import Config

KEPT_AT_MOST = 64 << 20  # bytes of held-out tokens that are copied into the run


def kept_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary kept in a run. Raises UsageError if it is missing or broken."""
    return Vocabulary.from_json(read_json(folder / "vocabulary.json"))


def read_text(config: Config, kept: Path | None) -> tuple[corpora.Corpus, np.ndarray, np.ndarray]:
    """(the text, its tokens for training, those held out). Raises UsageError for a text that cannot be
    read, is too short, or is not that of the run in `kept`."""
    options = sources.found(config, kept).data
    chosen = {key: options[key] for key in ("corpus", "path", "level", "glob")}
    with reading(options.path or options.corpus):
        text = corpora.load(**chosen, encoding=options.get("encoding", textfile.OLDER))
    unchanged(kept, "text", text.source, text.sha256)
    return text, *split(text.tokens, valid_fraction=options.valid_fraction)


def _sha256(tokens: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()


@dataclass(frozen=True, eq=False)
class Data:
    """The text of a config; each part is read when it is first asked for, and then kept.

    kept: the folder of the run whose vocabulary and held-out text it is; None: there is none yet.
    """

    config: Config
    kept: Path | None

    @functools.cached_property
    def text(self) -> tuple[corpora.Corpus, np.ndarray, np.ndarray]:
        """See `read_text`."""
        return read_text(self.config, self.kept)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the run, or of the text."""
        return self.text[0].vocabulary if self.kept is None else kept_vocabulary(self.kept)

    @functools.cached_property
    def batches(self) -> Batches:
        """The batches of training. Raises UsageError for a text that is too short for them."""
        config, train = self.config, self.text[1]
        sizes = {"batch_size": config.train.batch_size, "window": config.train.window}
        if config.data.batching == "streams":
            how = {"shift": config.data.shift, "forget": config.data.forget}
            return stream_batches(train, seed=config.seed, **sizes, **how)
        if config.data.batching == "windows":
            return window_batches(train, seed=config.seed, **sizes)
        raise UsageError(
            f"data.batching must be 'streams' or 'windows', got '{config.data.batching}'"
        )

    def held_tokens(self) -> np.ndarray:
        """The held-out tokens, unsigned integers [N]: those that the run keeps, else those of the text.
        Raises UsageError if what the run keeps is damaged."""
        if self.kept is None or not (file := self.kept / "valid.npy").exists():
            return self.text[2]
        # Runs of older versions do not say what it was.
        recorded = read_json(self.kept / "run.json")["data"].get("valid_sha256")
        try:
            found = np.array(archives.array(file))
        except (ValueError, OSError, EOFError):
            found = None
        if (
            found is None
            or recorded not in (None, _sha256(found))
            or found.ndim != 1
            or found.dtype.kind != "u"
            or (found >= self.vocabulary.size).any()
        ):
            raise UsageError(f"{file} is damaged: remove it, and the text itself is read again")
        return found

    @functools.cached_property
    def validation(self) -> tuple[HeldOut, Batch]:
        """(the held-out text as a few long streams, random windows of it)."""
        tokens, options = self.held_tokens(), self.config.eval
        streams = held_out(
            tokens, streams=options.streams, window=options.window, burn_in=options.burn_in
        )
        windows = random_windows(
            tokens,
            count=options.random_windows,
            window=options.random_window,
            seed=self.config.seed,
        )
        return streams, windows

    def keep(self, folder: Path) -> None:
        """See `Task.keep`: the vocabulary, and the held-out tokens unless they are very many."""
        write_json(folder / "vocabulary.json", self.vocabulary.to_json())
        valid = self.text[2]
        if valid.nbytes <= KEPT_AT_MOST:
            content = io.BytesIO()
            np.save(content, valid)
            write_file(folder / "valid.npy", content.getvalue())

    def facts(self) -> dict[str, Any]:
        """See `Task.facts`."""
        text, train, valid = self.text
        path = self.config.data.path
        return {
            "corpus": Path(path).name if path else text.name,
            "source": text.source,
            "sha256": text.sha256,
            "bytes": text.bytes,
            "characters": len(text.tokens),
            "train_characters": len(train),
            "valid_characters": len(valid),
            "vocabulary": self.vocabulary.size,
            "steps_per_epoch": self.batches.steps_per_epoch,
            **({"valid_sha256": _sha256(valid)} if valid.nbytes <= KEPT_AT_MOST else {}),
        }
