"""TensorBoard's event files."""

import itertools
import math
import os
import struct
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from rnnlab.errors import UsageError
from rnnlab.run.events import Events
from rnnlab.run.files import read_json, write_json
from rnnlab.run.logs import Log


def read_events(path):
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return events


def test_events(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = Events(tmp_path, None)
        row = {
            "loss": 1.5,
            "steps": np.int64(3),
            "grad": jnp.float32(2.0),
            "bad": float("nan"),
            "name": "x",
            "none": None,
            "flag": True,
            "vector": np.ones(2),
        }
        first.write(10, "train", row)
        events = read_events(first.path)  # nothing waits in memory for a close
        first.close()
        with Events(tmp_path, 6) as second:
            second.write(6, "valid", {"loss": 0.5})
    assert [event.file_version for event in events] == ["brain.Event:2", ""]
    values = {value.tag: value.simple_value for value in events[1].summary.value}
    assert events[1].step == 10
    assert {k: v for k, v in values.items() if v == v} == {
        "train/loss": 1.5,
        "train/steps": 3.0,
        "train/grad": 2.0,
    }
    assert set(values) - {"train/bad"} == {"train/loss", "train/steps", "train/grad"}
    _, start, value = read_events(second.path)
    assert (start.step, start.session_log.status) == (6, event_pb2.SessionLog.START)
    assert value.summary.value[0].tag == "valid/loss"
    names = sorted(p.name for p in (tmp_path / "tensorboard").iterdir())
    assert names == [first.path.name, second.path.name]
    assert all("tfevents" in name and os.uname().nodename not in name for name in names)


def test_a_changed_json_file_is_noticed(tmp_path):
    """Whichever bit it is, the name of the checksum's key included; files without one are old."""
    path = tmp_path / "a.json"
    write_json(path, {"rate": 0.002, "steps": 100, "name": "é", "inf": math.inf})
    assert read_json(path) == {"rate": 0.002, "steps": 100, "name": "é", "inf": "inf"}
    content = path.read_bytes()
    for position, bit in itertools.product(range(len(content)), range(8)):
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(UsageError, match=r"cannot read .*a\.json"):
            read_json(path)
    path.write_text('{"steps": 100}')
    assert read_json(path) == {"steps": 100}


def test_changed_lines_are_put_back_from_a_copy(tmp_path):
    path, copy, told = tmp_path / "rows", tmp_path / "copy", []
    with Log(path) as log:
        log.append("one")
        log.append("two")
        size, sha256 = log.size, log.sha256
        copy.write_bytes(path.read_bytes())
        log.append("three")
    path.write_bytes(b"onE\ntwo\nthree\n")
    with Log(path) as log:
        log.truncate(size, told.append, sha256=sha256, copy=copy)
        assert log.sha256 == sha256
        log.append("four")
    assert path.read_text() == "one\ntwo\nfour\n"
    assert len(told) == 1
    assert f"{path} has changed" in told[0]
