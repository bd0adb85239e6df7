"""Ways to split a batch over the two devices that the tests make of a CPU."""

import jax
import pytest
from jax.sharding import AxisType

from rnnlab.train import parallel

two_devices = pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices")


def split_of(kind: str) -> parallel.Split:
    if kind == "single":
        return parallel.SINGLE
    devices = tuple(jax.local_devices()[:2])
    if kind == "apart":
        return parallel.Split(devices)
    # Over devices of a CPU a mesh may hang; a few steps with a block after each did not.
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return parallel.Split(devices, mesh)
