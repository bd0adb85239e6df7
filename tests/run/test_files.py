"""Whole files, strict JSON and rows."""

import errno
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.errors import StorageError, UsageError
from rnnlab.run.files import json_row, read_json, read_rows, write_json


def test_json(tmp_path):
    path = tmp_path / "config.json"
    obj = {"z": [1, (2.5, None)], "a": float("inf"), "b": {"c": float("nan"), "d": -np.inf}}
    write_json(path, obj)
    text = path.read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert text.startswith('{\n  "z": [\n    1,\n')
    assert read_json(path) == {
        "z": [1, [2.5, None]],
        "a": "inf",
        "b": {"c": "nan", "d": "-inf"},
    }
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "run.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, name, full)
    with pytest.raises(StorageError) as error:
        write_json(path, {"new": 1})
    assert str(error.value) == f"cannot write {path}: No space left on device"
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_what_is_no_json_changes_nothing(tmp_path):
    write_json(tmp_path / "run.json", {"old": 1})
    with pytest.raises((TypeError, AttributeError)):
        write_json(tmp_path / "run.json", {"new": object()})
    assert read_json(tmp_path / "run.json") == {"old": 1}


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff"])
def test_json_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_json(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(error.value)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), st.floats() | st.integers() | st.none() | st.booleans()))
def test_row_round_trip(tmp_path_factory, row):
    line = json_row(row)
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.write_text(f"{line}\n")
    (got,) = read_rows(path) or [{}]
    assert repr(got) == repr(row)  # nan equals nan, -0.0 is not 0.0


def test_equal_numbers_give_equal_bytes():
    row = {"loss": np.float32(0.1), "step": np.int64(3), "grad": jnp.float32(jnp.inf)}
    again = {"loss": float(np.float32(0.1)), "step": 3, "grad": float("inf")}
    assert json_row(row) == json_row(again)
    assert json_row(again) == '{"loss": 0.10000000149011612, "step": 3, "grad": "inf"}'


def test_a_broken_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert read_rows(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2 is broken"):
        read_rows(path)
    path.write_bytes(b"1\n{}\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 1 is broken"):
        read_rows(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_rows(tmp_path / "none.jsonl")
