"""A member of a sweep is what `train` makes of the same overrides; a sweep that is extended."""

import json
import os
from pathlib import Path

import pytest

from rnnlab.errors import UsageError
from rnnlab.run import config as configuration
from rnnlab.run.files import read_json, write_json
from rnnlab.sweep import execute, slurm
from rnnlab.sweep.members import (
    declare_members,
    list_members,
    open_sweep,
    plan_sweep,
    prepare_sweep,
)
from rnnlab.sweep.report import write_report
from rnnlab.sweep.results import axis_of, lines_of, read_results
from tests.support import ROOT

# An experiment for each set of keys that there is.
BASES = (
    "default",
    "memory",
    "speech",
    "captions",
    "translation",
    "tracking",
    "actions",
    "one_to_one",
)
OTHER = {bool: True, int: 7, float: 0.375, str: "other", tuple: (3, 4)}
BESIDE = (
    "from experiments import {base}\ndef get_config():\n    config = {base}.get_config()\n{more}"
)


def written(folder: Path, body: str, base: str = "default", more: str = "") -> str:
    lines = BESIDE.format(base=base, more="".join(f"    {line}\n" for line in more.splitlines()))
    lines += "    return config\ndef sweep(add):\n"
    lines += "".join(f"    {line}\n" for line in body.splitlines())
    path = folder / "mine.py"
    path.write_text(lines)
    return str(path)


@pytest.fixture(autouse=True)
def in_reach(monkeypatch):
    """As the launcher has it: the repository's root is on sys.path."""
    monkeypatch.syspath_prepend(ROOT)


def kept(config) -> str:
    """With the types of all values, as config.json has them."""
    return json.dumps(configuration.to_json(config))


def of_each_key(base: str) -> dict[str, object]:
    """key -> a value that it does not have."""
    config = configuration.load(ROOT / "experiments" / f"{base}.py")
    found = {}
    for key, value in configuration.flat(config).items():
        *path, name = key.split(".")
        part = config
        for step in path:
            part = part[step]
        other = OTHER[part.get_type(name)]
        if isinstance(value, bool):
            other = not value
        found[key] = 8 if other == value and not isinstance(other, bool) else other
    return found


@pytest.mark.parametrize("base", BASES)
def test_every_key_is_set_as_train_sets_it(base, tmp_path):
    changes = of_each_key(base)
    body = "import json\n" + "\n".join(f"add(**{{{k!r}: {v!r}}})" for k, v in changes.items())
    path = written(tmp_path, body, base)
    members = declare_members(path, [])
    assert len(members) == len(changes)
    before = configuration.load(path)
    for member, (key, value) in zip(members, changes.items(), strict=True):
        override = f"{key}={configuration.spell(value)}"
        assert kept(member.config) == kept(configuration.load(path, [override]))
        differs = configuration.difference(before, member.config)
        assert [*differs] == [key]
        assert member.changes == {key: differs[key][1]}


@pytest.mark.parametrize("base", BASES)
def test_every_key_is_overridden_for_all_members_as_train_does(base, tmp_path):
    changes = of_each_key(base)
    seed = changes.pop("seed")
    overrides = [f"{key}={configuration.spell(value)}" for key, value in changes.items()]
    path = written(tmp_path, f"add(seed={seed})\nadd()", base)
    given, plain = declare_members(path, overrides)
    assert kept(given.config) == kept(configuration.load(path, [f"seed={seed}", *overrides]))
    assert kept(given.config) == kept(configuration.load(path, [*overrides, f"seed={seed}"]))
    assert kept(plain.config) == kept(configuration.load(path, overrides))


def test_a_placeholder_is_set_and_unset(tmp_path):
    key = "model.options.gate_bias"
    body = f"add(**{{{key!r}: None}})\nadd(**{{{key!r}: 1}})\nadd(**{{{key!r}: 2.5}})"
    members = declare_members(
        written(tmp_path, body, more="config.model.options.gate_bias = 2"), []
    )
    assert [m.config.model.options.gate_bias for m in members] == [None, 1.0, 2.5]
    with pytest.raises(UsageError, match=f"'{key}' takes a float, got 'much'"):
        declare_members(written(tmp_path, f"add(**{{{key!r}: 'much'}})"), [])
    with pytest.raises(UsageError, match=r"'model\.hidden' takes an int, got 'None'"):
        declare_members(written(tmp_path, "add(**{'model.hidden': None})"), [])


def test_a_reference_follows_each_member(tmp_path):
    more = "config.model.embedding_size = config.model.get_ref('hidden')\n"
    more += "config.train.window = config.train.get_ref('batch_size') * 2"
    body = "for hidden in (8, 24):\n    add(**{'model.hidden': hidden, 'train.batch_size': hidden})"
    members = declare_members(written(tmp_path, body, more=more), [])
    models = [(m.config.model.embedding_size, m.config.train.window) for m in members]
    assert models == [(8, 16), (24, 48)]
    path = written(tmp_path, "add(**{'train.batch_size': 4})", more=more)
    (member,) = declare_members(path, ["model.hidden=24"])
    assert (member.config.model.embedding_size, member.config.train.window) == (24, 8)


def test_values_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "import numpy as np, pathlib\n"
    body += "add(**{'optim.clip_norm': np.float32(0.5), 'train.steps': np.int64(3)})\n"
    body += "add(**{'data.path': pathlib.Path('texts') / 'a.txt'})\nadd(**{'data.path': '~/a.txt'})"
    one, two, three = declare_members(written(tmp_path, body), [])
    assert (one.config.optim.clip_norm, one.config.train.steps) == (0.5, 3)
    assert two.config.data.path == str(tmp_path / "texts" / "a.txt")
    assert three.config.data.path == os.path.expanduser("~/a.txt")
    for value in ("object()", "{1}", "b'x'"):
        with pytest.raises(UsageError, match="is no value of a config"):
            declare_members(written(tmp_path, f"add(**{{'data.path': {value}}})"), [])


# ---- a report of members that set different keys


def pretend(folder: Path, body: str, more: str = "") -> None:
    """A sweep whose members have rows without having been trained; the loss is their number."""
    steps = "config.train.steps = 4\n"
    members = declare_members(written(folder.parent, body, "memory", steps + more), [])
    folder.mkdir(exist_ok=True)
    sweep = prepare_sweep(folder, members, unit="char", halving=0)
    row = {"step": 4, "clipped": 0.5, "grad_norm": 1.0, "seconds": 1.0, "learning_rate": 0.1}
    for number, member in enumerate(sweep.members):
        path = sweep.path(member)
        rows = [
            {**row, "split": "train", "loss": 1.0 + number},
            {**row, "split": "valid", "loss": 1.0 + number},
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ended = {"steps": 4, "valid_loss": 1.0 + number, "valid_step": 4}
        write_json(path / "summary.json", ended)


def test_a_member_that_does_not_set_a_key_has_the_value_it_ran_with(tmp_path):
    folder = tmp_path / "sweep"
    body = "add()\nadd(**{'optim.clip_norm': 5.0})\nadd(**{'optim.clip_norm': 5.0, 'seed': 3})\nadd(seed=3)"
    pretend(folder, body, more="config.seed = 2\nconfig.optim.clip_norm = 0.5")
    found = read_results(folder)
    settings = [(r.settings["optim.clip_norm"], r.settings["seed"]) for r in found]
    assert settings == [(0.5, 2), (5.0, 2), (5.0, 3), (0.5, 3)]
    assert axis_of(found) == "optim.clip_norm"
    (line,) = lines_of(found, "optim.clip_norm")
    assert [(p.value, p.losses) for p in line.points] == [
        (0.5, {2: 1.0, 3: 4.0}),
        (5.0, {2: 2.0, 3: 3.0}),
    ]
    told = write_report(folder)
    assert "T" in told
    report = (folder / "report.md").read_text() + (folder / "results.csv").read_text()
    assert "None" not in report
    assert "| 0.5 | 2.5000 | 1.0000, 4.0000 |" in report


def test_what_no_member_ran_with_a_value_of_is_unset(tmp_path):
    folder = tmp_path / "sweep"
    pretend(folder, "add()\nadd(**{'model.options.gate_bias': 1.0})\nadd(**{'model.cell': 'lstm'})")
    write_report(folder)
    report = (folder / "report.md").read_text()
    for label in ("gate_bias unset, gru", "gate_bias 1, gru", "gate_bias unset, lstm"):
        assert f"**{label}**" in report
    assert "None" not in report


# ---- extending


def extended(folder: Path, body: str, more: str = "config.train.steps = 4\n"):
    members = declare_members(written(folder.parent, body, "memory", more), [])
    return prepare_sweep(folder, members, unit="char", halving=None)


def names(members) -> list[str]:
    return [member.name for member in members]


CLIPS = "for c in {}:\n    for s in {}:\n        add(**{{'optim.clip_norm': c, 'seed': s}})"


def test_a_sweep_takes_more_members_and_seeds(tmp_path):
    folder = tmp_path / "sweep"
    pretend(folder, CLIPS.format((1.0, 2.0), (0, 1)))
    before = open_sweep(folder)
    files = {p: p.read_bytes() for p in folder.glob("members/*/*")}
    # In another order, some in front of the old ones, and an axis more.
    after = extended(folder, CLIPS.format((0.5, 2.0, 1.0), (2, 0, 1)))
    assert names(after.members)[:4] == names(before.members)
    assert after.members[:4] == before.members
    new = after.members[4:]
    assert {(m.changes["optim.clip_norm"], m.changes["seed"]) for m in new} == {
        (0.5, 0),
        (0.5, 1),
        (0.5, 2),
        (1.0, 2),
        (2.0, 2),
    }
    assert [name[:3] for name in names(new)] == ["004", "005", "006", "007", "008"]
    assert all(m.added == 1 for m in new)
    assert {p: p.read_bytes() for p in files} == files
    assert open_sweep(folder) == after
    assert after.left == ()


def test_what_left_the_config_is_kept_and_marked(tmp_path):
    folder = tmp_path / "sweep"
    pretend(folder, CLIPS.format((1.0, 2.0, 8.0), (0,)))
    after = extended(folder, CLIPS.format((1.0, 2.0), (0, 1)))
    (left,) = after.left
    assert left.name == "002_clip_norm=8_seed=0"
    assert len(after.members) == 4
    assert [row.get("left") for row in read_json(folder / "sweep.json")["members"]] == [
        None,
        None,
        None,
        None,
        True,
    ]
    said = []
    list_members(after, said.append)
    assert "  000_clip_norm=1_seed=0 (validation 1.0000 at step 4)" in said
    assert said[-2:] == [
        "no longer in the config, kept: 1 members",
        "  002_clip_norm=8_seed=0 (validation 3.0000 at step 4)",
    ]
    told = write_report(folder)
    assert "no longer in the config, kept and not compared: 002_clip_norm=8_seed=0" in told
    report = (folder / "report.md").read_text()
    assert "## No longer in the config" in report
    assert "| 002_clip_norm=8_seed=0 | done | 3.0000 |" in report
    assert "4 members: 2 done" in report
    last = (folder / "results.csv").read_text().splitlines()[-1]
    assert last.startswith("002_clip_norm=8_seed=0")
    assert last.endswith(",no")
    # And it comes back.
    again = extended(folder, CLIPS.format((8.0, 1.0), (0,)))
    assert names(again.members) == ["000_clip_norm=1_seed=0", "002_clip_norm=8_seed=0"]
    assert len(again.left) == 3


@pytest.mark.parametrize(
    ("body", "more", "told"),
    [
        (
            CLIPS.format((1.0, 2.0, 3.0), (0,)),
            "config.train.steps = 9",
            "train.steps: it has 4, you gave 9",
        ),
        (
            CLIPS.format((1.0, 2.0), (0,)),
            "config.train.steps = 4\nconfig.model.hidden = 9",
            "model.hidden",
        ),
        (
            CLIPS.format((5.0,), (0,)),
            "config.train.steps = 4",
            "optim.clip_norm: it has 1.0, you gave 5.0",
        ),
    ],
)
def test_another_base_is_refused_and_the_difference_told(tmp_path, body, more, told):
    folder = tmp_path / "sweep"
    pretend(folder, CLIPS.format((1.0, 2.0), (0,)))
    before = (folder / "sweep.json").read_bytes()
    with pytest.raises(UsageError, match="a sweep of other members") as error:
        extended(folder, body, more)
    assert told in str(error.value)
    assert (folder / "sweep.json").read_bytes() == before


def test_a_base_value_that_every_member_sets_may_change(tmp_path):
    folder = tmp_path / "sweep"
    pretend(folder, CLIPS.format((1.0, 2.0), (0,)))
    after = extended(
        folder,
        CLIPS.format((1.0, 2.0), (0, 1)),
        "config.train.steps = 4\nconfig.optim.clip_norm = 9.0",
    )
    assert len(after.members) == 4


def test_a_sweep_with_halving_takes_no_more(tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    members = declare_members(written(tmp_path, CLIPS.format((1.0, 2.0), (0,))), [])
    prepare_sweep(folder, members, unit="char", halving=2)
    more = declare_members(written(tmp_path, CLIPS.format((1.0, 2.0), (0, 1))), [])
    with pytest.raises(UsageError, match="it takes no further ones"):
        prepare_sweep(folder, more, unit="char", halving=None)


def test_a_plan_writes_nothing(tmp_path):
    folder = tmp_path / "sweep"
    pretend(folder, CLIPS.format((1.0,), (0,)))
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    members = declare_members(
        written(tmp_path, CLIPS.format((1.0, 3.0), (0,)), "memory", "config.train.steps = 4"), []
    )
    planned = plan_sweep(folder, members)
    assert names(planned.members) == ["000_clip_norm=1_seed=0", "001_clip_norm=3_seed=0"]
    said = []
    list_members(planned, said.append)
    assert said[-1] == "  001_clip_norm=3_seed=0 (new)"
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_only_what_is_new_is_trained(tmp_path):
    folder = tmp_path / "sweep"
    more = "config.task = 'parity'\nconfig.train.steps = 2\nconfig.train.window = 4\n"
    more += "config.model.hidden = 4\nconfig.train.batch_size = 4\nconfig.eval.sequences = 4\n"
    more += "config.eval.chunk = 4"

    def trained(values: tuple[float, ...]) -> list[str]:
        body = CLIPS.format(values, (0,))
        said: list[str] = []
        failed = execute.train_members(
            folder,
            declare_members(written(tmp_path, body, "memory", more), []),
            executor="vmap",
            halving=None,
            say=said.append,
            asked=slurm.Options(),
            launch=(),
        )
        assert not failed
        return said

    assert trained((1.0,)) == [f"1 members, 1 to run, in {folder}"]
    before = {p: p.stat().st_mtime_ns for p in folder.glob("members/*/**/*")}
    with pytest.raises(UsageError, match="a sweep of other members"):
        trained((2.0,))
    assert trained((2.0, 1.0)) == [f"2 members, 1 to run, in {folder}"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (folder / "members" / "001_clip_norm=2_seed=0" / "summary.json").exists()
    said = f"1 members, 0 to run, in {folder} (and 1 no longer in the config, kept)"
    assert trained((2.0,)) == [said]
