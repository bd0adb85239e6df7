"""How well a tracker does, by cases that a hand can compute."""

import json

import numpy as np
import pytest

import launch
from rnnlab.errors import UsageError
from rnnlab.tasks.tracking import scores
from tests.tasks.files import boxes


def judged(truth, found):
    pair = boxes(truth), boxes(found)
    return scores.count_clear(*pair, least=scores.LEAST), scores.count_identity(
        *pair, least=scores.LEAST
    )


def test_a_perfect_tracker_whatever_its_ids():
    truth = [(t, which, 100 * which + t) for t in (1, 2, 3) for which in (1, 2)]
    clear, identity = judged(truth, [(t, which + 5, x) for t, which, x in truth])
    assert clear == scores.Clear(6, 0, 0, 0, 6.0)
    assert (clear.mota, clear.motp, identity.idf1) == (1, 1, 1)


def test_a_tracker_that_swaps_two_identities():
    truth = [(t, which, 100 * which) for t in (1, 2, 3, 4) for which in (1, 2)]
    found = [(t, which if t < 4 else 3 - which, x) for t, which, x in truth]
    clear, identity = judged(truth, found)
    assert (clear.misses, clear.false_positives, clear.switches) == (0, 0, 2)
    assert clear.mota == 1 - 2 / 8
    assert identity == scores.Identity(true=6, boxes=8, found=8)
    assert identity.idf1 == 6 / 8


def test_misses_false_positives_and_a_switch_across_a_gap():
    truth = [(t, 1, 0) for t in range(1, 6)]
    # Found at 1 and 2; missed at 3; a box beside it at 3; found under another id at 4; too far at 5.
    found = [(1, 1, 0), (2, 1, 2), (3, 1, 100), (4, 2, 0), (5, 2, 4)]
    clear, identity = judged(truth, found)
    assert (clear.misses, clear.false_positives, clear.switches) == (2, 2, 1)
    assert clear.mota == pytest.approx(1 - 5 / 5)
    assert clear.motp == pytest.approx((1 + 8 / 12 + 1) / 3)
    assert identity == scores.Identity(true=2, boxes=5, found=5)


def test_what_matched_before_stays_matched_while_it_can():
    # In frame 2 the other box is nearer, but the first still overlaps enough.
    clear, _ = judged([(1, 1, 0), (2, 1, 0)], [(1, 8, 0), (2, 8, 2), (2, 9, 0)])
    assert (clear.misses, clear.false_positives, clear.switches) == (0, 1, 0)
    assert clear.overlap == pytest.approx(1 + 8 / 12)


def test_as_many_as_can_be_are_assigned():
    # Greedily 1 would take the box at 0 with IoU 1 and leave 2 without one.
    truth, found = [(1, 1, 0), (1, 2, 3)], [(1, 8, 0), (1, 9, -3)]
    clear, _ = judged(truth, found)
    assert (clear.misses, clear.false_positives) == (0, 0)
    assert clear.overlap == pytest.approx(2 * 7 / 13)


def test_a_tracker_that_finds_nothing():
    clear, identity = judged([(1, 1, 0)], [])
    assert (clear.mota, identity.idf1) == (0, 0)
    assert np.isnan(clear.motp)


def test_files_are_scored(tmp_path):
    (tmp_path / "gt.txt").write_text("".join(f"{t},1,0,0,10,10,1\n" for t in range(1, 6)))
    lines = ["1,1,0", "2,1,2", "3,1,100", "4,2,0", "5,2,4"]
    (tmp_path / "test.txt").write_text("".join(f"{line},0,10,10,-1,-1,-1,-1\n" for line in lines))
    found = scores.score(tmp_path / "gt.txt", tmp_path / "test.txt")
    assert found["mota"] == pytest.approx(0)
    assert found["idf1"] == pytest.approx(2 * 2 / 10)
    assert found["motp"] == pytest.approx((1 + 8 / 12 + 1) / 3)
    counts = ("boxes", "misses", "false_positives", "identity_switches")
    assert [found[name] for name in counts] == [5, 2, 2, 1]
    (tmp_path / "test.txt").write_text("1,1,0,0,10\n")
    with pytest.raises(UsageError, match=r"test\.txt:1 has 5 fields"):
        scores.score(tmp_path / "gt.txt", tmp_path / "test.txt")


def test_the_verb_mot_prints_the_scores(tmp_path, capsys):
    truth, answers = tmp_path / "gt.txt", tmp_path / "boxes.txt"
    truth.write_text("1,1,0,0,10,10,1\n2,1,0,0,10,10,1\n")
    answers.write_text("1,1,0,0,10,10,1\n")
    command = ["mot", f"--truth={truth}", f"--answers={answers}"]
    assert launch.main(command) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "mota                   0.500000",
        "idf1                   0.666667",
    ]
    assert launch.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identity_switches"] == 0
    answers.write_text("not a box\n")
    assert launch.main(command) == 2
    assert "boxes.txt:1 is not all numbers" in capsys.readouterr().err
