"""A compiled run that chosen steps of strike with numbers gone wrong; see numbers.py.

The faults are in a wrapped task and in the crew that `run_steps` trains: the product knows nothing of
them.
"""

import contextlib
import math
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.errors import DivergedError, Interrupted
from rnnlab.run import checkpoint
from rnnlab.run import config as configuration
from rnnlab.run.display import Display
from rnnlab.run.files import read_json, read_rows
from rnnlab.sweep import population
from rnnlab.train import parallel
from rnnlab.train.faults import quantities
from rnnlab.train.from_config import build
from rnnlab.train.loop import run_steps
from rnnlab.train.record import Record
from rnnlab.train.single import Single
from rnnlab.train.state import TOLD, configured_state
from tests.faults import lab as common
from tests.faults.lab import Lab, Tally, differences
from tests.support import ROOT

STEPS = 16
SMALL = (
    f"train.steps={STEPS}",
    "train.log_every=4",
    "train.eval_every=8",
    "train.checkpoint_every=5",
    "train.sample_every=0",
    "data.forget=0",
    "train.batch_size=4",
    "train.window=6",
    "model.layers=1",
    "model.hidden=6",
    "model.dropout=0.2",
    "optim.warmup_steps=3",
    "optim.clip_norm=0.05",  # binds at each step
    "eval.random_windows=4",
)
VALUES = (0.0, math.nan, math.inf, -math.inf)


class Strike(NamedTuple):
    """A fault: in what, which of VALUES, and in which leaf of it. Of "norm", the value is the power of
    2 that the gradient is multiplied by."""

    what: str
    value: int = 1
    leaf: int = 0


HELD = ("params", "average", "optimiser", "carry")  # between two steps, in the state
NONE = dict.fromkeys(("loss", "gradient", "norm", "after", "leaf"), np.int32(0))


@jax.custom_vjp
def through(x, added, factor):
    """x itself, whose gradient goes wrong."""
    return x


through.defvjp(
    lambda x, added, factor: (x, (added, factor)),
    lambda kept, g: (g * kept[1] + kept[0], jnp.zeros(()), jnp.ones(())),
)


def struck(task, strikes: dict[int, Strike]):
    """The task, at whose steps in `strikes` something goes wrong. What a batch says of it is in whole
    numbers: the batch is all right."""

    def batch(step):
        found, told = task.batch(step), dict(NONE)
        hit = strikes.get(step + 1)
        if hit is not None and hit.what == "data":
            found = {**found, "inputs": found["inputs"].copy()}
            found["inputs"][2, 1, 0] = VALUES[hit.value]
        elif hit is not None and hit.what not in HELD:
            told |= {hit.what: np.int32(hit.value), "leaf": np.int32(hit.leaf)}
        return {**found, "strike": told}

    def loss(params, carry, batch, key, **options):
        told, values = batch["strike"], jnp.asarray(VALUES, jnp.float32)
        leaves, tree = jax.tree.flatten(params)
        added, factor = values[told["gradient"]], jnp.exp2(told["norm"].astype(jnp.float32))
        leaves = [
            through(leaf, jnp.where(told["leaf"] == i, added, 0.0), factor)
            for i, leaf in enumerate(leaves)
        ]
        rest = {name: value for name, value in batch.items() if name != "strike"}
        after, sums = task.loss(jax.tree.unflatten(tree, leaves), carry, rest, key, **options)
        kept, tree = jax.tree.flatten(after)
        kept = [
            k + jnp.where(told["leaf"] == i, values[told["after"]], 0.0) for i, k in enumerate(kept)
        ]
        total, count = sums["loss"]
        return jax.tree.unflatten(tree, kept), {"loss": (total + values[told["loss"]], count)}

    return task._replace(batch=batch, loss=loss)


def rows(workdir: Path) -> list[dict]:
    """The rows of a run without its times and rates."""
    return [
        {k: v for k, v in row.items() if not k.endswith("_per_second")}
        for row in common.rows(workdir)
    ]


def large(tree: Any) -> list[int]:
    """The places of the leaves that are arrays of numbers with a fraction."""
    leaves = jax.tree.leaves(tree)
    return [i for i, x in enumerate(leaves) if x.ndim and jnp.issubdtype(x.dtype, jnp.inexact)]


def damaged(state, hit: Strike):
    """The state with one number of it gone wrong."""
    leaves, tree = jax.tree.flatten(getattr(state, hit.what))
    places = large(leaves)
    at = places[hit.leaf % len(places)]
    leaves[at] = leaves[at].at[(0,) * leaves[at].ndim].set(VALUES[hit.value])
    return state.replace(**{hit.what: jax.tree.unflatten(tree, leaves)})


def bits(state) -> dict[str, bytes]:
    """All that the next step depends on, by its path."""
    plain = state.replace(key=jax.random.key_data(state.key), fault={})
    found = jax.tree_util.tree_leaves_with_path(plain)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in found}


class Quiet(Record):
    """Without figures, which take as long as the run; what it has saved."""

    def __init__(self, config: Any, workdir: Path, *rest: Any, **options: Any):
        self.saves: list[int] = []
        workdir.mkdir(parents=True, exist_ok=True)
        super().__init__(config, workdir, *rest, **options)

    def draw(self):
        return read_rows(self.workdir / "metrics.jsonl")

    def save(self, step, state):
        self.saves.append(step)
        super().save(step, state)


class Told(Display):
    """Keeps the warnings."""

    def __init__(self):
        super().__init__(STEPS, "char", quiet=True)
        self.warnings: list[str] = []

    def warn(self, text):
        self.warnings.append(text)


class Crew(Single):
    """Meets its strikes; stops after step `stop`."""

    strikes: dict[int, Strike]
    stop, done = STEPS + 1, 0

    def advance(self, done, most):
        ahead = [n - 1 for n, hit in self.strikes.items() if hit.what in HELD and n > done + 1]
        ahead += [self.stop] if self.stop > done else []  # a group would go past it
        hit = self.strikes.get(done + 1)
        if hit is not None and hit.what in HELD:
            self.current = damaged(self.current, hit)
        report, self.done = super().advance(done, min([most, *ahead]))
        return report, self.done


class Bench:
    """A compiled run to be struck, and what it is when nothing strikes it."""

    def __init__(self, lab: Lab, *changes: str, experiment: str = ""):
        if experiment:
            settings = configuration.load(str(ROOT / experiment), list(changes))
        else:
            settings = lab.config(*SMALL, *changes)
        self.lab, self.settings = lab, settings
        self.strikes: dict[int, Strike] = {}
        task, self.optimiser = build(settings)
        self.task = struck(task, self.strikes)
        self.crew = Crew(settings, self.task, self.optimiser, self.received)
        self.crew.strikes = self.strikes
        self.state = configured_state(settings, self.task, self.optimiser)
        self.quantities = quantities(self.state)
        self.leaves = len(jax.tree.leaves(self.state.params))
        self.carries = len(jax.tree.leaves(self.state.carry))
        self.at = self.walk(())
        self.straight = lab.place("struck")
        told = self.go(self.straight, {})
        assert told.error is None
        self.saves, self.rows = told.saves, rows(self.straight)
        assert self.newest(self.straight) == (STEPS, self.at[STEPS])

    def received(self):
        return signal.SIGTERM if self.crew.done >= self.crew.stop else None

    def walk(self, without: tuple[int, ...]) -> list[dict[str, bytes]]:
        """The bits after each step, those `without` left out, by the same program."""
        state = parallel.place_state(
            self.crew.split, configured_state(self.settings, self.task, self.optimiser)
        )
        found = [bits(state)]
        self.strikes.clear()
        for n in range(STEPS):
            batch = self.task.batch(n)
            if n + 1 not in without:
                state, _ = self.crew.program(state, [batch] if self.crew.group > 1 else batch)
            else:
                if n % self.settings.train.log_every == 0:
                    state = state.replace(tally=jax.tree.map(jnp.zeros_like, state.tally))
                state = state.replace(step=state.step + 1)
            found.append(bits(state))
        return found

    def go(self, workdir: Path, strikes: dict[int, Strike], stop: int = STEPS + 1) -> "Ended":
        """Train, or go on; what came of it."""
        self.strikes.clear()
        self.strikes.update(strikes)
        self.crew.stop, self.crew.done, display, error = stop, 0, Told(), None
        with Quiet(
            self.settings,
            workdir,
            self.task,
            self.optimiser,
            display,
            overrides=[],
            split=self.crew.split.name,
            started=time.monotonic(),
        ) as record:
            self.crew.begin(record)
            try:
                run_steps(self.crew, self.settings.train, display=display, again="the same")
                record.finish(STEPS, self.crew.params(0))
            except (DivergedError, Interrupted) as ended:
                error = ended
        return Ended(error, record.saves, display.warnings)

    def newest(self, workdir: Path) -> tuple[int, dict[str, bytes]]:
        """(step, bits) of the newest checkpoint, which must be whole; (0, those of the start)."""
        root = workdir / "checkpoints"
        fingerprint = self.task.fingerprint
        found = checkpoint.restore(root, self.state, fingerprint=fingerprint, warn=failing)
        return (found[1]["step"], bits(found[0])) if found else (0, self.at[0])

    def stopped(self, step: int, hit: Strike, told: str, resumed: bool = False) -> str:
        """What is wrong with a run that is struck at a step, which `told` says what it is of.
        resumed: it begins at that step, having been interrupted before it."""
        workdir, before = self.lab.place("struck"), self.saves
        if resumed and step > 1:
            before = [*before, *self.go(workdir, {}, step - 1).saves]
        ended = self.go(workdir, {step: hit})
        kept = step - 1
        if hit.what in HELD:
            kept = max([s for s in before if s < step], default=0)
        if wrong := self.wrong(ended.error, step, told):
            return wrong
        if rows(workdir) != [row for row in self.rows if row["step"] < step]:
            return f"the rows are not those before step {step}"
        summary = read_json(workdir / "summary.json")
        if (summary["diverged_at"], summary["steps"]) != (step, step - 1):
            return f"summary.json says {summary}"
        if (found := self.newest(workdir))[0] != kept:
            return f"the newest checkpoint is of step {found[0]}, not {kept}"
        if found[1] != self.at[kept]:
            return f"the checkpoint of step {kept} is another state"
        if step > 8 and not checkpoint.metrics(workdir / "checkpoints"):
            return "the best checkpoint has lost its loss"
        ended = self.go(workdir, {})
        if ended.error is not None:
            return f"it did not go on: {ended.error}"
        if rows(workdir) != self.rows or self.newest(workdir) != (STEPS, self.at[STEPS]):
            return "going on, it came to another end"
        return ""

    def wrong(self, error: Any, step: int, *told: str) -> str:
        if not isinstance(error, DivergedError) or error.exit_code != 3:
            return f"ended with {error!r}"
        said = str(error)
        missing = [word for word in (f"diverged at step {step}: ", *told) if word not in said]
        return f"{missing} is not in: {said}" if missing or "\n" in said else ""

    def skipped(self, strikes: dict[int, Strike], stop: int) -> str:
        """What is wrong with a run that leaves out the steps of its strikes, interrupted at `stop`."""
        workdir, steps = self.lab.place("skipping"), sorted(strikes)
        every = self.settings.train.log_every
        ended = self.go(workdir, strikes, stop)
        warnings = ended.warnings
        if stop < STEPS:
            if not isinstance(ended.error, Interrupted):
                return f"it was not interrupted: {ended.error!r}"
            ended = self.go(workdir, strikes)
            warnings += ended.warnings
        if ended.error is not None:
            return f"ended with {ended.error!r}"
        at, (step, state) = self.walk(tuple(steps)), self.newest(workdir)
        count, last = np.int32(len(steps)).tobytes(), np.zeros(TOLD, np.int32)
        last[: len(steps)] = steps
        other = [k for k in state if state[k] != at[STEPS][k] and not k.startswith(".skips")]
        if step != STEPS or other:
            return f"not the run that left these steps out: {other}"
        if (state[".skips['count']"], state[".skips['steps']"]) != (count, last.tobytes()):
            return "the state has another count of skipped steps"
        if [w.split()[1] for w in warnings] != [str(s) for s in steps]:
            return f"it warned of {warnings}"
        logged = [row for row in rows(workdir) if row["split"] == "train"]
        if [row["step"] for row in logged] != list(range(every, STEPS + 1, every)):
            return "a row is missing, or there twice"
        for row in logged:
            loss, count = (
                np.frombuffer(at[row["step"]][f".tally['{name}']"], np.float32)[0].item()
                for name in ("loss", "count")
            )
            if row["loss"] != (loss / count if count else "nan"):
                return f"the row of step {row['step']} has another loss"
            if row["skipped"] != sum(s <= row["step"] for s in steps):
                return f"the row of step {row['step']} has another count of skipped steps"
        if read_json(workdir / "summary.json")["skipped"] != len(steps):
            return "summary.json has another count of skipped steps"
        return ""

    def near(self, workdir: Path, power: int) -> str:
        """How the end of a run whose gradients were huge differs from the straight one's; "" if not
        by more than rounding does."""
        _, state = self.newest(workdir)
        for name, wanted in self.at[STEPS].items():
            if name.startswith((".params", ".average")):
                a, b = (np.frombuffer(x, np.float32) for x in (state[name], wanted))
                if not np.allclose(a, b, rtol=1e-3, atol=1e-5):
                    return f"{name} is off by {np.abs(a - b).max()}"
        largest = max(float(r["grad_norm_max"]) for r in rows(workdir) if r["split"] == "train")
        if not math.isfinite(largest) or largest < 2.0 ** (power - 6):
            return f"the largest norm in its rows is {largest}"
        return ""

    def exceeded(self, strikes: dict[int, Strike]) -> str:
        """What is wrong with a run that has more strikes than it may skip."""
        workdir, steps = self.lab.place("skipping"), sorted(strikes)
        ended, last = self.go(workdir, strikes), steps[-1]
        before = ", ".join(map(str, steps[:-1]))
        told = f"{len(steps) - 1} of {len(steps) - 1} steps had been skipped before: {before}"
        if wrong := self.wrong(ended.error, last, told):
            return wrong
        at, (step, state) = self.walk(tuple(steps[:-1])), self.newest(workdir)
        other = [k for k in state if state[k] != at[last - 1][k] and not k.startswith(".skips")]
        if step != last - 1 or other:
            return f"step {step} is kept, with another {other}"
        summary = read_json(workdir / "summary.json")
        if (summary["diverged_at"], summary["skipped"]) != (last, len(steps) - 1):
            return f"summary.json says {summary}"
        return ""


class Ended(NamedTuple):
    """How a run went."""

    error: Exception | None
    saves: list[int]
    warnings: list[str]


def failing(text: str) -> None:
    raise AssertionError(text)


def members(lab: Lab, many: int) -> Tally:
    """Members of one program, each struck at steps of its own, each with a budget of its own."""
    row = Tally("NaN or inf in members of a sweep in one program: each skips, or stops, by itself")
    budget, count = 2, 3
    settings = [lab.config(*SMALL, "train.skip_faults=2", f"seed={seed}") for seed in range(count)]
    strikes: list[dict[int, Strike]] = [{} for _ in settings]
    built = [build(one) for one in settings]
    tasks = [struck(task, mine) for (task, _), mine in zip(built, strikes, strict=True)]
    crew = population.Population(settings, tasks, jax.local_devices()[:1], lambda: None)
    crew.compile()

    def go(workdir: Path) -> list[Any]:
        with contextlib.ExitStack() as stack:
            records = [
                stack.enter_context(
                    Quiet(
                        *(one, workdir / str(i), tasks[i], built[i][1], Told()),
                        overrides=[],
                        split=crew.name,
                        started=time.monotonic(),
                    )
                )
                for i, one in enumerate(settings)
            ]
            crew.begin(records, Told())
            with contextlib.suppress(DivergedError):
                run_steps(crew, settings[0].train, display=Told(), again="the same")
            return [bits(crew.state(i)) for i in range(count)]

    def walk() -> list[dict[str, bytes]]:
        """The members' bits by the same program, their struck steps left out by hand."""
        hit = [sorted(mine) for mine in strikes]
        for mine in strikes:
            mine.clear()
        crew.begin([Start(crew._initial(i)) for i in range(count)], Told())
        for n in range(STEPS):
            before = [crew.state(i) for i in range(count)]
            crew.advance(n, STEPS)
            after = [crew.state(i) for i in range(count)]
            for i in range(count):
                if n + 1 in hit[i][:budget]:
                    tally = before[i].tally
                    if n % settings[0].train.log_every == 0:
                        tally = jax.tree.map(jnp.zeros_like, tally)
                    after[i] = before[i].replace(step=before[i].step + 1, tally=tally)
                elif len(hit[i]) > budget and n + 1 >= hit[i][budget]:
                    after[i] = before[i]
            crew.begin([Start(state) for state in after], Told())
        return [bits(crew.state(i)) for i in range(count)]

    for _ in range(many):
        hits = []
        for i, mine in enumerate(strikes):
            # None; as many as may be; one more.
            steps = lab.random.sample(range(1, STEPS + 1), (0, budget, budget + 1)[i])
            mine.update({n: Strike("gradient", lab.random.randrange(1, 4)) for n in steps})
            hits.append(sorted(mine))
        workdir = lab.place("members")
        found, wanted = go(workdir), walk()
        problem = ""
        for i in range(count):
            other = [
                k for k in found[i] if found[i][k] != wanted[i][k] and not k.startswith(".skips")
            ]
            if other:
                problem = f"member {i}, struck at {hits[i]}: another {other}"
        summary = workdir / "2" / "summary.json"
        if not summary.exists() or read_json(summary)["diverged_at"] != hits[2][-1]:
            problem = problem or f"member 2 did not stop at {hits[2][-1]}"
        row.count("each by itself", problem)
    return row


class Start:
    """A record that only hands over a state."""

    def __init__(self, state):
        self.state = state

    def take_state(self):
        return self.state


# Run in place of launch.py: the loss of one step, found by its number in the batch, is not finite.
PROGRAM = """
import sys
import jax.numpy as jnp
import numpy as np
from rnnlab import tasks
import launch
make = tasks.make_task
def struck(config, kept=None, run=None):
    task = make(config, kept, run)
    def batch(n):
        return {**task.batch(n), "bad": np.float32(VALUE if n + 1 == STEP else 0)}
    def loss(params, carry, batch, key, **options):
        carry, sums = task.loss(params, carry, batch, key, **options)
        return carry, {"loss": (sums["loss"][0] + batch["bad"], sums["loss"][1])}
    return task._replace(batch=batch, loss=loss)
tasks.make_task = struck
sys.exit(launch.main(sys.argv[1:]))
"""


def process(lab: Lab, many: int) -> Tally:
    """A whole process that stops, and the next one, which goes on without the fault."""
    row = Tally("NaN or inf in the loss, in a process of its own: exit code 3; then it goes on")
    for n in range(many):
        step, value = (14, 1, 30, 21)[n % 4], ("nan", "inf")[n % 2]
        program = PROGRAM.replace("VALUE", f"float('{value}')").replace("STEP", str(step))
        workdir = lab.place("process")
        done = lab.run("train", *lab.flags(workdir), program=("-c", program))
        told = f"diverged at step {step}: the loss is not finite"
        problem = done.wrong(3, told, "and neither is bad in its batch")
        if not problem:
            done = lab.run("train", *lab.flags(workdir))
            problem = done.wrong(0) or ", ".join(differences(lab.straight, workdir))
        row.count("stopped, went on", problem)
    return row
