"""Checkpoints: what is damaged is named, and another one takes its place."""

import pytest

from rnnlab.errors import CheckpointError, UsageError
from rnnlab.run import checkpoint
from tests.run.checkpoints import flip_a_bit, restore, save, small, train_state


def test_damage_of_any_file_is_seen(tmp_path):
    root = tmp_path / "checkpoints"
    save(root, 1, train_state())
    save(root, 2, train_state())
    paths = [p for p in (root / "00000002").rglob("*") if p.is_file()]
    assert len(paths) > 5
    template = train_state()

    def falls_back(damage):
        _, meta, warnings = restore(root, template)
        assert meta["step"] == 1, damage
        assert len(warnings) == 1, damage
        assert "00000002 is not valid: " in warnings[0]
        assert "\n" not in warnings[0]
        return warnings[0]

    for path in paths:
        content = path.read_bytes()
        for at in (0.0, 0.3, 0.99):
            flip_a_bit(path, at)
            falls_back(f"flip in {path}")
            path.write_bytes(content)
        path.unlink()
        assert f"{path.name} is missing" in falls_back(f"no {path}")
        path.write_bytes(content[:-1] if content else b"x")
        falls_back(f"cut {path}")
        path.write_bytes(content)
    extra = root / "00000002" / "state" / "extra"
    extra.write_bytes(b"")
    assert "state/extra is not in the manifest" in falls_back("extra file")
    extra.unlink()
    assert restore(root, template)[1:][0]["step"] == 2


def test_one_step_asked_for_has_no_substitute(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "meta.json").unlink()
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        restore(tmp_path, step=2)
    with pytest.raises(UsageError, match=r"no checkpoint of step 7 .* there are: 1, 2"):
        restore(tmp_path, step=7)
    assert restore(tmp_path, step=1)[1]["step"] == 1


def test_none_and_none_valid(tmp_path):
    def get():
        return checkpoint.restore(tmp_path / "c", small(0), fingerprint={}, warn=warnings.append)

    warnings = []
    assert get() is None
    (tmp_path / "c").mkdir()
    assert get() is None
    (tmp_path / "c" / ".writing-5" / "state").mkdir(parents=True)
    assert get() is None
    assert warnings == []
    (tmp_path / "c" / "00000003").mkdir()
    assert checkpoint.steps(tmp_path / "c") == []
    with pytest.raises(CheckpointError) as error:
        get()
    assert error.value.exit_code == 4
    assert len(warnings) == 1
    assert "manifest.json is missing" in warnings[0]


def test_an_empty_folder_does_not_pass_for_the_newest(tmp_path):
    save(tmp_path, 2)
    (tmp_path / "00000003").mkdir()
    _, meta, warnings = restore(tmp_path)
    assert meta["step"] == 2
    assert len(warnings) == 1
    assert checkpoint.steps(tmp_path) == [2]
    save(tmp_path, 3)
    assert restore(tmp_path)[1:] == (restore(tmp_path)[1], [])
    assert checkpoint.steps(tmp_path) == [2, 3]


def test_a_run_goes_on_from_where_it_fell_back_to(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step)
    flip_a_bit(tmp_path / "00000300" / "manifest.json", 0.5)
    assert restore(tmp_path)[1]["step"] == 200
    save(tmp_path, 250, keep=1)
    assert checkpoint.steps(tmp_path) == [250]
    assert restore(tmp_path)[1:][1] == []
