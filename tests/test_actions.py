"""Action recognition: folders of recordings and their faults, splits, what the encoder sees."""

import numpy as np
import pytest
from test_tasks import settings
from test_videos import shades, write

from rnnlab import moving, tasks
from rnnlab.tasks import actions
from rnnlab.types import UsageError


def joints(folder, classes=("jump", "run"), count=30, width=3):
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir()
        for index in range(count):
            steps = rng.normal(number, 1, (4 + index % 5, width))
            if index % 2:
                np.save(folder / name / f"{index}.npy", steps)
            else:
                text = "\n".join(",".join(f"{x:.4f}" for x in row) for row in steps)
                (folder / name / f"{index}.csv").write_text("a,b,c\n" * (index % 4 == 0) + text)


def of_folder(folder, *more):
    actions.load.cache_clear()
    changes = ["data.shortest=0", f"data.path={folder}", "train.window=6", *more]
    return settings("actions", *changes)


def test_joints_of_a_folder(tmp_path):
    joints(tmp_path)
    one = tasks.make(of_folder(tmp_path))
    facts = one.facts()
    assert facts["classes"] == "jump, run"
    assert sum(facts[f"{part}_recordings"] for part in ("train", "valid", "test")) == 60
    batch = one.batch(0)
    assert batch["inputs"].shape == (6, 8, 3)
    for column, length in enumerate(batch["lengths"]):
        assert batch["weights"][:, column].tolist() == [t == length - 1 for t in range(6)]
        assert not batch["inputs"][length:, column].any()
    assert one.probe is not None


def test_videos_of_a_folder(tmp_path):
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        for index in range(12):
            write(tmp_path / name / f"{index}.avi", shades(4 + 6 * (name == "light")))
    one = tasks.make(of_folder(tmp_path, "data.side=8", "train.batch_size=4"))
    batch = one.batch(0)
    assert batch["inputs"].shape == (6, 4, 8, 8, 6)
    assert batch["inputs"].dtype == np.uint8
    assert {*batch["lengths"]} <= {4, 6}


def test_the_lists_of_ucf101(tmp_path):
    names = tuple(f"{c}/{i}.avi" for c in ("a", "b") for i in range(20))
    lists = tmp_path / "train.txt", tmp_path / "test.txt"
    lists[0].write_text("\n".join(f"{name} 1" for name in names[:30]) + "\n")
    lists[1].write_text("\n".join(names[30:]))
    parts = actions.split(names, *map(str, lists))
    assert sorted(np.concatenate([parts["train"], parts["valid"]])) == [*range(30)]
    assert parts["test"].tolist() == [*range(30, 40)]
    by_hash = actions.split(names, "", "")
    assert sorted(np.concatenate([*by_hash.values()])) == [*range(40)]
    lists[1].write_text(names[0])
    with pytest.raises(UsageError, match=r"a/0\.avi is in data\.train_list and"):
        actions.split(names, *map(str, lists))
    lists[1].write_text("\na/99.avi\n")
    with pytest.raises(UsageError, match=r"test\.txt:2 names a/99\.avi"):
        actions.split(names, *map(str, lists))
    with pytest.raises(UsageError, match="go together"):
        actions.split(names, str(lists[0]), "")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.csv", b"1,2,3\n4,5\n", "x.csv:2 is not the numbers"),
        ("x.csv", b"1,2,3\n4,nan,5\n", "x.csv:2 is not the numbers"),
        ("x.csv", b"a,b\n", "x.csv has no steps"),
        ("x.csv", b"1,2\n3,4\n", r"x.csv has steps of \(2,\)"),
        ("x.npy", b"nothing", "x.npy is no array"),
        ("x.avi", b"nothing", "x.avi is no video"),
    ],
)
def test_bad_recordings_are_named(tmp_path, name, content, told):
    joints(tmp_path, count=3)
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(UsageError, match=told) as error:
        tasks.make(of_folder(tmp_path))
    assert "\n" not in str(error.value)


def test_folders_that_do_not_do(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        tasks.make(of_folder(tmp_path / "nowhere"))
    (tmp_path / "one").mkdir()
    with pytest.raises(UsageError, match="has 1 folders"):
        tasks.make(of_folder(tmp_path))
    (tmp_path / "two").mkdir()
    with pytest.raises(UsageError, match="one holds nothing"):
        tasks.make(of_folder(tmp_path))
    with pytest.raises(UsageError, match=r"leave data\.shortest at 0"):
        tasks.make(settings("actions", f"data.path={tmp_path}", "data.shortest=5"))
    with pytest.raises(UsageError, match=r"data\.stack must be"):
        tasks.make(settings("actions", "data.stack=0"))


def test_frames_lie_behind_one_another():
    frames = np.arange(4)[:, None, None, None, None] * np.ones((1, 2, 3, 3, 1), int)
    found = moving.stacked(frames, 3)
    assert found.shape == (4, 2, 3, 3, 3)
    assert found[:, 0, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1]]
