"""Files of the user's: whatever goes wrong while one is read is told with its name."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rnnlab.errors import RnnlabError, UsageError, exhausted


def reason_of(error: BaseException) -> str:
    """Why, without error numbers and class names."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return reason_of(inner)
    text = getattr(error, "strerror", None) or str(inner or error) or type(error).__name__
    return " ".join(text.split())


@contextlib.contextmanager
def reading(path: Any) -> Iterator[None]:
    """What is read within is the file or folder `path`: whatever a reader raises about it, a stray
    ValueError of a library say, becomes a UsageError that names it.

    Errors of rnnlab pass, as they name what is wrong, and so does one that says that memory ran out.
    """
    try:
        yield
    except RnnlabError:
        raise
    except Exception as error:
        if exhausted(error):
            raise
        raise UsageError(f"cannot read {path}: {reason_of(error)}") from error
