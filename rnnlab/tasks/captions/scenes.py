"""Scenes of shapes with a sentence each, whose combinations are held out.

A scene has one group of equal objects at a place, "three green crosses in the bottom left corner", or
two groups, "two red circles above a blue square": of a count, a colour and a shape. Every picture has
one right sentence:

- of two groups the one that is above, or left of, the other is named first. They are apart along that
  axis, and along the other one they are not. They differ in colour or in shape;
- a group in a corner has an object in the outermost of the 4 x 4 cells of the picture and all in that
  quarter; one in the middle is in the four central cells.

Objects differ in size and place within their cells and in shade, and there is noise on all pixels.

Held out are the combinations (count, colour, shape) whose indices sum to a multiple of 4: a quarter of
them. Training has none of them, and yet every count with every colour and shape, and every colour with
every shape. A scene for validation has one group of half of these combinations, a scene for the test
one of the other half, so that choosing a model by validation tells nothing about the test's.

A scene is a pure function of (seed, purpose, number).
"""

from typing import NamedTuple

import numpy as np

from rnnlab.data.draws import EVALUATE, TEST, TRAIN, Random
from rnnlab.data.sprites import LARGEST
from rnnlab.errors import UsageError

COUNTS = ("a", "two", "three")
COLOURS = {  # name -> RGB
    "red": (220, 50, 47),
    "green": (60, 170, 60),
    "blue": (60, 90, 235),
    "yellow": (235, 210, 50),
    "purple": (160, 60, 190),
    "white": (235, 235, 235),
}
SHAPES = {"square": "squares", "circle": "circles", "triangle": "triangles", "cross": "crosses"}
PLACES = (
    "in the top left corner",
    "in the top right corner",
    "in the bottom left corner",
    "in the bottom right corner",
    "in the middle",
)
RELATIONS = ("above", "left of")
GROUND = 30  # grey
GRID = 4  # cells a side
SMALLEST, STEP = 24, 4  # pixels a side: the least, and its multiples

PAD, BEGIN, END = "<pad>", "<begin>", "<end>"
# The symbols 0, 1 and 2 are PAD, BEGIN and END.
SYMBOLS = (
    *(PAD, BEGIN, END),
    *sorted(
        {*COUNTS, *COLOURS, *SHAPES, *SHAPES.values()}
        | {word for part in (*PLACES, *RELATIONS) for word in part.split()}
    ),
)
LONGEST = 8  # words of a sentence


class Group(NamedTuple):
    """Equal objects, as indices of COUNTS, COLOURS and SHAPES."""

    number: int
    colour: int
    shape: int


class Scene(NamedTuple):
    """What a picture shows: one group at a place, or two in a relation."""

    groups: tuple[Group, ...]
    way: int  # of PLACES for one group, of RELATIONS for two
    picture: np.ndarray  # uint8 [size, size, 3]


def part_of(group: Group) -> int:
    """The purpose that alone has this combination: EVALUATE or TEST; or TRAIN, which every scene has
    groups of."""
    if sum(group) % 4:
        return TRAIN
    return TEST if (group.number + group.colour // 2) % 2 else EVALUATE


def combinations(purpose: int) -> tuple[Group, ...]:
    """All groups of `part_of`."""
    return tuple(
        group
        for count in range(len(COUNTS))
        for colour in range(len(COLOURS))
        for shape in range(len(SHAPES))
        if part_of(group := Group(count, colour, shape)) == purpose
    )


_OF = {purpose: combinations(purpose) for purpose in (TRAIN, EVALUATE, TEST)}


def sentence(scene: Scene) -> str:
    """The one right description."""
    return _sentence(scene.groups, scene.way)


def _sentence(groups: tuple[Group, ...], way: int) -> str:
    names = []
    for group in groups:
        one, many = list(SHAPES.items())[group.shape]
        colour = list(COLOURS)[group.colour]
        names.append(f"{COUNTS[group.number]} {colour} {many if group.number else one}")
    if len(names) == 1:
        return f"{names[0]} {PLACES[way]}"
    return f"{names[0]} {RELATIONS[way]} {names[1]}"


# Uniform numbers of a scene, by what they are for.
_CHOICES, _CELLS, _OBJECTS = 5, 1 + GRID * GRID, 2 * len(COUNTS)
_DRAWS = _CHOICES + _CELLS + 5 * _OBJECTS


def check(size: int) -> None:
    """Raises UsageError for a size of a scene that is no multiple of 4 from 24 to 1024."""
    if not SMALLEST <= size <= LARGEST or size % STEP:
        raise UsageError(
            f"a scene's size must be a multiple of {STEP} pixels, at least {SMALLEST} and at most "
            f"{LARGEST}: got {size}"
        )


def draw(seed: int, purpose: int, numbers: np.ndarray, size: int) -> list[Scene]:
    """The scenes of these numbers, of size x size pixels.

    purpose: TRAIN, EVALUATE or TEST of `rnnlab.data.draws`. Raises UsageError for a size that is no multiple
    of 4 from 24 on.
    """
    check(size)
    found = [_planned(seed, purpose, int(number), size) for number in numbers]
    pictures = _drawn(found, size)
    return [
        Scene(groups, way, picture)
        for (groups, way, *_), picture in zip(found, pictures, strict=True)
    ]


def sentences(seed: int, purpose: int, numbers: np.ndarray) -> list[str]:
    """Those of the scenes of these numbers; no picture is drawn."""
    return [_sentence(*_planned(seed, purpose, int(number), 0)[:2]) for number in numbers]


def _planned(seed: int, purpose: int, number: int, size: int) -> tuple:
    """(groups, way, cells, uniform numbers for the objects, noise)."""
    random = Random(seed, purpose, number)
    uniform = random.uniform((_DRAWS,))
    groups, way = _groups(purpose, uniform[:_CHOICES])
    cells = _cells(groups, way, uniform[_CHOICES : _CHOICES + _CELLS])
    return groups, way, cells, uniform[-5 * _OBJECTS :], random.uniform((size, size))


def _groups(purpose: int, uniform: np.ndarray) -> tuple[tuple[Group, ...], int]:
    """What there is. A scene that is no training scene has one group of those held out."""

    def chosen(combinations: tuple[Group, ...], draw: float) -> Group:
        return combinations[int(draw * len(combinations))]

    kind, way, which, first, second = uniform
    group = chosen(_OF[purpose], first)
    if kind < 0.5:
        return (group,), int(way * len(PLACES))
    others = tuple(
        other for other in _OF[TRAIN] if (other.colour, other.shape) != (group.colour, group.shape)
    )
    pair = (group, chosen(others, second))
    return (pair if which < 0.5 else pair[::-1]), int(way * len(RELATIONS))


def _cells(groups: tuple[Group, ...], way: int, uniform: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the cell of each object, the first group's first."""
    keys = uniform[1:].reshape(2, GRID // 2, GRID)
    if len(groups) == 1:
        count = groups[0].number + 1
        middle = way == len(PLACES) - 1
        top, left = (1, 1) if middle else (2 * (way // 2), 2 * (way % 2))
        order = keys[0][:, :2].copy()
        if not middle:
            order[way // 2, way % 2] = -1.0  # the outermost cell is taken first
        return [(top + at // 2, left + at % 2) for at in np.argsort(order, axis=None)[:count]]
    # Of each group one object is in the same column (row, where they stand side by side).
    shared = int(uniform[0] * GRID)
    found = []
    for half, group in enumerate(groups):
        order = keys[half].copy()
        order[int(order[0, shared] < order[1, shared]), shared] = -1.0
        for at in np.argsort(order, axis=None)[: group.number + 1]:
            along, across = 2 * half + int(at) // GRID, int(at) % GRID
            found.append((along, across) if way == 0 else (across, along))
    return found


def _drawn(found: list[tuple], size: int) -> np.ndarray:
    """uint8 [B, size, size, 3]. An object stays within its cell, and leaves a gap to its neighbours."""
    side = size // GRID
    colours, total = np.array(list(COLOURS.values()), np.float32), len(found)
    image = np.full((total, GRID, side, GRID, side, 3), GROUND, np.float32)
    scene, row, column, colour, shape, rest = [], [], [], [], [], []
    for number, (groups, _, cells, uniform, _) in enumerate(found):
        of = [group for group in groups for _ in range(group.number + 1)]
        scene += [number] * len(of)
        row += [cell[0] for cell in cells]
        column += [cell[1] for cell in cells]
        colour += [group.colour for group in of]
        shape += [group.shape for group in of]
        rest.append(uniform.reshape(_OBJECTS, 5)[: len(of)])
    radius, right, down, shade, tint = np.concatenate(rest).T[..., None, None].astype(np.float32)
    most = 0.44 * side  # from the middle of the cell to the end of the object
    radius = most * (0.8 + 0.2 * radius)
    place = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    x = place[None, None, :] - (2 * right - 1) * (most - radius)
    y = place[None, :, None] - (2 * down - 1) * (most - radius)
    distance = np.choose(np.array(shape)[:, None, None], _distances(x, y, radius))
    cover = np.clip(0.5 - distance, 0, 1)[..., None]  # of a pixel's area, about
    ink = colours[colour][:, None, None] * (0.85 + 0.15 * shade[..., None])
    ink = ink + 10 * (tint[..., None] - 0.5)
    where = (scene, row, slice(None), column)
    image[where] = image[where] * (1 - cover) + ink * cover
    noise = np.stack([of[-1] for of in found]).astype(np.float32)[..., None]
    image = image.reshape(total, size, size, 3) + 24 * (noise - 0.5)
    return np.clip(image, 0, 255).astype(np.uint8)


def _distances(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> list[np.ndarray]:
    """Of each pixel [N, side, side] to the outline of each of SHAPES, about; inside it is negative."""
    across, along = np.abs(x), np.abs(y)
    bar = radius / 3
    return [
        np.maximum(across, along) - 0.9 * radius,
        np.hypot(x, y) - radius,
        # An apex at -radius, and a base of 2 radius at +radius: its sides have a slope of 2.
        np.maximum(along - radius, (2 * across - y - radius) / 5**0.5),
        np.minimum(
            np.maximum(across - radius, along - bar), np.maximum(along - radius, across - bar)
        ),
    ]
