"""What tests of data have in common."""

import pytest

from rnnlab.data.vocabulary import Vocabulary
from rnnlab.errors import UsageError


def vocabulary_of(text):
    return Vocabulary("char", tuple(sorted(set(text))))


def refused(call, *fragments):
    """The one-line message of the UsageError that `call` raises; it holds every fragment."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message
