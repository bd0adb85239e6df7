"""The short set of the campaign of faults; all of it is python -m tests.faults"""

import importlib

import pytest

from tests.faults.__main__ import kinds
from tests.faults.lab import Lab

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


# Their short sets take 10 to 20 s each, of the five minutes that the default run has.
LONG = ("corruption", "endurance", "filesystems", "interrupts", "kills", "security")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in LONG else ()) for kind in kinds()],
)
def test_nothing_is_lost(lab, kind):
    module = importlib.import_module(f"tests.faults.{kind}")
    rows = list(module.campaign(lab, module.SHORT))
    assert rows
    for row in rows:
        assert row.injected or row.outcomes, row.fault
        assert not row.lost, row.fault
