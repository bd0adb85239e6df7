"""rnnlab: recurrent neural networks as pure functions, in JAX.

The names of `__all__` are the library:

    Cell Model Probe Task                what is handed around: pure functions
    cell unroll stack                    a cell by name; over a sequence; stacked, with a readout
    generate beam_search                 text from a model
    clip global_norm gradient_flow       gradients: shortened, measured, followed back in time
    load_config build fit open_run       a run: its config; task and optimiser; training; the folder
    from_torch to_torch                  weights from and to PyTorch,
    from_flax to_flax FlaxCell           and Flax; any cell as a Flax cell
    RnnlabError UsageError               what is raised, with one line to read

Each is imported when it is first used, so that `import rnnlab` costs nothing and imports no JAX.
What is not listed is reached by its package, `from rnnlab.cells import parts`, and may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnlab.cells import get as cell
    from rnnlab.diagnose.flow import measure as gradient_flow
    from rnnlab.errors import RnnlabError, UsageError
    from rnnlab.models.interop import FlaxCell, from_flax, from_torch, to_flax, to_torch
    from rnnlab.models.sample import beam_search, generate
    from rnnlab.models.stack import stack_cells as stack
    from rnnlab.recurrence.unrolling import unroll
    from rnnlab.run.config import load as load_config
    from rnnlab.train.from_config import build
    from rnnlab.train.optim import clip, global_norm
    from rnnlab.train.saved import open_run
    from rnnlab.train.session import fit
    from rnnlab.types import Cell, Model, Probe, Task

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "FlaxCell",
    "Model",
    "Probe",
    "RnnlabError",
    "Task",
    "UsageError",
    "__version__",
    "beam_search",
    "build",
    "cell",
    "clip",
    "fit",
    "from_flax",
    "from_torch",
    "generate",
    "global_norm",
    "gradient_flow",
    "load_config",
    "open_run",
    "stack",
    "to_flax",
    "to_torch",
    "unroll",
]

# Public name -> (module, name in it): what the imports above tell a type checker.
_HOMES = {
    "Cell": ("rnnlab.types", "Cell"),
    "FlaxCell": ("rnnlab.models.interop", "FlaxCell"),
    "Model": ("rnnlab.types", "Model"),
    "Probe": ("rnnlab.types", "Probe"),
    "RnnlabError": ("rnnlab.errors", "RnnlabError"),
    "Task": ("rnnlab.types", "Task"),
    "UsageError": ("rnnlab.errors", "UsageError"),
    "beam_search": ("rnnlab.models.sample", "beam_search"),
    "build": ("rnnlab.train.from_config", "build"),
    "cell": ("rnnlab.cells", "get"),
    "clip": ("rnnlab.train.optim", "clip"),
    "fit": ("rnnlab.train.session", "fit"),
    "from_flax": ("rnnlab.models.interop", "from_flax"),
    "from_torch": ("rnnlab.models.interop", "from_torch"),
    "generate": ("rnnlab.models.sample", "generate"),
    "global_norm": ("rnnlab.train.optim", "global_norm"),
    "gradient_flow": ("rnnlab.diagnose.flow", "measure"),
    "load_config": ("rnnlab.run.config", "load"),
    "open_run": ("rnnlab.train.saved", "open_run"),
    "stack": ("rnnlab.models.stack", "stack_cells"),
    "to_flax": ("rnnlab.models.interop", "to_flax"),
    "to_torch": ("rnnlab.models.interop", "to_torch"),
    "unroll": ("rnnlab.recurrence.unrolling", "unroll"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rnnlab' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    found = getattr(importlib.import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
