"""What the tests of figures share: whether a file is a picture, and whether the data are in it."""

import struct
from collections.abc import Sequence
from pathlib import Path

from matplotlib.image import imread


def check(path: Path, wide: int = 900) -> None:
    """A PNG, whole and large enough to be read: `wide` pixels at least."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= wide
    assert height >= 600


def check_colours(path: Path, colours: Sequence[str]) -> None:
    """It stands alone in its folder, and some of its pixels are of each colour."""
    check(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    pixels = imread(path)[..., :3]
    for colour in colours:
        exact = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels - exact).max(-1) < 0.02).sum() > 20, colour
