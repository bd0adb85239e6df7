"""MOT files and the metrics of trackers, by cases that a hand can compute."""

import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.errors import UsageError
from rnnlab.tasks.tracking import mot

GOOD = "1,7,10,20,30,40,1,-1,-1,-1\n1,9,50,20,10,10,1,-1,-1,-1\n2,7,12,20,30,40,1,-1,-1,-1\n"
INI = "[Sequence]\nname=a\nimWidth=100\nimHeight=80\n"


def test_iou_of_boxes_by_hand():
    first = np.array([[1.0, 1, 2, 2]] * 6)
    second = np.array(
        [[1, 1, 2, 2], [2, 1, 2, 2], [2, 2, 2, 2], [1, 1, 1, 1], [4, 1, 2, 2], [1, 1, -1, 2]]
    )
    expected = [1, 2 / 6, 1 / 7, 1 / 4, 0, 0]
    np.testing.assert_allclose(mot.iou(first, second), expected)
    np.testing.assert_allclose(mot.iou(second, first), expected)
    np.testing.assert_allclose(mot.iou(jnp.asarray(first), jnp.asarray(second)), expected, 1e-6)
    assert mot.iou(np.zeros(4), np.zeros(4)) == 0


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
    path.write_bytes(b"\xff\xfe1")
    with pytest.raises(UsageError, match="cannot read"):
        mot.sequences(tmp_path)
    path.write_text(GOOD)
    (tmp_path / "a/seqinfo.ini").write_text("[Sequence]\nimWidth=wide\nimHeight=80\n")
    with pytest.raises(UsageError, match="imWidth"):
        mot.sequences(tmp_path)


def boxes(rows):
    """Boxes of (frame, id, cx); each is 10 x 10."""
    array = np.array(sorted(rows), float).reshape(-1, 3)
    there = np.stack([array[:, 2], 0 * array[:, 2], *2 * [0 * array[:, 2] + 10]], -1)
    return mot.Boxes("x", array[:, 0].astype(int), array[:, 1].astype(int), there)


def test_tracks_end_where_an_object_is_away():
    found = mot.tracks(boxes([(1, 4, 0), (2, 4, 1), (4, 4, 3), (2, 3, 50)]))
    assert [(one.id, one.first, len(one.boxes)) for one in found] == [
        (3, 2, 1),
        (4, 1, 2),
        (4, 4, 1),
    ]
    np.testing.assert_array_equal(found[1].boxes[:, 0], [0, 1])


def scores(truth, found):
    pair = boxes(truth), boxes(found)
    return mot.clear(*pair, least=mot.LEAST), mot.identity(*pair, least=mot.LEAST)


def test_a_perfect_tracker_whatever_its_ids():
    truth = [(t, which, 100 * which + t) for t in (1, 2, 3) for which in (1, 2)]
    clear, identity = scores(truth, [(t, which + 5, x) for t, which, x in truth])
    assert clear == mot.Clear(6, 0, 0, 0, 6.0)
    assert (clear.mota, clear.motp, identity.idf1) == (1, 1, 1)


def test_a_tracker_that_swaps_two_identities():
    truth = [(t, which, 100 * which) for t in (1, 2, 3, 4) for which in (1, 2)]
    found = [(t, which if t < 4 else 3 - which, x) for t, which, x in truth]
    clear, identity = scores(truth, found)
    assert (clear.misses, clear.false_positives, clear.switches) == (0, 0, 2)
    assert clear.mota == 1 - 2 / 8
    assert identity == mot.Identity(true=6, boxes=8, found=8)
    assert identity.idf1 == 6 / 8


def test_misses_false_positives_and_a_switch_across_a_gap():
    truth = [(t, 1, 0) for t in range(1, 6)]
    # Found at 1 and 2; missed at 3; a box beside it at 3; found under another id at 4; too far at 5.
    found = [(1, 1, 0), (2, 1, 2), (3, 1, 100), (4, 2, 0), (5, 2, 4)]
    clear, identity = scores(truth, found)
    assert (clear.misses, clear.false_positives, clear.switches) == (2, 2, 1)
    assert clear.mota == pytest.approx(1 - 5 / 5)
    assert clear.motp == pytest.approx((1 + 8 / 12 + 1) / 3)
    assert identity == mot.Identity(true=2, boxes=5, found=5)


def test_what_matched_before_stays_matched_while_it_can():
    # In frame 2 the other box is nearer, but the first still overlaps enough.
    clear, _ = scores([(1, 1, 0), (2, 1, 0)], [(1, 8, 0), (2, 8, 2), (2, 9, 0)])
    assert (clear.misses, clear.false_positives, clear.switches) == (0, 1, 0)
    assert clear.overlap == pytest.approx(1 + 8 / 12)


def test_as_many_as_can_be_are_assigned():
    # Greedily 1 would take the box at 0 with IoU 1 and leave 2 without one.
    truth, found = [(1, 1, 0), (1, 2, 3)], [(1, 8, 0), (1, 9, -3)]
    clear, _ = scores(truth, found)
    assert (clear.misses, clear.false_positives) == (0, 0)
    assert clear.overlap == pytest.approx(2 * 7 / 13)


def test_a_tracker_that_finds_nothing():
    clear, identity = scores([(1, 1, 0)], [])
    assert (clear.mota, identity.idf1) == (0, 0)
    assert np.isnan(clear.motp)
