"""What the tests of texts share."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder that does not exist yet, and no proxy between the test and its server."""
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"
