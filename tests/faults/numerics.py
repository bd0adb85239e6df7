"""Numbers that go wrong in the middle of training: NaN and inf at chosen steps, and huge norms.

They are put into a real train step, compiled once, while `train.loop` and a real `Record` train with
it: into the data, the loss, a gradient, the state that a step hands on; and, between two steps, into
the parameters, their average, the optimiser's moments and the carried state, as damaged memory would.
The steps: the first, the last, those of a row, those beside a checkpoint, and the others in turn.

Survived, where the run must stop: DivergedError with exit code 3 at that very step, one line that names
what was not finite; every row before that step and none from it on; the newest checkpoint is the
state before that step to the bit (of a state that was damaged, the last one that was saved); and the
same command, without the fault, comes to the bits and rows of a run that nothing disturbed.
Where steps may be skipped: to the bit the run in which those steps were left out, though interrupted
and resumed on the way, with a warning for each. Of a norm: clipped, the gradient has the direction
and the length that float64 gives it. The whole campaign does it in real processes too.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.run import process as host
from rnnlab.train import optim
from tests.faults._struck import HELD, STEPS, Bench, Strike, members, process
from tests.faults.lab import Lab, Tally

SHORT = 0.03
WORDS = ("the parameter", "the average of", "the optimiser's", "the carried state")
FIRST = (5, 16, 1, 8, 6, 9, 4, 13)  # to begin with: rows at 4, 8 ...; checkpoints at 5, 8 ...


def steps_of(lab: Lab, count: int) -> list[int]:
    """`count` steps to strike at."""
    others = [n for n in range(1, STEPS + 1) if n not in FIRST]
    lab.random.shuffle(others)
    order = [*FIRST, *others]
    return [order[i % STEPS] for i in range(count)]


def campaign(lab: Lab, share: float) -> Iterator[Tally]:
    """The rows of the table."""
    if not jax.config.jax_compilation_cache_dir:  # the tests have one
        host.keep_compiled(lab.cache / "compiled")
    many = lab.many(32, share)
    bench = Bench(lab)
    yield from stops(lab, bench, many)
    yield from state_damaged(lab, bench, many)
    yield large(lab, bench, many)
    yield clips(lab, many)
    yield from skips(lab, Bench(lab, "train.skip_faults=3"), many, "")
    if share <= SHORT:  # what compiles more programs, or starts processes
        return
    if jax.local_device_count() > 1:
        two = Bench(lab, "train.skip_faults=3", "parallel.devices=2", "model.dropout=0")
        yield from skips(lab, two, many, ", over two devices")
    yield in_data(lab, many)
    yield members(lab, lab.many(12, share))
    yield process(lab, lab.many(4, share))


def stops(lab: Lab, bench: Bench, many: int) -> Iterator[Tally]:
    carried = [n for n in bench.quantities if n.startswith("the carried state")]
    gradients = [n for n in bench.quantities if n.startswith("the gradient of")]
    kinds = (
        ("the loss", "loss", ["the loss"]),
        ("a gradient", "gradient", gradients),
        ("the state a step hands on", "after", carried),
    )
    for words, what, told in kinds:
        row = Tally(f"NaN or inf in {words}: the run stops")
        for n, step in enumerate(steps_of(lab, many)):
            hit = Strike(what, 1 + n % 3, n % len(told))
            said = f"{told[hit.leaf]} is not finite ("
            row.count("stopped", bench.stopped(step, hit, said, n % 2 == 1))
        yield row


def state_damaged(lab: Lab, bench: Bench, many: int) -> Iterator[Tally]:
    told = dict(zip(HELD, WORDS, strict=True))
    for what, words in told.items():
        row = Tally(f"NaN or inf in the {what} between two steps: the run stops")
        for n, step in enumerate(steps_of(lab, many)):
            said = f"before that step {words} "
            if what == "carry":  # a run begins with a state of zero, whatever was carried
                step = max(step, 2)
            row.count("stopped", bench.stopped(step, Strike(what, 1 + n % 3, n), said, n % 2 == 1))
        yield row


def in_data(lab: Lab, many: int) -> Tally:
    row = Tally("NaN or inf in the data, three steps a dispatch: the run stops")
    numbers = (
        *(f"train.steps={STEPS}", "train.window=6", "train.batch_size=4", "train.log_every=4"),
        *("train.eval_every=8", "train.checkpoint_every=5", "train.sample_every=0"),
        *("model.hidden=6", "eval.sequences=8", "eval.chunk=8", "eval.lengths=()"),
        "train.steps_per_dispatch=3",
    )
    bench = Bench(lab, *numbers, experiment="experiments/adding.py")
    for n, step in enumerate(steps_of(lab, many)):
        hit = Strike("data", 1 + n % 3)
        said = "neither is inputs in its batch"
        row.count("stopped", bench.stopped(step, hit, said, n % 2 == 1))
    return row


def large(lab: Lab, bench: Bench, many: int) -> Tally:
    """A gradient times 2^66 to 2^123 at each of the last steps of a run, which Adam must not notice."""
    row = Tally(
        "gradient norms of 1e19 to 1e37 while training, clipped: the run goes on as without"
    )
    for _ in range(many):
        power, begin = lab.random.randrange(66, 124), lab.random.randrange(1, STEPS)
        workdir = lab.place("large")
        ended = bench.go(workdir, {n: Strike("norm", power) for n in range(begin, STEPS + 1)})
        row.count("trained", str(ended.error or "") or bench.near(workdir, power))
    return row


def clips(lab: Lab, many: int) -> Tally:
    """Each kind of clip on gradients of any magnitude, beside float64."""
    row = Tally("gradient norms of 1e-30 to 1e38, each kind of clipping: direction and length")
    draw = np.random.default_rng(lab.random.randrange(2**32))

    def one(kind):
        def clipped(grads, params, threshold):
            rule = optim.clip(kind, threshold)
            return rule.update(grads, rule.init(params), params)

        return jax.jit(clipped)

    rules = {kind: one(kind) for kind in ("global_norm", "soft", "per_layer", "value")}
    shapes = {"layers": [(5, 8), (3,)], "readout": (4, 4)}
    for n in range(many * 20):
        kind = list(rules)[n % len(rules)]
        scale, threshold = 10.0 ** draw.uniform(-30, 37.5), 10.0 ** draw.uniform(-3, 3)
        grads = jax.tree.map(
            lambda shape, scale=scale: (draw.normal(size=shape) * scale).astype(np.float32),
            shapes,
            is_leaf=lambda x: isinstance(x, tuple),
        )
        params = jax.tree.map(np.ones_like, grads)
        after, seen = rules[kind](grads, params, jnp.float32(threshold))
        row.count(kind, wrong_clip(kind, grads, after, float(seen.norm), np.float32(threshold)))
    return row


def wrong_clip(kind, grads, after, norm, threshold) -> str:
    def length(tree):
        return math.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree)))

    def by(tree):
        size = length(tree)
        if kind == "soft":
            return threshold / (threshold + size)
        return min(1.0, threshold / size)

    parts = [(grads, after)]
    if kind == "per_layer":
        parts = [(grads["readout"], after["readout"])]
        parts += list(zip(grads["layers"], after["layers"], strict=True))
    if not math.isclose(norm, length(grads), rel_tol=1e-5):
        return f"{kind}: the norm of {length(grads)} was {norm}"
    for one, other in parts:
        for g, a in zip(*map(jax.tree.leaves, (one, other)), strict=True):
            wanted = np.clip(np.float64(g), -threshold, threshold)
            if kind != "value":
                wanted = np.float64(g) * by(one)
            if not np.allclose(a, wanted, rtol=1e-4, atol=1e-37):
                return f"{kind} at {threshold}: {a.ravel()[:3]}, not {wanted.ravel()[:3]}"
    return ""


def skips(lab: Lab, bench: Bench, many: int, where: str) -> Iterator[Tally]:
    row = Tally(
        f"NaN or inf in loss, gradient or state, 1 to 3 steps of which may be skipped{where}"
    )
    kinds = (("gradient", bench.leaves), ("loss", 1), ("after", bench.carries))

    def strikes(count: int, first: int) -> dict[int, Strike]:
        struck = {first, *lab.random.sample(range(1, STEPS + 1), STEPS)[: count - 1]}
        while len(struck) < count:
            struck.add(lab.random.randrange(1, STEPS + 1))
        found = {}
        for step in sorted(struck):
            what, leaves = lab.random.choice(kinds)
            found[step] = Strike(what, lab.random.randrange(1, 4), lab.random.randrange(leaves))
        return found

    for n, step in enumerate(steps_of(lab, many)):
        row.count(
            "left out", bench.skipped(strikes(1 + n % 3, step), lab.random.randrange(1, STEPS))
        )
    # All steps between two rows.
    whole = {n: Strike("loss", 1) for n in (10, 11, 12)}
    row.count("left out", bench.skipped(whole, 11))
    yield row
    row = Tally(f"one more than may be skipped{where}: the run stops")
    for step in steps_of(lab, many):
        row.count("stopped", bench.exceeded(strikes(4, step)))
    yield row
