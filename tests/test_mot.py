"""Overlap of boxes, the files of the MOT challenge, and verdicts counted by hand."""

import numpy as np
import pytest

from rnnlab import mot
from rnnlab.types import UsageError


def tracks(*rows):
    """From (frame, identity, x): boxes of 10 x 10 at y = 0."""
    found = np.array(sorted(rows), float)
    boxes = np.stack([found[:, 2], 0 * found[:, 2], 0 * found[:, 2] + 10, 0 * found[:, 2] + 10], -1)
    return mot.Tracks(found[:, 0].astype(int), found[:, 1].astype(int), boxes)


def test_overlap():
    one = np.array([0.0, 0, 10, 10])
    for other, expected in (((5, 0, 10, 10), 1 / 3), ((0, 0, 10, 10), 1), ((20, 0, 5, 5), 0)):
        assert mot.overlap(one, np.array(other, float)) == pytest.approx(expected)


def test_a_perfect_tracker_and_none():
    truth = tracks((1, 1, 0), (2, 1, 2), (1, 2, 50), (2, 2, 52))
    same = mot.judged(truth, truth)
    assert (same.mota, same.idf1, same.misses, same.false_positives, same.switches) == (
        1,
        1,
        0,
        0,
        0,
    )
    renamed = tracks((1, 7, 0), (2, 7, 2), (1, 9, 50), (2, 9, 52))
    assert mot.judged(truth, renamed)[4:] == (1, 1)
    far = tracks((1, 1, 500))
    none = mot.judged(truth, far)
    assert (none.misses, none.false_positives) == (4, 1)
    assert none.mota == pytest.approx(1 - 5 / 4)
    assert none.idf1 == 0


def test_identities_that_change_places():
    truth = tracks(*((t, 1, 0) for t in range(1, 5)), *((t, 2, 50) for t in range(1, 5)))
    swapped = tracks(
        *((t, 1 if t < 3 else 2, 0) for t in range(1, 5)),
        *((t, 2 if t < 3 else 1, 50) for t in range(1, 5)),
    )
    found = mot.judged(truth, swapped)
    assert found.switches == 2
    assert found.mota == pytest.approx(1 - 2 / 8)
    # Whichever way whole tracks are paired, half of the boxes agree: IDTP 4 of 8.
    assert found.idf1 == pytest.approx(2 * 4 / 16)


def test_a_match_stays_while_it_holds():
    # In frame 2 a second box lies closer, but the first still overlaps by 0.67.
    truth = tracks((1, 1, 0), (2, 1, 0))
    found = mot.judged(truth, tracks((1, 5, 0), (2, 5, 2), (2, 6, 0)))
    assert (found.switches, found.false_positives, found.misses) == (0, 1, 0)
    # And where it no longer does, the other takes over: a switch.
    found = mot.judged(truth, tracks((1, 5, 0), (2, 5, 8), (2, 6, 0)))
    assert (found.switches, found.false_positives) == (1, 1)


def test_one_box_is_matched_once():
    # Identity 5 was that of the first track, then of the second; in frame 3 it would fit both.
    truth = tracks((1, 1, 0), (2, 2, 4), (3, 1, 1), (3, 2, 4))
    found = mot.judged(truth, tracks((1, 5, 0), (2, 5, 4), (3, 5, 2)))
    assert (found.misses, found.false_positives) == (1, 0)
    assert found.mota == pytest.approx(1 - 1 / 4)


def test_as_many_boxes_as_can_be_are_matched():
    # Greedily the largest overlap would leave a true box over.
    truth = tracks((1, 1, 0), (1, 2, 3))
    found = mot.judged(truth, tracks((1, 5, 1), (1, 6, -3)))
    assert (found.misses, found.false_positives) == (0, 0)


def write(path, text):
    path.write_text(text)
    return path


def test_files_and_runs(tmp_path):
    path = write(
        tmp_path / "gt.txt", "1,1,0,0,4,5,1,-1,-1\n3,1,2,0,4,5\n4,1,3,0,4,5\n1,2,9,9,2,2\n\n"
    )
    found = mot.read(path)
    assert found.frames.tolist() == [1, 1, 3, 4]
    assert [len(run) for run in mot.runs(found, 2)] == [2]
    assert [len(run) for run in mot.runs(found, 1)] == [1, 2, 1]
    write(tmp_path / "seqinfo.ini", "[Sequence]\nimWidth=640\nimHeight=480\n")
    assert mot.size_of(tmp_path) == (640, 480)
    assert mot.size_of(tmp_path / "none") is None
    write(tmp_path / "seqinfo.ini", "imWidth=640")
    with pytest.raises(UsageError, match=r"seqinfo\.ini gives no"):
        mot.size_of(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2,1,0,0,5", ":2 is not frame,id"),
        ("2,1,0,0,x,5", ":2 is not frame,id"),
        ("0,1,0,0,5,5", ":2 is not frame,id"),
        ("2,1,0,nan,5,5", ":2 is not frame,id"),
        ("2,1,0,0,0,5", ":2 is a box of 0 x 5"),
        ("2,1,700,0,5,5", ":2 is a box outside the frame of 640 x 480"),
        ("2,1,0,-5,5,5", ":2 is a box outside the frame"),
        ("1,1,0,0,5,5", ":2 has identity 1 again in frame 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, told):
    path = write(tmp_path / "gt.txt", f"1,1,0,0,4,5\n{line}\n")
    with pytest.raises(UsageError, match=told) as error:
        mot.read(path, (640, 480))
    assert "gt.txt" in str(error.value)
    if "outside" not in told:
        return
    mot.read(path)  # where the frame's size is not known, it may be anywhere
    partly = write(tmp_path / "gt.txt", "1,1,-2,-2,4,5\n2,1,638,0,50,5\n")
    assert len(mot.read(partly, (640, 480)).frames) == 2
