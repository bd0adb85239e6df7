"""Successive halving: the members with the highest losses stop at set steps, the others go on."""

import math
from collections.abc import Callable

from rnnlab.run.files import read_rows, write_json
from rnnlab.sweep.members import Group, Sweep, read_summary


def rungs(sweep: Sweep) -> list[int]:
    """The steps at which members wait for each other, the last one included.

    With eta = `halving` (Jamieson and Talwalkar 2016): at S / eta^k steps of S, for every k for
    which more than one member would be left, the 1/eta of those with the lowest validation loss
    there go on, rounded up, and the others stop.
    """
    steps = sweep.members[0].config.train.steps
    found, left, k = [steps], len(sweep.members), 1
    while sweep.halving and left > 1 and steps // sweep.halving**k >= 1:
        found.append(steps // sweep.halving**k)
        left, k = -(-left // sweep.halving), k + 1
    return found[::-1]


def without_stopped(sweep: Sweep, group: Group) -> Group:
    """The group without the members that halving has stopped."""
    kept = [
        (member, task)
        for member, task in zip(group.members, group.tasks, strict=True)
        if "stopped_at" not in (read_summary(sweep, member) or {})
    ]
    return Group(tuple(m for m, _ in kept), tuple(t for _, t in kept))


def stop_worst(sweep: Sweep, rung: int, say: Callable[[str], None]) -> None:
    """Stop all but the best of those that have come to this rung. What has been stopped before an
    interruption does not count less: the choice comes out the same."""
    if rung >= sweep.members[0].config.train.steps:
        return
    reached: dict[str, float] = {}
    for member in sweep.members:
        path = sweep.path(member) / "metrics.jsonl"
        for row in read_rows(path) if path.exists() else []:
            if row["split"] == "valid" and row["step"] == rung:
                reached[member.name] = float(row["loss"])
    # NaN has no place in an order: what is not finite comes last.
    order = sorted(reached, key=lambda n: (not math.isfinite(reached[n]), reached[n], n))
    best = set(order[: -(-len(order) // sweep.halving)])
    stopped = 0
    for member in sweep.members:
        if (
            member.name in reached
            and member.name not in best
            and read_summary(sweep, member) is None
        ):
            path = sweep.path(member) / "summary.json"
            found = {"valid_loss": reached[member.name], "valid_step": rung, "steps": rung}
            write_json(path, found | {"stopped_at": rung})
            stopped += 1
    if stopped:
        say(f"step {rung}: {len(best)} of {len(order)} members go on, the best {order[0]}")
