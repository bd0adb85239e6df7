"""Weights to and from PyTorch and Flax, and any cell as a Flax `nnx.RNNCellBase`.

Both libraries order the gates as the cells here do (LSTM i, f, g, o; GRU r, z, n, here q, u, n), so
a weight is at most transposed, split or joined, and keeps its bits. Sources: the documentation of
torch.nn.RNN, GRU and LSTM, and flax/nnx/nn/recurrent.py. PyTorch is not imported: arrays in, arrays
out. How a fresh model starts is not told here but by the presets of the cells.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab import cells
from rnnlab.errors import UsageError
from rnnlab.models import state_dicts
from rnnlab.types import Array, Carry, Cell, Params

# name -> gates G: the cells that PyTorch and Flax have too
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
# The names of the gates i, f, g, o in Flax's LSTMCell: from the input, and from the state.
_FLAX_LSTM = {"ii": "hi", "if_": "hf", "ig": "hg", "io": "ho"}


def _gates(cell: str, library: str) -> int:
    if cell not in _GATES:
        raise UsageError(f"{library} has no cell '{cell}': it has {', '.join(_GATES)}")
    return _GATES[cell]


def _take(arrays: Mapping[str, Any], name: str, shape: Sequence[int | str], source: str) -> Any:
    """`arrays[name]` if it has that shape, in which a string stands for any size."""
    expected = f"[{', '.join(map(str, shape))}]"
    if name not in arrays:
        raise UsageError(f"{source} has no '{name}', expected with shape {expected}")
    found = np.shape(arrays[name])
    if len(found) != len(shape) or any(
        isinstance(size, int) and size != other for size, other in zip(shape, found, strict=True)
    ):
        raise UsageError(f"{source}: '{name}' has shape {list(found)}, expected {expected}")
    return arrays[name]


def _weights(params: Params, cell: str, library: str, options: dict[str, Any]) -> dict[str, Any]:
    """kernel_x [D, G*H], kernel_h [H, G*H], bias [G*H], and bias_h [G*H] if there is one."""
    gates, source = _gates(cell, library), f"cell '{cell}'"
    made_with: dict[str, Any] = {"hidden": 1} | options
    cells.get(cell, **made_with)  # a misspelt option raises here
    lacking = {
        "peepholes": "peepholes" in params,
        "layer norm inside a cell": "norm_x" in params,
        "a reset gate before the recurrent product": options.get("reset") == "before",
        "zoneout, which evaluation has too": options.get("zoneout"),
    }
    for what, used in lacking.items():
        if used:
            raise UsageError(f"{library} cannot express {what}: {source} is not exported")
    hidden = np.shape(_take(params, "kernel_h", ("H", f"{gates}*H"), source))[0]
    width = gates * hidden
    shapes = {"kernel_h": (hidden, width), "kernel_x": ("D", width), "bias": (width,)}
    if "bias_h" in params:
        shapes["bias_h"] = (width,)
    return {name: np.asarray(_take(params, name, shape, source)) for name, shape in shapes.items()}


def _flat(tree: Any) -> dict[str, Any]:
    """A nested dict as {"a/b": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _owned(tree: Any) -> Any:
    """The same as JAX arrays, sharing no memory: a live module's tensors change in place."""
    return jax.device_put(jax.tree.map(lambda array: np.array(array, order="C"), tree))


def from_torch(state_dict: Mapping[str, Any], *, cell: str, prefix: str = "") -> list[Params]:
    """The layers of a torch.nn.RNN, GRU or LSTM, from its state dict.

    state_dict: name -> NumPy array (or what `np.asarray` takes, such as a tensor on the CPU):
        weight_ih_l{k} [G*H, D], weight_hh_l{k} [G*H, H], bias_ih_l{k} and bias_hh_l{k} [G*H], and
        the same with `_reverse`; or those of an LSTMCell, GRUCell or RNNCell, of weight dropping and
        of weight norm, see `state_dicts.plain`. Biases that a module made with
        bias=False lacks are zeros here.
    cell: "rnn", "gru" or "lstm". prefix: what the module's names start with, "encoder.rnn." say.

    Returns one entry a layer, as `params["layers"]` of a model has them: the parameters of
    `cells.get(cell, hidden=H, preset="torch")`, or {"forward": ..., "backward": ...}. They are
    copies of the same dtype; without jax_enable_x64, JAX makes float32 of float64. The nonlinearity
    of an RNN is no weight: give it to the cell as `activation`.

    Raises UsageError for an entry that is missing, misshapen or unknown, and for projections.
    """
    gates = _gates(cell, "torch")
    arrays = state_dicts.plain(
        {
            name[len(prefix) :]: np.asarray(array)
            for name, array in state_dict.items()
            if name.startswith(prefix)
        }
    )
    depth, sides, bias = 1, 1, False
    for name in arrays:
        match = re.fullmatch(r"(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?", name)
        if match is None and (what := state_dicts.likeness(name)):
            raise UsageError(f"state dict: '{name}': {what}")
        if match is None:
            raise UsageError(
                f"state dict: '{name}' is no entry of a torch {cell}: set prefix to the name of "
                "the module and a dot"
            )
        if match[2] == "hr":
            raise UsageError(f"state dict: '{name}': {state_dicts.likeness(name)}")
        depth, bias = max(depth, int(match[3]) + 1), bias or match[1] == "bias"
        sides = 2 if match[4] else sides

    def take(name: str, *shape: int | str) -> np.ndarray:
        return _take(arrays, name, shape, "state dict")

    size: int | str = "D"
    hidden = take("weight_hh_l0", f"{gates}*H", "H").shape[1]
    width, layers = gates * hidden, []
    for k in range(depth):
        pair = []
        for end in (f"_l{k}", f"_l{k}_reverse")[:sides]:
            h, x = take(f"weight_hh{end}", width, hidden), take(f"weight_ih{end}", width, size)
            size = x.shape[1]  # the reversed direction reads the same input
            params = {"kernel_x": x.T, "kernel_h": h.T}
            for name, source in (("bias", "bias_ih"), ("bias_h", "bias_hh")):
                params[name] = take(source + end, width) if bias else np.zeros(width, x.dtype)
            pair.append(params)
        layers.append({"forward": pair[0], "backward": pair[1]} if sides == 2 else pair[0])
        size = hidden * sides
    return _owned(layers)


def _torch_dtype(array: np.ndarray) -> Any:
    """The dtype to export in: `torch.from_numpy` takes NumPy's own, and not bfloat16 or float8."""
    own = array.dtype in (np.float16, np.float32, np.float64)
    return array.dtype if own else np.float32


def to_torch(layers: Sequence[Params], *, cell: str, **options: Any) -> dict[str, np.ndarray]:
    """The state dict of a torch.nn.RNN, GRU or LSTM with two biases; the inverse of `from_torch`.

    layers: as `from_torch` returns them. A cell without bias_h exports zeros for bias_hh.
    options: what the cell was made with, to refuse what its parameters do not show: zoneout, and
        reset="before".

    Returns name -> a writable, contiguous array, fit for `torch.from_numpy`: bfloat16, which
    NumPy lacks, as float32.

    Raises UsageError for what torch cannot express (another cell, layer norm, peepholes, those
    options) and for parameters that are missing or misshapen.
    """
    if isinstance(layers, Mapping):
        raise UsageError("to_torch takes a list of layers, such as params['layers']")
    state = {}
    for k, layer in enumerate(layers):
        pair = [layer["forward"], layer["backward"]] if "forward" in layer else [layer]
        for end, params in zip(("", "_reverse"), pair, strict=False):
            own = _weights(params, cell, "torch", options)
            arrays = {
                "weight_ih": own["kernel_x"].T,
                "weight_hh": own["kernel_h"].T,
                "bias_ih": own["bias"],
                "bias_hh": own.get("bias_h", np.zeros_like(own["bias"])),
            }
            for name, array in arrays.items():
                state[f"{name}_l{k}{end}"] = np.array(array, _torch_dtype(array), order="C")
    return state


def from_flax(module: Any, *, cell: str) -> Params:
    """The parameters of an nnx LSTMCell or OptimizedLSTMCell ("lstm"), GRUCell ("gru") or
    SimpleCell ("rnn"), for `cells.get(cell, hidden=H, preset="flax")`.

    module: the Flax cell, an nnx.RNN that holds it, or the state of either (or a gradient, which is
        alike). Its gate_fn and activation_fn are no weights: taken to be the default ones.

    Raises UsageError for an entry that is missing or misshapen, and for SimpleCell's `residual`.
    """
    gates = _gates(cell, "flax")
    if isinstance(module, nnx.RNN):
        module = module.cell
    if isinstance(module, nnx.Module):
        if getattr(module, "residual", False):
            raise UsageError("cell 'rnn' cannot express the residual form of Flax's SimpleCell")
        module = nnx.state(module, nnx.Param)
    arrays = {name.removeprefix("cell/"): a for name, a in _flat(nnx.as_pure(module)).items()}

    def take(name: str, *shape: int | str) -> np.ndarray:
        return np.asarray(_take(arrays, name, shape, "flax cell"))

    if cell == "lstm" and "hi/kernel" in arrays:
        hidden = take("hi/kernel", "H", "H").shape[0]
        blocks = {
            "kernel_x": [take(f"{name}/kernel", "D", hidden) for name in _FLAX_LSTM],
            "kernel_h": [take(f"{name}/kernel", hidden, hidden) for name in _FLAX_LSTM.values()],
            "bias": [take(f"{name}/bias", hidden) for name in _FLAX_LSTM.values()],
        }
        return _owned({name: np.concatenate(block, axis=-1) for name, block in blocks.items()})
    hidden = take("dense_h/kernel", "H", f"{gates}*H").shape[0]
    width = gates * hidden
    params = {
        "kernel_h": take("dense_h/kernel", hidden, width),
        "kernel_x": take("dense_i/kernel", "D", width),
        "bias": take("dense_h/bias" if cell == "lstm" else "dense_i/bias", width),
    }
    return _owned(params)


def to_flax(params: Params, *, cell: str, optimized: bool = False, **options: Any) -> Params:
    """The inverse of `from_flax`: a nested dict of arrays, for `nnx.update(flax_cell, ...)`.

    optimized: lay an LSTM out for OptimizedLSTMCell (gates fused), not for LSTMCell.
    options: what the cell was made with, as in `to_torch`.

    Flax has one bias, so bias_h is added to it. In a GRU the candidate's share of bias_h is inside
    the reset gate, and must be zero.

    Raises UsageError for what Flax cannot express and for parameters missing or misshapen.
    """
    own = _weights(params, cell, "flax", options)
    x, h, bias = own["kernel_x"], own["kernel_h"], own["bias"]
    if "bias_h" in own:
        if cell == "gru" and np.any(own["bias_h"][2 * h.shape[0] :]):
            raise UsageError("flax cannot express a second bias on the candidate of cell 'gru'")
        bias = bias + own["bias_h"]
    if cell != "lstm":
        tree = {"dense_i": {"kernel": x, "bias": bias}, "dense_h": {"kernel": h}}
    elif optimized:
        tree = {"dense_i": {"kernel": x}, "dense_h": {"kernel": h, "bias": bias}}
    else:
        blocks, tree = (np.split(array, 4, axis=-1) for array in (x, h, bias)), {}
        for (i, o), x_gate, h_gate, b_gate in zip(_FLAX_LSTM.items(), *blocks, strict=True):
            tree |= {i: {"kernel": x_gate}, o: {"kernel": h_gate, "bias": b_gate}}
    return _owned(tree)


class FlaxCell(nnx.RNNCellBase):
    """Any rnnlab cell as a Flax cell for inputs [..., D]: `nnx.RNN(FlaxCell(cell, D, rngs=r))`.

    params: as `cell.init` makes them; drawn from `rngs.params` in `param_dtype` if None. They are
        the nnx.Param leaves, and the carry takes their dtype.
    deterministic: if False, noise inside the cell is drawn from `rngs.dropout`; what its steps
        share is drawn when nnx.RNN makes a zero carry, and kept where `initial_carry` is given.
        True, or after `model.eval()`: evaluation.

    nnx.RNN projects each input inside its scan, `unroll` all of them before it: equal, but faster.
    Differentiate with nnx.grad, or jax.grad through `nnx.merge(..., copy=True)`: nnx.RNN writes to
    its state even where it only counts, and jax.grad of a function that closes over it raises.

    Raises UsageError for params whose names or shapes are not the cell's.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        *,
        rngs: nnx.Rngs,
        params: Params | None = None,
        param_dtype: Any = jnp.float32,
        deterministic: bool = False,
    ):
        if params is None:
            params = cell.init(rngs.params(), input_size, param_dtype)
        given, source = _flat(params), f"params of cell '{cell.name}'"
        wanted = _flat(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)))
        for name, leaf in wanted.items():
            _take(given, name, leaf.shape, source)
        if extra := given.keys() - wanted.keys():
            raise UsageError(f"{source}: there is no '{min(extra)}' in it")
        self.cell = nnx.static(cell)
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.deterministic = deterministic
        # Which leaves of the noise are one draw for all steps: seen in a draw of two large ones,
        # since a step here does not know its window. No leaves, no noise and no state.
        with jax.ensure_compile_time_eval():
            noise = cell.noise(jax.random.key(0), 2, 65536 // cell.hidden + 1)
            self.shared = tuple(bool((a[0] == a[1]).all()) for a in jax.tree.leaves(noise))
        if self.shared:
            self.rngs = rngs.dropout.fork()
            self.key = nnx.Variable(self.rngs())  # of the sequence, for what its steps share

    def to_params(self) -> Params:
        """The parameters as plain arrays, for `unroll` and for checkpoints."""
        return nnx.as_pure(self.params)

    def set_view(self, deterministic: bool | None = None) -> None:
        """For `nnx.view(model, deterministic=...)`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None
    ) -> Carry:
        """The zero carry for inputs of shape [..., D]; in training, a new draw of shared noise."""
        if carry_init is not None:
            raise UsageError(f"cell '{self.cell.name}' starts from zeros: give an initial_carry")
        if self.shared and not self.deterministic:
            self.key[...] = self.rngs()
        batch = input_shape[:-1]
        zeros = self.cell.carry(int(np.prod(batch)), jax.tree.leaves(self.to_params())[0].dtype)
        return jax.tree.map(lambda a: a.reshape(batch + a.shape[1:]), zeros)

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """One step: inputs [..., D] -> (carry, y [..., H])."""
        params, batch = self.to_params(), inputs.shape[:-1]
        # A cell knows one batch axis, and its projection a time axis before it.
        x = inputs.reshape(1, int(np.prod(batch)), inputs.shape[-1])
        flat = jax.tree.map(lambda a: a.reshape(x.shape[1], *a.shape[len(batch) :]), carry)
        noise = None
        if self.shared and not self.deterministic:
            kept, drawn = (self.cell.noise(k, *x.shape[:2]) for k in (self.key[...], self.rngs()))
            shared = jax.tree.unflatten(jax.tree.structure(drawn), self.shared)
            noise = jax.tree.map(lambda one, a, b: a if one else b, shared, kept, drawn)
        z = self.cell.project(params, x, noise)
        stepped = self.cell.step(params, flat, jax.tree.map(lambda a: a[0], z))
        return jax.tree.map(lambda a: a.reshape(batch + a.shape[1:]), stepped)

    @property
    def num_feature_axes(self) -> int:
        return 1
