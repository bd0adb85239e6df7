"""What the tests of whole runs share."""

from pathlib import Path

import pytest

from rnnlab.train.session import fit
from tests.train.runs import made


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    fit(made(text), workdir, [])
    return workdir
