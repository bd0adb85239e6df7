"""Files of the MOT challenges, and the tracks in them."""

import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.tasks.tracking import mot
from tests.tasks.files import boxes

GOOD = "1,7,10,20,30,40,1,-1,-1,-1\n1,9,50,20,10,10,1,-1,-1,-1\n2,7,12,20,30,40,1,-1,-1,-1\n"
INI = "[Sequence]\nname=a\nimWidth=100\nimHeight=80\n"


def test_a_file_is_read_in_either_layout(tmp_path):
    for place, text in (("a/gt.txt", GOOD), ("b/gt/gt.txt", GOOD + "2,9,1,1,1,1,0\n")):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(text)
    (tmp_path / "a/seqinfo.ini").write_text(INI)
    (tmp_path / "pictures").mkdir()
    first, second = mot.sequences(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    np.testing.assert_array_equal(first.frames, [1, 1, 2])
    np.testing.assert_array_equal(first.ids, [7, 9, 7])
    np.testing.assert_array_equal(first.boxes[0], [25, 40, 30, 40])  # by its centre
    np.testing.assert_array_equal(second.boxes, first.boxes)  # the line with conf 0 is ignored
    path = tmp_path / "b/gt/gt.txt"
    assert len(mot.read(path, name="b", size=None, truth=False).ids) == 4


def test_lines_may_be_sorted_by_id(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,1,0,0,5,5,1\n2,1,1,0,5,5,1\n1,2,9,9,5,5,1\n")
    found = mot.read(path, name="x", size=None, truth=True)
    assert found.frames.tolist() == [1, 1, 2]
    assert found.ids.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3,7,1,2,x,4,1", "not all numbers"),
        ("3,7,1,2,3,4", "6 fields"),
        ("3,7,1,2,nan,4,1", "not finite"),
        ("3.5,7,1,2,3,4,1", "whole numbers"),
        ("0,7,1,2,3,4,1", "frames count from 1"),
        ("3,7,1,2,0,4,1", "the box is 0 x 4"),
        ("3,7,1,2,3,-4,1", "the box is 3 x -4"),
        ("3,7,100,2,3,4,1", "outside the picture of 100 x 80"),
        ("3,7,1,-4,3,4,1", "outside the picture of 100 x 80"),
        ("2,7,1,2,3,4,1", "id 7 comes twice in frame 2; see line 3"),
        ("1,7,1,2,3,4,1", "id 7 comes after frame 2 in frame 1; see line 3"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = tmp_path / "a" / "gt.txt"
    path.parent.mkdir()
    path.write_text(GOOD + line + "\n")
    (tmp_path / "a/seqinfo.ini").write_text(INI)
    with pytest.raises(UsageError, match=words) as error:
        mot.sequences(tmp_path)
    assert f"{path}:4" in str(error.value)
    assert error.value.exit_code == 2


def test_a_box_may_stand_out_of_the_picture_in_part(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,7,-5,70,10,20,1\n")
    assert len(mot.read(path, name="x", size=(100, 80), truth=True).ids) == 1


def test_a_folder_without_sequences_is_named(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        mot.sequences(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no NAME/gt\.txt"):
        mot.sequences(tmp_path)
    path = tmp_path / "a" / "gt.txt"
    path.parent.mkdir()
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no boxes"):
        mot.sequences(tmp_path)
    path.write_bytes(b"1\xff")
    with pytest.raises(UsageError, match=r"gt\.txt:1 is not UTF-8"):
        mot.sequences(tmp_path)
    path.write_text(GOOD)
    (tmp_path / "a/seqinfo.ini").write_text("[Sequence]\nimWidth=wide\nimHeight=80\n")
    with pytest.raises(UsageError, match="imWidth"):
        mot.sequences(tmp_path)


def test_tracks_end_where_an_object_is_away():
    found = mot.tracks(boxes([(1, 4, 0), (2, 4, 1), (4, 4, 3), (2, 3, 50)]))
    assert [(one.id, one.first, len(one.boxes)) for one in found] == [
        (3, 2, 1),
        (4, 1, 2),
        (4, 4, 1),
    ]
    np.testing.assert_array_equal(found[1].boxes[:, 0], [0, 1])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_files_may_be_in_any_encoding(tmp_path, encoding):
    (tmp_path / "a" / "gt").mkdir(parents=True)
    (tmp_path / "a/gt/gt.txt").write_text(GOOD, encoding=encoding)
    (tmp_path / "a/seqinfo.ini").write_text(INI, encoding=encoding)
    named = encoding if encoding == "utf-32-le" else None  # it has no mark
    assert len(mot.sequences(tmp_path, named)[0].ids) == 3
    assert mot.size_of(tmp_path / "a/seqinfo.ini", named) == (100, 80)


def test_a_linked_sequence_is_read_and_one_by_two_names_is_told(tmp_path):
    data, away = tmp_path / "data", tmp_path / "away"
    (away / "gt").mkdir(parents=True)
    (away / "gt" / "gt.txt").write_text(GOOD)
    data.mkdir()
    (data / "one").symlink_to(away)
    assert [found.name for found in mot.sequences(data)] == ["one"]
    (data / "two").symlink_to(away)
    with pytest.raises(UsageError, match=r"one and .*two are one folder: remove the link"):
        mot.sequences(data)


@pytest.mark.parametrize(
    "line", ["1e300,7,1,2,3,4,1", "3,-1e300,1,2,3,4,1", "9999999999,1,1,2,3,4,1"]
)
def test_a_frame_or_id_without_end_is_told(tmp_path, line):
    path = tmp_path / "gt.txt"
    path.write_text(line)
    with pytest.raises(UsageError, match=r"gt\.txt:1: frame .* must be whole numbers"):
        mot.read(path, name="a", size=None, truth=True)
