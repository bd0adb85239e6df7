"""State dicts of PyTorch's recurrent modules in the names of one of its layers.

Cells, weight dropping (AWD-LSTM) and weight norm, in both of PyTorch's forms, write the same weights
under other names; `plain` gives all of them those of torch.nn.RNN, GRU and LSTM.
"""

import re
from collections.abc import Mapping

import numpy as np

from rnnlab.errors import UsageError

_ENTRY = r"(?:weight|bias)_(?:ih|hh)"


def plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights as `weight_ih_l0` and so on.

    arrays: name -> array, without the module's prefix. Understood are the names of LSTMCell, GRUCell
        and RNNCell (`weight_ih`); `weight_hh_l0_raw`, which stands for the `weight_hh_l0` that a
        weight-dropped module writes in training; `weight_hh_l0_g` and `_v`, or
        `parametrizations.weight_hh_l0.original0` and `original1`, of weight norm over rows.

    Raises UsageError for one half of a weight norm without the other, or one that is not over rows.
    """
    found = {}
    for name, array in arrays.items():
        name = name.removeprefix("module.")  # of a weight-dropped module
        name = re.sub(r"^parametrizations\.(\w+)\.original0$", r"\1_g", name)
        name = re.sub(r"^parametrizations\.(\w+)\.original1$", r"\1_v", name)
        found[re.sub(rf"^({_ENTRY})(?=$|_raw$|_[gv]$)", r"\1_l0", name)] = array
    for name in [name for name in found if name.endswith("_raw")]:
        found[name.removesuffix("_raw")] = found.pop(name)
    for name in sorted(
        {name[:-2] for name in found if re.fullmatch(rf"{_ENTRY}_l\d+\w*_[gv]", name)}
    ):
        found[name] = _normed(name, found.pop(f"{name}_g", None), found.pop(f"{name}_v", None))
    return found


def _normed(name: str, size: np.ndarray | None, direction: np.ndarray | None) -> np.ndarray:
    """g v / |v|, with |v| of every row: dim=0, PyTorch's default."""
    if size is None or direction is None:
        raise UsageError(f"state dict: '{name}' is weight-normed: it needs both its g and its v")
    if direction.ndim != 2 or size.shape != (len(direction), 1):
        raise UsageError(
            f"state dict: '{name}' is weight-normed over other axes than rows: g has shape "
            f"{list(size.shape)}, v {list(direction.shape)}"
        )
    return direction * (size / np.linalg.norm(direction, axis=1, keepdims=True))


def likeness(name: str) -> str:
    """What an entry that cannot be imported looks like, or ""."""
    looks = {
        r"weight_hr_l\d+": "projections (proj_size) are not supported",
        r"_packed_params|\.scale$|zero_point|_all_weight_values": "a quantised module",
        r"original\d?$": "a parametrisation that is not weight norm: remove it before exporting",
        r"_(orig|mask)$": "a pruned module: torch.nn.utils.prune.remove makes its weights permanent",
    }
    return next((what for pattern, what in looks.items() if re.search(pattern, name)), "")
