"""The walk below a data folder: through links, each real folder once, and never in circles."""

from pathlib import Path

import pytest

from rnnlab.data import folders
from rnnlab.data.reading import reading
from rnnlab.errors import UsageError


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_linked_folders_are_read_once_each(tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    tree(root, "b.txt", "real/a.txt", ".hidden/no.txt", "z/.no.txt")
    tree(away, "c.txt", "deeper/d.txt", ".no/e.txt")
    (root / "again").symlink_to(root / "real")  # before "real", which keeps its own name
    (root / "linked").symlink_to(away)
    (root / "linked too").symlink_to(away)
    (away / "chain").symlink_to(tmp_path / "end")
    tree(tmp_path / "end", "f.txt")
    (root / "file.txt").symlink_to(away / "c.txt")
    found = ["b.txt", "file.txt", "linked/c.txt", "linked/chain/f.txt", "linked/deeper/d.txt"]
    assert folders.files(root) == [*found, "real/a.txt"]
    assert folders.files(root, linked=False) == ["b.txt", "file.txt", "real/a.txt"]
    assert folders.files(root, skip=("real", "linked"))[-1] == "linked too/deeper/d.txt"
    (tmp_path / "entry").symlink_to(root)  # the folder itself may be a link
    assert folders.files(tmp_path / "entry") == folders.files(root)


@pytest.mark.parametrize("target", [".", "..", "a", Path("..", ".."), "loop"])
def test_loops_end(target, tmp_path):
    root = tmp_path / "above" / "root"
    tree(root, "a/b/text.txt")
    tree(tmp_path / "above", "outside.txt")
    (root / "a" / "b" / "loop").symlink_to(root / target, target_is_directory=True)
    found = folders.files(root)
    assert found == (["a/b/loop"] if target == "loop" else []) + ["a/b/text.txt"]


def test_two_links_that_lead_to_each_other(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        tree(tmp_path / one, f"{one}.txt")
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    assert folders.files(tmp_path / "a") == ["a.txt", "other/b.txt"]
    assert folders.files(tmp_path) == ["a/a.txt", "b/b.txt"]


def test_what_is_not_there_is_listed(tmp_path):
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert folders.files(tmp_path) == ["gone.txt"]
    with pytest.raises(OSError, match="No such file"):
        folders.files(tmp_path / "nowhere")


def test_one_folder_by_two_names_is_told(tmp_path):
    tree(tmp_path, "a/x", "b/x")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    folders.one_name_each([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match=r"a and .*c are one folder"):
        folders.one_name_each([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("odd\nlines"), KeyError("chunk"), TypeError("no"), IndexError("far")),
        *(EOFError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")),
        OSError(5, "Input/output error"),
    ],
)
def test_whatever_a_reader_raises_is_told_with_the_file(error):
    with pytest.raises(UsageError, match=r"cannot read a/file: .") as caught, reading("a/file"):
        raise error
    assert "\n" not in str(caught.value)


def test_what_says_more_passes():
    for error in (UsageError("it is known"), MemoryError("no room"), KeyboardInterrupt("now")):
        with pytest.raises(type(error), match=str(error)), reading("a/file"):
            raise error
