"""The model that a config asks for, by its part `config.model`."""

import functools
from typing import Any

from rnnlab.errors import UsageError
from rnnlab.models.stack import stack_cells
from rnnlab.run.config import flat
from rnnlab.types import Config, Model

# Keys of `config.model`. Those that touch the initial values alone, so that models which differ in
# them are one program; and the rates that may be JAX scalars, traced or not: these go unchecked and
# count as greater than 0.
INITIAL = (
    "readout_init",
    "options.kernel_x_init",
    "options.kernel_h_init",
    "options.bias_init",
    "options.init_per_gate",
    "options.gate_bias",
)
RATES = ("dropout", "input_dropout", "output_dropout")


def model_of(
    config: Config,
    *,
    input_size: int,
    output_size: int,
    real: bool = False,
    future: bool = False,
    values: dict[str, Any] | None = None,
) -> Model:
    """The model of `config.model` from inputs to outputs of these sizes.

    real: the inputs are real vectors and not symbols; `model.input` "auto" follows it. values: take
    the place of the config's own, by dotted key. future: the outputs may depend on later inputs.
    Raises UsageError for what does not fit together, and for a model that sees a future it must not.
    """
    chosen = flat(config.model) | {
        key.removeprefix("model."): value for key, value in (values or {}).items()
    }
    return _made(input_size, output_size, real, future, chosen)


def model_to_read(
    config: Config, *, input_size: int, output_size: int, real: bool = False, future: bool = False
) -> Model:
    """The model of `model_of` where it is only read from, so that its initial values and dropout
    do not matter: the same one for all configs whose programs are the same, so that what is compiled
    for it serves the many members of a sweep."""
    aside = (*INITIAL, *RATES)
    chosen = {key: value for key, value in flat(config.model).items() if key not in aside}
    return _to_read(input_size, output_size, real, future, tuple(chosen.items()))


@functools.lru_cache(maxsize=16)
def _to_read(
    input_size: int,
    output_size: int,
    real: bool,
    future: bool,
    chosen: tuple[tuple[str, Any], ...],
) -> Model:
    return _made(input_size, output_size, real, future, dict(chosen))


def _made(
    input_size: int, output_size: int, real: bool, future: bool, chosen: dict[str, Any]
) -> Model:
    options = {key: value for key, value in chosen.items() if value is not None}
    cell_options = {
        key.removeprefix("options."): options.pop(key)
        for key in [*options]
        if key.startswith("options.")
    }
    if options["input"] == "auto":
        options["input"] = "dense" if real else "one_hot"
    if (options["input"] == "dense") != real:
        kinds = ("real vectors", "'dense'") if real else ("symbols", "'one_hot' or 'embedding'")
        raise UsageError(
            f"model.input is '{options['input']}', and what the task reads are {kinds[0]}: set it to "
            f"{kinds[1]}, or to 'auto'"
        )
    made = stack_cells(
        input_size=input_size, output_size=output_size, cell_options=cell_options, **options
    )
    if not (made.causal or future):
        raise UsageError("the model must not see the future: set model.bidirectional to False")
    return made
