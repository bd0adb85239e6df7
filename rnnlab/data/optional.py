"""Packages that only some tasks need: the extra `media`."""

import importlib
from typing import Any

from rnnlab.errors import UsageError


def needed(package: str, what: str) -> Any:
    """The module of an optional package, which `what` needs. Raises UsageError if it is absent."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(
            f"{what} needs the package {package}: pip install -c constraints.txt -e '.[media]'"
        ) from None
