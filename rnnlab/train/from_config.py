"""From a config to what it describes: the task, the optimiser, the devices it asks for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnlab import tasks
from rnnlab.errors import UsageError
from rnnlab.run.config import flat, load
from rnnlab.run.limits import validate
from rnnlab.train import memory, optim
from rnnlab.types import Config, Task


def build(
    config: Config | str | Path, kept: Path | None = None, run: Path | None = None
) -> tuple[Task, optim.Optimiser]:
    """The task and the optimiser of a config, every value checked.

    config: a ConfigDict, or the path of a config file. kept: the folder of a run, which has what its
        task needs of the data; None: from the data itself. run: the folder of a run that is gone on
        with, whose copies of the data stand in for what has gone.

    Raises UsageError, in one line, for whatever does not fit; nothing is written.
    """
    if isinstance(config, str | Path):
        config = load(config)
    validate(config)
    with _fitting(config):
        if kept is None:  # what is only read from may have been trained on a larger machine
            memory.check_rows(config)
        return _build(config, kept, run)


@contextlib.contextmanager
def _fitting(config: Any) -> Iterator[None]:
    """What the parts say of a config that no experiment here could have, as UsageError."""
    try:
        yield
    except MemoryError as error:
        raise UsageError(memory.advice(error, config)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A key too many or too few: parts take their share of the config as named arguments.
        raise UsageError(
            "the config does not fit: " + str(error).strip("\"'").split("\n")[0]
        ) from error
    except (OverflowError, RecursionError) as error:
        values = flat(config)
        largest = sorted(
            (key for key, v in values.items() if isinstance(v, int) and key != "seed"),
            key=lambda key: -values[key],
        )
        shown = ", ".join(f"{key}={values[key]}" for key in largest[:3])
        raise UsageError(f"a size in the config is too large; the largest are {shown}") from error


def _build(config: Config, kept: Path | None, run: Path | None) -> tuple[Task, optim.Optimiser]:
    average_decay = config.optim.ema
    if not 0 <= average_decay < 1:
        raise UsageError(f"optim.ema must be in [0, 1), got {average_decay}")
    optimiser = build_optimiser(config, {})
    return tasks.make_task(config, kept, run), optimiser


def build_optimiser(config: Config, values: dict[str, Any]) -> optim.Optimiser:
    """The optimiser of a config, with `values` (see `optim.TRACED`) in place of its own."""
    options = {**config.optim, **values}
    del options["ema"], options["reduction"], options["omega"]
    schedule = optim.schedule(
        kind=options.pop("schedule"),
        steps=config.train.steps,
        **{
            name: options.pop(name)
            for name in (
                "learning_rate",
                "warmup_steps",
                "final_fraction",
                "decay_every",
                "decay_factor",
            )
        },
    )
    return optim.make_optimiser(schedule=schedule, **options)


def device_request(config: Config) -> dict[str, Any]:
    """The arguments of `parallel.choose_split` and `parallel.host_devices`.

    Raises UsageError for a config that lacks them.
    """
    with _fitting(config):
        return {
            "requested": config.parallel.devices,
            "batch": config.train.batch_size,
            "whole": config.optim.omega > 0,
        }
