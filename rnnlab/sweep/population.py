"""Many runs as one program: a population that trains in step over a leading axis.

Members may differ in what no program depends on (the seed, the initial values) and in numbers that
it can take as arguments (the clipping threshold, the learning rate, dropout rates ...). The train
step of one run is mapped over them, by `jax.vmap` on a GPU or TPU, which one small run leaves idle,
and in a loop on the cores of a CPU: there that is a third faster at 1 x 64 (B 32, T 64), where the
operands of one member fit a cache, and takes the memory of one. The population is cut over the
devices there are: no member knows of another, so no device waits for one.

    N members    S slots, N rounded up to a multiple of the devices
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run import machine
from rnnlab.run.display import Display
from rnnlab.train import optim
from rnnlab.train.from_config import build_optimiser
from rnnlab.train.record import Record
from rnnlab.train.state import TrainState, configured_state, eval_params
from rnnlab.train.step import TrainStep
from rnnlab.train.watch import wanted
from rnnlab.types import Config, Params, Task

AXIS = "members"
PAUSE = 5.0  # seconds between two lines of progress: rows may be as frequent as steps
AVERAGE = "optim.ema"
OPTIMISER = tuple(f"optim.{name}" for name in optim.TRACED)


def signature(config: Config, task: Task) -> tuple[Any, ...]:
    """What members of one program have in common: the config but for the values that may differ.

    Of a rate only whether it is 0 belongs to the program, which has no masks then; so for the
    decay of the weight average.
    """
    aside = {"seed", "train.init_from", *task.initial, *OPTIMISER}
    switches = {AVERAGE, *task.rates}
    return tuple(
        (key, value > 0 if key in switches else value)
        for key, value in configuration.flat(config).items()
        if key not in aside
    )


def varied(configs: Sequence[Config], task: Task) -> dict[str, np.ndarray]:
    """key -> [N], of the values in which the members differ and that the program takes."""
    rows = [configuration.flat(config) for config in configs]
    keys = (*OPTIMISER, AVERAGE, *task.rates)
    return {
        key: np.array([row[key] for row in rows], np.float64)
        for key in keys
        if len({row[key] for row in rows}) > 1
    }


class Population:
    """The members of one program; a `rnnlab.train.loop.Crew`.

    configs, tasks: of the N members, alike by `signature`. devices: of one host. signal: asked after
        each step for the signal that has come. mapped: "vmap" or "loop"; None for what suits them.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        tasks: Sequence[Task],
        devices: Sequence[Any],
        signal: Callable[[], int | None],
        mapped: str | None = None,
    ):
        if tasks[0].shapes > 1:
            raise UsageError(
                f"the batches have {tasks[0].shapes} lengths (data.buckets), and one program takes one: "
                "set --executor=local, or data.buckets to ()"
            )
        self.signal = signal
        self.mapped = mapped or ("loop" if devices[0].platform == "cpu" else "vmap")
        self.configs, self.tasks = list(configs), list(tasks)
        count = min(len(devices), len(configs))
        self.devices = list(devices[:count])
        self.slots = -(-len(configs) // count) * count  # S
        self.mesh = jax.make_mesh(
            (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=self.devices
        )
        self.values = self._place(
            {key: self._filled(list(row)) for key, row in varied(configs, tasks[0]).items()}
        )
        self.every = configs[0].diagnose.every
        self.compiled: Any = None
        self.watched: Any = None  # the step that looks at its gradients too
        self.host: Any = None  # the state of the last step, as NumPy arrays

    @property
    def name(self) -> str:
        """What a checkpoint records of it: equal names promise equal bits."""
        return f"one of {len(self.configs)} in a program over {len(self.devices)} devices"

    def _filled(self, rows: list[Any]) -> np.ndarray:
        """[N, ...] -> [S, ...]: the last one stands in for the members that are not there."""
        return np.stack(rows + rows[-1:] * (self.slots - len(rows)))

    def _place(self, tree: Any) -> Any:
        sharding = NamedSharding(self.mesh, P(AXIS))
        return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)

    # The program

    def _one(self, watch: str, state: Any, batch: Any, values: dict[str, Any]) -> Any:
        """The train step of one member."""
        config, task = self.configs[0], self.tasks[0]
        rates = {key: value for key, value in values.items() if key in task.rates}
        chosen = {key: values[key] for key in OPTIMISER if key in values}
        pure = TrainStep(
            task.loss_of(rates) if rates else task.loss,
            build_optimiser(config, {k.removeprefix("optim."): v for k, v in chosen.items()}),
            average_decay=values.get(AVERAGE, config.optim.ema),
            reduction=config.optim.reduction,
            log_every=config.train.log_every,
            probe=task.probe,
            omega=config.optim.omega,
            skip=config.train.skip_faults,
            watch=watch,
        )
        return pure.step(state, batch)

    def _all(self, watch: str, state: Any, batch: Any, values: Any) -> Any:
        """The step of all members of one device."""
        one = functools.partial(self._one, watch)
        if self.mapped == "vmap":
            return jax.vmap(one)(state, batch, values)
        return jax.lax.map(lambda member: one(*member), (state, batch, values))

    def compile(self) -> int:
        """Compile the program; the bytes that it takes, of all devices together."""
        self.compiled, size = self._compiled("")
        if self.every:
            self.watched, other = self._compiled(wanted(self.configs[0].diagnose))
            size = max(size, other)
        return size

    def _compiled(self, watch: str) -> tuple[Any, int]:
        spec = P(AXIS)
        mapped = jax.shard_map(
            functools.partial(self._all, watch),
            mesh=self.mesh,
            in_specs=(spec, spec, spec),
            out_specs=(spec, spec),
            check_vma=False,  # no value is the same on two devices
        )
        sharding = NamedSharding(self.mesh, spec)

        def shapes(tree: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((self.slots, *x.shape), x.dtype, sharding=sharding),
                tree,
            )

        state = jax.eval_shape(lambda: self._initial(0))
        batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, self.tasks[0].batch(0)))
        arguments = (shapes(state), shapes(batch), self.values)
        compiled: Any = jax.jit(mapped, donate_argnums=0).lower(*arguments).compile()
        found = compiled.memory_analysis()
        each = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
        return compiled, each * len(self.devices)

    def _initial(self, index: int) -> TrainState:
        config = self.configs[index]
        return configured_state(config, self.tasks[index], build_optimiser(config, {}))

    # The crew

    def begin(self, records: Sequence[Record | None], display: Display) -> None:
        """Take the states over from the records; a slot whose record is None is frozen."""
        self.records, self.display = list(records), display
        self.told = time.monotonic()
        states = []
        for index, record in enumerate(records):
            if record is None:
                state = self._initial(index)
                fault = state.fault | {"step": jnp.ones_like(state.fault["step"])}
                states.append(state.replace(fault=fault))
            else:
                states.append(record.take_state())
        rows = jax.tree.map(lambda *leaves: self._filled(list(leaves)), *map(_split, states))
        self.current, self.host = _joined(self._place(rows)), None

    def advance(self, done: int, most: int) -> tuple[Any, int]:
        """Take one step; (report, its number)."""
        # A batch depends on the seed alone of what may differ.
        seeds = [config.seed for config in self.configs]
        found = {seed: self.tasks[seeds.index(seed)].batch(done) for seed in set(seeds)}
        rows = [found[seed] for seed in seeds]
        batch = self._place(jax.tree.map(lambda *leaves: self._filled(list(leaves)), *rows))
        watch = self.every and (done + 1) % self.every == 0
        program = self.watched if watch else self.compiled
        self.current, report = program(self.current, batch, self.values)
        self.host = None
        return report, done + 1

    def reports(self, report: Any) -> list[dict[str, float]]:
        """See `loop.Crew`."""
        rows = {name: np.asarray(v) for name, v in report.items() if name not in ("seen", "skips")}
        return [
            {name: float(values[i]) for name, values in rows.items()}
            for i in range(len(self.configs))
        ]

    def gradients_seen(self, report: Any) -> list[Any]:
        """See `loop.Crew`."""
        found = jax.tree.map(np.asarray, report["seen"])
        return [jax.tree.map(lambda a, i=i: a[i], found) for i in range(len(self.configs))]

    def signal_caught(self, report: Any) -> int | None:
        """See `loop.Crew`."""
        return self.signal()

    def state(self, index: int) -> TrainState:
        """See `loop.Crew`."""
        if self.host is None:
            self.host = jax.tree.map(np.asarray, _split(self.current))
        return _joined(jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), self.host))

    def params(self, index: int) -> Params:
        """See `loop.Crew`."""
        return eval_params(self.state(index))

    def evaluate(self, indices: list[int]) -> list[dict[str, float]]:
        """See `loop.Crew`. Each device has a share of the members."""

        def share(number: int) -> dict[int, dict[str, float]]:
            with jax.default_device(self.devices[number]):
                own = indices[number :: len(self.devices)]
                return {i: self.tasks[i].evaluate(self.params(i)) for i in own}

        self.state(0)  # so that no two threads make it
        with ThreadPoolExecutor(len(self.devices)) as pool:
            found = {
                k: v for part in pool.map(share, range(len(self.devices))) for k, v in part.items()
            }
        return [found[i] for i in indices]

    def on_logged(self, rows: list[dict[str, Any]]) -> None:
        """See `loop.Crew`: the members' medians, and the sum of their rates, now and then."""
        now = time.monotonic()
        if now < self.told + PAUSE and rows[0]["step"] < self.configs[0].train.steps:
            return
        self.told = now
        rate = f"{self.tasks[0].unit}s_per_second"
        self.display.row(
            {
                **rows[0],
                **{k: statistics.median(row[k] for row in rows) for k in ("loss", "grad_norm")},
                "clipped": statistics.fmean(row["clipped"] for row in rows),
                **({rate: sum(row[rate] for row in rows)} if rate in rows[0] else {}),
            }
        )

    def on_validated(self, step: int) -> None:
        """See `loop.Crew`."""
        there = [r for r in self.records if r is not None and r.measured_at == step]
        losses = {record.workdir.name: record.measured for record in there}
        if losses:
            best = min(losses, key=lambda name: losses[name])
            self.display.say(
                f"step {step:>6}  validation of {len(losses)} members: best {losses[best]:.4f} "
                f"({best}), median {statistics.median(losses.values()):.4f}"
            )


def _split(state: TrainState) -> Any:
    """The state with its key as plain numbers."""
    return state.replace(key=jax.random.key_data(state.key))


def _joined(state: Any) -> TrainState:
    return state.replace(key=jax.random.wrap_key_data(state.key))


def budget(devices: Sequence[Any]) -> float:
    """Bytes that a population may take on these devices, a part left for evaluation."""
    if devices[0].platform == "cpu":
        return 0.7 * machine.available_memory()
    stats = devices[0].memory_stats() or {}
    return 0.8 * len(devices) * stats.get("bytes_limit", float("inf"))
