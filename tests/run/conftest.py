"""What the tests of configs share."""

import sys
from pathlib import Path

import pytest

from tests.run.configs import BASE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: config files are given by relative paths, as on a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    Path("base.py").write_text(BASE)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
