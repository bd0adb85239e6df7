"""What the tests of whole runs share."""

from pathlib import Path

import jax
import pytest

from rnnlab.run import process as host
from rnnlab.train.session import fit
from tests.faults.lab import make_text
from tests.train.runs import made


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Each run here would compile the same programs again."""
    host.keep_compiled(tmp_path_factory.mktemp("compiled"))
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return make_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def straight(text, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    fit(made(text), workdir, [])
    return workdir
