"""What a user can meet: the errors with their exit codes, and the words they are told in.

Imports nothing of rnnlab, and not JAX either, so that a mistyped flag is answered at once.
"""

import difflib
import errno
from collections.abc import Iterable, Mapping


class RnnlabError(Exception):
    """An error with a one-line message for the user and an exit code; the launcher prints no traceback."""

    exit_code = 1


def one_line(error: BaseException | str, most: int = 1000) -> str:
    """A message for a terminal: one line without control characters, whatever of the user's text is
    in it; of more than `most` characters the beginning and the end."""
    text = " ".join(str(error).split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[len(text) - most // 2 :]}"
    return text


class UsageError(RnnlabError):
    """A bad flag, config value or input file."""

    exit_code = 2


class DivergedError(RnnlabError):
    """The loss or a gradient is not finite."""

    exit_code = 3


class CheckpointError(RnnlabError):
    """No checkpoint of the run can be restored."""

    exit_code = 4


class StorageError(RnnlabError):
    """The disk refused a read or a write."""

    exit_code = 5


class InUseError(RnnlabError):
    """Another process holds the run folder."""

    exit_code = 6


class OutOfMemoryError(RnnlabError):
    """Memory ran out while computing."""

    exit_code = 7


# How XLA, on any device, and NumPy say that memory ran out.
EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Unable to allocate")


def exhausted(error: BaseException) -> bool:
    """Whether this says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    # XLA's own class is a RuntimeError, and has had several names.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in EXHAUSTED)


def out_of_memory(error: BaseException, advice: str = "ask for less at once") -> str:
    """The line for an error that is `exhausted`: what was asked for, and what to do."""
    asked = " ".join(str(error).split())[:160] or "an allocation failed"
    return f"out of memory ({asked}): {advice}"


class Interrupted(RnnlabError):
    """SIGINT, SIGTERM or SIGHUP arrived; the state was saved. The exit code is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


# What a file system says that lacks an operation: flock, or fsync of a folder.
LACKING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def lacking(error: OSError) -> bool:
    """Whether this says that the file system lacks the operation, and not that it failed."""
    return error.errno in LACKING


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The words "did you mean 'NAME'? " with the name that is most like `word`, or "" if none is.

    known: the names; of a mapping the keys, and its value is the NAME that is said.
    cutoff: from 0 to 1, how like the word a name must be (`difflib.get_close_matches`).
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    if not near:
        return ""
    name = known[near[0]] if isinstance(known, Mapping) else near[0]
    return f"did you mean '{name}'? "
