"""Other names of the same weights: cells, weight dropping, weight norm."""

import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.models import interop, state_dicts

H, D = 4, 3
RNG = np.random.default_rng(0)
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def layer(cell, end="_l0"):
    rows = GATES[cell] * H
    shapes = {"weight_ih": (rows, D), "weight_hh": (rows, H), "bias_ih": rows, "bias_hh": rows}
    return {name + end: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def same(found, wanted):
    assert found[0].keys() == wanted[0].keys()
    for name, array in wanted[0].items():
        np.testing.assert_allclose(found[0][name], array, rtol=1e-6)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("prefix", ["", "module.", "encoder.rnn."])
def test_a_cell_is_a_layer(cell, prefix):
    state = layer(cell)
    own = {prefix + name.removesuffix("_l0"): array for name, array in state.items()}
    wanted = interop.from_torch(state, cell=cell)
    same(interop.from_torch(own | {"head.weight": RNG.normal(size=2)} if prefix else own,
                            cell=cell, prefix=prefix), wanted)  # fmt: skip


def test_a_weight_dropped_layer():
    """The raw weight is the one that counts; a dropped one beside it is of the last batch."""
    state = layer("lstm")
    wanted = interop.from_torch(state, cell="lstm")
    own = {f"module.{name}": array for name, array in state.items()}
    raw = own.pop("module.weight_hh_l0")
    for beside in ({}, {"module.weight_hh_l0": raw * 0}):
        same(interop.from_torch({"weight_hh_l0_raw": raw} | own | beside, cell="lstm"), wanted)
        same(interop.from_torch(own | beside | {"weight_hh_l0_raw": raw}, cell="lstm"), wanted)


@pytest.mark.parametrize(
    ("g", "v"),
    [("{}_g", "{}_v"), ("parametrizations.{}.original0", "parametrizations.{}.original1")],
)
@pytest.mark.parametrize("end", ["_l0", ""])
def test_a_weight_normed_layer(g, v, end):
    state = layer("gru", end)
    name = f"weight_hh{end}"
    direction = state.pop(name).astype(np.float64)
    size = RNG.normal(size=(len(direction), 1))
    rows = [s * row / np.sqrt(np.sum(row * row)) for s, row in zip(size, direction, strict=True)]
    wanted = interop.from_torch(state | {name: np.array(rows, np.float32)}, cell="gru")
    own = state | {g.format(name): size, v.format(name): direction}
    same(interop.from_torch(own, cell="gru"), wanted)
    with pytest.raises(UsageError, match="'weight_hh_l0' is weight-normed: it needs both"):
        interop.from_torch(state | {v.format(name): direction}, cell="gru")
    with pytest.raises(UsageError, match="over other axes"):
        interop.from_torch(own | {g.format(name): size.T}, cell="gru")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("weight_hr_l0", "proj_size"),
        ("_all_weight_values.0.param", "quantised"),
        ("weight_hh_l0_orig", "pruned"),
        ("parametrizations.weight_hh_l0.original", "not weight norm"),
    ],
)
def test_what_cannot_be_imported_is_told(name, what):
    with pytest.raises(UsageError, match=what) as error:
        interop.from_torch(layer("lstm") | {name: np.ones((2, 2))}, cell="lstm")
    assert "\n" not in str(error.value)
    assert state_dicts.likeness("weight_ih_l0") == ""
