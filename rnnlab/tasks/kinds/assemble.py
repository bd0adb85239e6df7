"""What all tasks share whose network is built of `config.model`: its losses, names and rates."""

from collections.abc import Callable
from typing import Any

from rnnlab.models import configured
from rnnlab.types import Config, Task

Layers = tuple[tuple[str, str], ...]  # (layer, shape) rows


def assemble(
    config: Config,
    *,
    loss_of: Callable[[dict[str, Any]], Callable[..., Any]],
    layers: Layers,
    fingerprint: dict[str, Any] | None = None,
    **fields: Any,
) -> Task:
    """The `Task` of these fields, with those that follow from `config.model`.

    loss_of: (values) -> the loss, with `values` in place of the config's own, by dotted key.
    layers: of the network, which a checkpoint must agree with; fingerprint: what else it must agree
        with, by name.
    """
    own = {"task": config.task, "cell": config.model.cell}
    return Task(
        loss=loss_of({}),
        loss_of=loss_of,
        initial=tuple(f"model.{key}" for key in configured.INITIAL),
        rates=tuple(f"model.{key}" for key in configured.RATES),
        layers=layers,
        fingerprint={**own, **(fingerprint or {}), **dict(layers)},
        **fields,
    )
