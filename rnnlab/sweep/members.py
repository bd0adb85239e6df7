"""A sweep: one config, many members. Declared in a config file, kept in a folder, run, resumed.

    def sweep(add):
        for threshold in (0.1, 1.0, 10.0):
            for seed in range(3):
                add(**{"optim.clip_norm": threshold, "seed": seed})

A sweep's folder holds sweep.json, which says what the members are, and `members/`, in which each
member has a run folder like any other.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run.display import warn
from rnnlab.run.files import read_json, write_json
from rnnlab.sweep import population
from rnnlab.train.from_config import build
from rnnlab.train.saved import mended_config, saved_config
from rnnlab.types import Config, Task


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # of its folder
    changes: dict[str, Any]  # config key -> value, what it adds to the base
    config: Config


class Sweep(NamedTuple):
    """The members, and where they are."""

    folder: Path
    members: tuple[Member, ...]
    unit: str  # of the task: "char" ...
    halving: int  # eta of successive halving, 0 for none
    measure: str = "nats"  # what the loss of the task counts

    def path(self, member: Member) -> Path:
        """The member's run folder."""
        return self.folder / "members" / member.name


# ---- what the members are


def declare_members(path: str, overrides: list[str]) -> tuple[Member, ...]:
    """The members that a config file declares, each value checked, none built yet.

    overrides: "key=value" for all members.

    Raises UsageError if the file declares no sweep or an empty one, for an unknown key or a value of
    the wrong type, for a member twice, or an override of a key that the sweep sets.
    """
    rows: list[dict[str, Any]] = configuration.load_sweep(path)
    base = configuration.load(path, overrides)
    if not rows:
        raise UsageError(f"the sweep in '{path}' is empty: sweep(add) never calls add")
    fixed = {override.partition("=")[0] for override in overrides}
    members = []
    for number, changes in enumerate(rows):
        for key in changes.keys() & fixed:
            raise UsageError(f"--config.{key} is of no use: the sweep sets it for each member")
        config = base.copy_and_resolve_references()
        values = {}
        for key, value in changes.items():
            configuration.assign(config, key, configuration.spell(value))
            values[key] = configuration.flat(config)[key]
        members.append(Member(_name(number, values), values, config.lock()))
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


def group_members(members: Iterable[Member]) -> list[Group]:
    """The members by program, in the order of their first; every value checked.

    Raises UsageError for what no run could be made of; the message names the member.
    """
    found: dict[Any, list[tuple[Member, Task]]] = {}
    for member in members:
        try:
            task, _ = build(member.config)
        except UsageError as error:
            raise UsageError(f"member {member.name}: {error}") from error
        key = population.signature(member.config, task)
        found.setdefault(key, []).append((member, task))
    return [Group(*map(tuple, zip(*rows, strict=True))) for rows in found.values()]  # type: ignore


def list_members(members: tuple[Member, ...], say: Callable[[str], None]) -> None:
    """List the members of a sweep by program, each value checked; see `group_members`."""
    found = group_members(members)
    for number, group in enumerate(found, start=1):
        model = group.members[0].config.model
        say(
            f"program {number} of {len(found)}: {model.layers} x {model.hidden} {model.cell}, "
            f"{len(group.members)} members"
        )
        for member in group.members:
            say(f"  {member.name}")


# ---- the folder


def prepare_sweep(
    folder: Path,
    members: tuple[Member, ...] | None,
    *,
    unit: str,
    halving: int | None,
    measure: str = "nats",
) -> Sweep:
    """The sweep in `folder`: made of `members`, or as it was made; None for the latter.

    Raises UsageError if the folder holds something else, or another sweep.
    """
    path = folder / "sweep.json"
    damaged = path.exists() and members is not None and _agree(path, members)
    if damaged or not path.exists():
        if members is None:
            raise UsageError(f"{folder} holds no sweep: give --config=FILE to start one")
        begun = (".lock", "members", ".sweep.json.writing")  # of a start that was cut off
        if not damaged and any(p.name not in begun for p in folder.iterdir()):
            raise UsageError(f"{folder} holds no sweep, but other files: choose another --workdir")
        base = configuration.to_json(members[0].config)
        rows = [{"name": m.name, "changes": configuration.to_json(m.changes)} for m in members]
        for member in members:
            (folder / "members" / member.name).mkdir(parents=True, exist_ok=True)
            write_json(
                folder / "members" / member.name / "config.json",
                configuration.to_json(member.config),
            )
        said = {"unit": unit, "measure": measure, "halving": halving or 0}
        facts = {"command": list(sys.argv), **said, "config": base}
        write_json(path, {**facts, "members": rows})
        return Sweep(folder, members, unit, halving or 0, measure)
    kept = open_sweep(folder)
    if halving is not None and halving != kept.halving:
        raise UsageError(
            f"{folder} holds a sweep with --halving={kept.halving}: choose another --workdir"
        )
    if members is not None:
        before = {m.name: configuration.flat(m.config) for m in kept.members}
        now = {m.name: configuration.flat(m.config) for m in members}
        if before != now:
            names = [n for n in {**before, **now} if before.get(n) != now.get(n)]
            raise UsageError(
                f"{folder} holds a sweep of other members ({names[0]} differs): choose another "
                "--workdir, or give no --config to go on with it"
            )
    return kept


def _agree(path: Path, members: tuple[Member, ...]) -> bool:
    """Whether the sweep.json at `path` is damaged, and these are its members as far as they go: then
    it can be written anew. Raises UsageError if they are not."""
    try:
        read_json(path)
        return False
    except UsageError as error:
        for member in members:
            saved = saved_config(path.parent / "members" / member.name)
            if saved is None or configuration.difference(saved, member.config):
                raise
        warn(f"{error}: it is written anew, for the same members")
        return True


def open_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`. Raises UsageError if there is none, or its sweep.json is damaged."""
    path = folder / "sweep.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no sweep: there is no sweep.json in it")
    members, kept = [], read_json(path)
    for row in kept["members"]:
        config = mended_config(folder / "members" / row["name"], warn)
        if config is None:
            raise UsageError(f"{folder} is damaged: {row['name']} has no config.json")
        changes = {key: configuration.flat(config)[key] for key in row["changes"]}
        members.append(Member(row["name"], changes, config))
    measure = kept.get("measure", "nats")  # which older sweeps lack
    return Sweep(folder, tuple(members), kept["unit"], kept["halving"], measure)


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
