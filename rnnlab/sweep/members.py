"""A sweep: one config, many members. Declared in a config file, kept in a folder, run, resumed.

    def sweep(add):
        for threshold in (0.1, 1.0, 10.0):
            for seed in range(3):
                add(**{"optim.clip_norm": threshold, "seed": seed})

A sweep's folder holds sweep.json, which says what the members are, and `members/`, in which each
member has a run folder like any other. A config that declares more members than the folder has extends
the sweep; members that it declares no more stay there, and are marked.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run.config_file import open_file
from rnnlab.run.display import warn
from rnnlab.run.files import read_json, write_json
from rnnlab.run.folder import LOCK
from rnnlab.sweep import population
from rnnlab.tasks.kinds.sources import anchored
from rnnlab.train import start
from rnnlab.train.from_config import build
from rnnlab.train.saved import mended_config, saved_config
from rnnlab.types import Config, Task


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder
    changes: dict[str, Any]  # config key -> value, what it adds to the base
    config: Config
    added: int = 0  # how many times the sweep had been extended before it came


class Sweep(NamedTuple):
    """The members, and where they are."""

    folder: Path
    members: tuple[Member, ...]
    unit: str  # of the task: "char" ...
    halving: int  # eta of successive halving, 0 for none
    measure: str = "nats"  # what the loss of the task counts
    left: tuple[Member, ...] = ()  # that the config declares no more

    def path(self, member: Member) -> Path:
        """The member's run folder."""
        return self.folder / "members" / member.name

    def begun(self, member: Member) -> Path | None:
        """Its run folder if it is there."""
        path = self.path(member)
        return path if (path / "config.json").exists() else None


# ---- what the members are


def declare_members(path: str, overrides: list[str]) -> tuple[Member, ...]:
    """The members that a config file declares, each value checked, none built yet.

    overrides: "key=value" for all members.

    Raises UsageError if the file declares no sweep or an empty one, for an unknown key or a value of
    the wrong type, for a member twice, or an override of a key that the sweep sets.
    """
    file = open_file(path)
    rows, base = file.sweep(), configuration.made(file, overrides)
    if not rows:
        raise UsageError(f"the sweep in '{path}' is empty: sweep(add) never calls add")
    fixed = {override.partition("=")[0] for override in overrides}
    members = []
    for number, changes in enumerate(rows):
        for key in changes.keys() & fixed:
            raise UsageError(f"--config.{key} is of no use: the sweep sets it for each member")
        # Made anew, so that a key which refers to another one follows it.
        config = configuration.made(file, overrides, changes) if changes else base
        found = configuration.flat(config)
        values = {key: found[key] for key in changes}
        members.append(Member(_name(number, values), values, config))
    return _distinct(members)


def _distinct(members: Sequence[Member]) -> tuple[Member, ...]:
    seen: dict[Any, str] = {}
    for member in members:
        key = tuple(configuration.flat(member.config).items())
        if key in seen:
            raise UsageError(f"members {seen[key]} and {member.name} of the sweep are the same run")
        seen[key] = member.name
    return tuple(members)


def _name(number: int, changes: dict[str, Any]) -> str:
    """003_clip_norm=1_seed=0"""

    def text(value: Any) -> str:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return "".join(c if c.isalnum() or c in ".+-" else "-" for c in shown)

    words = [f"{key.rpartition('.')[2]}={text(value)}" for key, value in changes.items()]
    return "_".join([f"{number:03d}", *words])[:100]


class Group(NamedTuple):
    """Members that can be one program, and their tasks."""

    members: tuple[Member, ...]
    tasks: tuple[Task, ...]


def group_members(
    members: Iterable[Member], run: Callable[[Member], Path | None] = lambda member: None
) -> list[Group]:
    """The members by program, in the order of their first; every value checked. Those that an extended
    sweep had before keep their programs to themselves. run: the folder of a member that has begun.

    Raises UsageError for what no run could be made of; the message names the member.
    """
    found: dict[Any, list[tuple[Member, Task]]] = {}
    for member in members:
        try:
            task, _ = build(member.config, run=run(member))
            if run(member) is None:
                start.plan(member.config, task)
        except UsageError as error:
            raise UsageError(f"member {member.name}: {error}") from error
        key = member.added, population.signature(member.config, task)
        found.setdefault(key, []).append((member, task))
    return [Group(*map(tuple, zip(*rows, strict=True))) for rows in found.values()]  # type: ignore


def list_members(sweep: Sweep, say: Callable[[str], None]) -> None:
    """List the members of a sweep by program, each value checked, see `group_members`; and what
    became of those that are in its folder."""
    found = group_members(sweep.members, sweep.begun)
    for number, group in enumerate(found, start=1):
        model = group.members[0].config.model
        say(
            f"program {number} of {len(found)}: {model.layers} x {model.hidden} {model.cell}, "
            f"{len(group.members)} members"
        )
        for member in group.members:
            say(f"  {member.name}{_state(sweep, member)}")
    if sweep.left:
        say(f"no longer in the config, kept: {len(sweep.left)} members")
        for member in sweep.left:
            say(f"  {member.name}{_state(sweep, member)}")


def _state(sweep: Sweep, member: Member) -> str:
    if not (sweep.folder / "sweep.json").exists():
        return ""
    if sweep.begun(member) is None:
        return " (new)"
    ended = read_summary(sweep, member)
    return " (open)" if ended is None else f" ({describe_end(ended)})"


# ---- the folder


def plan_sweep(folder: Path, members: tuple[Member, ...]) -> Sweep:
    """The sweep of `members` as the one in `folder` has it, if there is one: a member that is there
    already keeps its name, the new ones get names beside, and those that are declared no more are
    `left`. Nothing is written.

    Raises UsageError if the folder holds another sweep: one in which none of the members is, or whose
    member with the same changes has another config.
    """
    sweep = Sweep(folder, members, "", 0)
    if not (folder / "sweep.json").exists():
        return sweep
    try:
        kept = open_sweep(folder)
    except UsageError as error:
        kept = Sweep(folder, _unlisted(folder, members, error), "", 0)
    before = (*kept.members, *kept.left)
    same = {_identity(member.config): member for member in before}
    names: dict[str, Member] = {}  # of the sweep's folder -> as it is declared
    new = []
    for member in members:
        known = same.get(_identity(member.config))
        if known is None:
            new.append(member)
        else:
            names[known.name] = member
    for member in new if names else members[:1]:
        other = [k for k in before if k.name not in names and k.changes == member.changes]
        if other or not names:
            raise UsageError(_other(folder, (other or before)[0], member))
    there = [k._replace(changes=names[k.name].changes) for k in before if k.name in names]
    number = 1 + max(int(k.name[:3]) if k.name[:3].isdigit() else 0 for k in before)
    number = max(number, len(before))
    added = 1 + max(k.added for k in before)
    come = [
        member._replace(name=_name(number + i, member.changes), added=added)
        for i, member in enumerate(new)
    ]
    left = tuple(k for k in before if k.name not in names)
    return kept._replace(members=(*there, *come), left=left)


def _identity(config: Config) -> frozenset[tuple[str, str]]:
    """What two configs of one run have in common: a key that is unset is like one that is not there."""
    values = configuration.flat(config).items()
    return frozenset((key, repr(value)) for key, value in values if value is not None)


def _other(folder: Path, kept: Member, given: Member) -> str:
    differs = configuration.difference(kept.config, given.config)
    shown = "; ".join(f"{k}: it has {a!r}, you gave {b!r}" for k, (a, b) in differs.items())
    return (
        f"{folder} holds a sweep of other members ({kept.name} differs: {shown}): choose another "
        "--workdir, or give no --config to go on with it"
    )


def prepare_sweep(
    folder: Path,
    members: tuple[Member, ...] | None,
    *,
    unit: str,
    halving: int | None,
    measure: str = "nats",
) -> Sweep:
    """The sweep in `folder`: made or extended of `members`, see `plan_sweep`, or as it is for None.

    Raises UsageError if the folder holds something else, or another sweep.
    """
    path = folder / "sweep.json"
    if members is None:
        if not path.exists():
            raise UsageError(f"{folder} holds no sweep: give --config=FILE to start one")
        return _same_halving(open_sweep(folder), halving)
    planned = plan_sweep(folder, members)
    try:
        kept = open_sweep(folder) if path.exists() else None
    except UsageError as error:
        warn(f"{error}: it is written anew, for the same members")
        kept, damaged = None, True
    else:
        damaged = False
    if kept is None:
        begun = ("members", ".sweep.json.writing")  # of a start that was cut off
        others = (p.name for p in folder.iterdir() if not p.name.startswith(LOCK))
        if not damaged and any(name not in begun for name in others):
            raise UsageError(f"{folder} holds no sweep, but other files: choose another --workdir")
        planned = planned._replace(unit=unit, measure=measure, halving=halving or 0)
    else:
        _same_halving(kept, halving)
        if _rows(planned) == _rows(kept):
            return kept
        if kept.halving and {m.name for m in planned.members} - {m.name for m in kept.members}:
            raise UsageError(
                f"{folder} holds a sweep with --halving={kept.halving}, whose members have been judged "
                "against each other: it takes no further ones, choose another --workdir"
            )
    for member in planned.members:
        place = planned.path(member)
        if not (place / "config.json").exists():
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / "config.json", configuration.to_json(member.config))
    said = {name: getattr(planned, name) for name in ("unit", "measure", "halving")}
    base = configuration.to_json(planned.members[0].config)
    write_json(path, {"command": list(sys.argv), **said, "config": base, "members": _rows(planned)})
    return planned


def _same_halving(kept: Sweep, halving: int | None) -> Sweep:
    if halving is not None and halving != kept.halving:
        raise UsageError(
            f"{kept.folder} holds a sweep with --halving={kept.halving}: choose another --workdir"
        )
    return kept


def _rows(sweep: Sweep) -> list[dict[str, Any]]:
    """The members as sweep.json has them."""
    rows = []
    for member in (*sweep.members, *sweep.left):
        row = {"name": member.name, "changes": configuration.to_json(member.changes)}
        row |= {"added": member.added} if member.added else {}
        rows.append(row | ({"left": True} if member in sweep.left else {}))
    return rows


def _unlisted(folder: Path, members: tuple[Member, ...], error: UsageError) -> tuple[Member, ...]:
    """The members that lie in a folder whose sweep.json is damaged; raises `error` unless they are those
    of `members`, or further ones of that sweep."""
    keys = dict.fromkeys(key for member in members for key in member.changes)
    found = []
    for place in sorted((folder / "members").glob("*")):
        config = saved_config(place)
        if config is not None:
            config = anchored(config, place)
            values = configuration.flat(config)
            changes = {key: values[key] for key in keys if key in values}
            found.append(Member(place.name, changes, config))
    there = {_identity(member.config) for member in found}
    if not all(_identity(member.config) in there for member in members):
        raise error
    return tuple(found)


def open_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`. Raises UsageError if there is none, or its sweep.json is damaged."""
    path = folder / "sweep.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no sweep: there is no sweep.json in it")
    members, left, kept = [], [], read_json(path)
    for row in kept["members"]:
        place = folder / "members" / row["name"]
        config = mended_config(place, warn)
        if config is None:
            raise UsageError(f"{folder} is damaged: {row['name']} has no config.json")
        config = anchored(config, place)
        values = configuration.flat(config)
        changes = {key: values[key] for key in row["changes"]}
        member = Member(row["name"], changes, config, row.get("added", 0))
        (left if row.get("left") else members).append(member)
    measure = kept.get("measure", "nats")  # which older sweeps lack
    return Sweep(folder, tuple(members), kept["unit"], kept["halving"], measure, tuple(left))


def read_summary(sweep: Sweep, member: Member) -> dict[str, Any] | None:
    """What the member's run came to, None if it has not ended: its summary.json."""
    path = sweep.path(member) / "summary.json"
    if not path.exists():
        return None
    found = read_json(path)
    ended = found.keys() & {"diverged_at", "stopped_at"}
    return found if ended or found["steps"] >= member.config.train.steps else None


def last_line(path: Path, how: str) -> str:
    """What a failed member wrote last, how it ended, and where all of it is."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line for line in text.split("\n") if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} ({how}; see {path})"


def describe_end(found: dict[str, Any]) -> str:
    """A member's summary in a few words."""
    for word in ("diverged", "stopped"):
        if f"{word}_at" in found:
            return f"{word} at step {found[f'{word}_at']}"
    return f"validation {float(found['valid_loss']):.4f} at step {found['valid_step']}"
