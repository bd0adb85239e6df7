"""The scenes, read back from their pixels by another program."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from rnnlab.data.draws import EVALUATE, TEST, TRAIN
from rnnlab.errors import UsageError
from rnnlab.tasks.captions import scenes

PURPOSES = (TRAIN, EVALUATE, TEST)
SIZE = 32


@pytest.fixture(scope="module")
def drawn():
    return {purpose: scenes.draw(0, purpose, np.arange(1500), SIZE) for purpose in PURPOSES}


def test_a_scene_is_a_pure_function_of_seed_purpose_and_number(drawn):
    again = scenes.draw(0, TRAIN, np.array([7, 1499, 7, 0]), SIZE)
    for scene, number in zip(again, (7, 1499, 7, 0), strict=True):
        before = drawn[TRAIN][number]
        np.testing.assert_array_equal(scene.picture, before.picture)
        assert (scene.groups, scene.way) == (before.groups, before.way)
    numbers = np.arange(1500)
    for purpose in PURPOSES:
        said = [scenes.sentence(scene) for scene in drawn[purpose]]
        assert scenes.sentences(0, purpose, numbers) == said
    for other in (scenes.draw(1, TRAIN, np.array([7]), SIZE), drawn[TEST][7:]):
        assert (other[0].picture != drawn[TRAIN][7].picture).any()


# What is held out


def test_held_out_combinations_are_in_no_training_scene_and_in_every_other(drawn):
    for purpose in PURPOSES:
        found = set()
        for scene in drawn[purpose]:
            parts = [scenes.part_of(group) for group in scene.groups]
            assert sum(part == purpose for part in parts) >= 1
            assert sum(part == TRAIN for part in parts) >= len(parts) - 1
            found |= set(scene.groups)
        # and all of them come up
        assert found == set(scenes.combinations(TRAIN)) | set(scenes.combinations(purpose))
    held = scenes.combinations(EVALUATE) + scenes.combinations(TEST)
    assert len(held) == 18
    assert not set(held) & set(scenes.combinations(TRAIN))


def test_every_word_and_every_pair_is_in_training(drawn):
    for part, least in ((TRAIN, 2), (EVALUATE, 1), (TEST, 1)):
        groups = scenes.combinations(part)
        for place, size in enumerate((3, 6, 4)):
            assert {group[place] for group in groups} == set(range(size))
        if part == TRAIN:
            for one, two in itertools.combinations(range(3), 2):
                pairs = [(group[one], group[two]) for group in groups]
                assert len(set(pairs)) == (3, 6, 4)[one] * (3, 6, 4)[two]
                assert min(pairs.count(pair) for pair in pairs) >= least
    words = {word for scene in drawn[TRAIN] for word in scenes.sentence(scene).split()}
    assert words == set(scenes.SYMBOLS) - {scenes.PAD, scenes.BEGIN, scenes.END}
    lengths = {len(scenes.sentence(s).split()) for p in PURPOSES for s in drawn[p]}
    assert max(lengths) == scenes.LONGEST


# Whether the sentences are true: everything below reads the pixels alone.


def _shape(mask):
    """Which shape fills its bounding box like this."""
    fill = mask.mean()
    half = len(mask) // 2
    low = mask[-half:].sum() / max(mask[:half].sum(), 1)  # a triangle has more of it below
    if fill > 0.87:
        return "square"
    if low > 1.5:
        return "triangle"
    return "circle" if fill > 0.68 else "cross"


def _objects(picture):
    """(colour, shape, the middle, the box) of every connected piece that is not background."""
    pixels = picture.astype(float)
    found = []
    pieces, _ = ndimage.label(np.abs(pixels - scenes.GROUND).max(-1) > 60)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        mask = pieces == number
        if mask.sum() < len(pixels) ** 2 / 256:  # a corner of an object that noise has cut off
            continue
        hue = pixels[mask].mean(0)
        hue /= np.linalg.norm(hue)
        best = max(scenes.COLOURS, key=lambda name: _likeness(hue, scenes.COLOURS[name]))
        middle = ndimage.center_of_mass(mask)
        found.append((best, _shape(mask[box]), middle, box))
    return found


def _likeness(hue, colour):
    colour = np.array(colour, float)
    return float(hue @ (colour / np.linalg.norm(colour)))


def _apart(first, second, axis):
    """All boxes of the first group end before those of the second begin."""
    return max(box[axis].stop for *_, box in first) <= min(box[axis].start for *_, box in second)


def _described(picture):
    size = len(picture)
    groups = {}
    for one in _objects(picture):
        groups.setdefault(one[:2], []).append(one)

    def name(of):
        colour, shape = of[0][:2]
        one = len(of) == 1
        noun = shape if one else {"cross": "crosses"}.get(shape, shape + "s")
        return f"{('a', 'two', 'three')[len(of) - 1]} {colour} {noun}"

    if len(groups) == 2:
        relations = []
        for first, second in itertools.permutations(groups.values()):
            for axis, word in ((0, "above"), (1, "left of")):
                if _apart(first, second, axis):
                    relations.append(f"{name(first)} {word} {name(second)}")
        (only,) = relations  # one sentence is true, and no other
        return only
    (group,) = groups.values()
    middles = np.array([middle for _, _, middle, _ in group]) / size
    if ((middles > 0.25) & (middles < 0.75)).all():
        return f"{name(group)} in the middle"
    row, column = (middles > 0.5).astype(int).T
    assert len(set(row)) == len(set(column)) == 1
    outermost = (np.abs(middles - 0.5) > 0.25).all(-1)
    assert outermost.any()
    return f"{name(group)} in the {('top', 'bottom')[row[0]]} {('left', 'right')[column[0]]} corner"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_sentences_are_true_of_the_picture(purpose):
    for scene in scenes.draw(0, purpose, np.arange(300), 128):  # large, for exact outlines
        assert _described(scene.picture) == scenes.sentence(scene)


@pytest.mark.parametrize("size", [32, 64])
def test_small_pictures_show_the_same_scenes(size, drawn):
    few = scenes.draw(0, TEST, np.arange(100), size)
    for small, large in zip(few, scenes.draw(0, TEST, np.arange(100), 128), strict=True):
        assert (small.groups, small.way) == (large.groups, large.way)
        blocks = large.picture.reshape(size, 128 // size, size, 128 // size, 3)
        away = np.abs(blocks.mean((1, 3)) - small.picture)
        assert away.mean() < 10
        assert np.quantile(away, 0.99) < 60  # at outlines, where a pixel's share is rounded


@pytest.mark.parametrize("size", [20, 34, 0, -32])
def test_a_size_that_has_no_cells_is_refused(size):
    with pytest.raises(UsageError, match="multiple of 4 pixels, at least 24"):
        scenes.draw(0, TRAIN, np.arange(2), size)
