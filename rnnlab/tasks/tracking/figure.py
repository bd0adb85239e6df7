"""Pictures of a tracked object: its true box and the model's, for the verb show."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.run.figure import COLOURS


class Tracking(NamedTuple):
    """B videos with the box of an object and what a model says it is."""

    frames: np.ndarray  # uint8 [T, B, side, side]
    true: np.ndarray  # float [T, B, 4]: (cx, cy, w, h) as shares of the side
    said: np.ndarray  # float [T, B, 4]
    hidden: np.ndarray  # bool [T, B]: where the object cannot be seen


LINES = {"true": (COLOURS[5], 0), "model": (COLOURS[4], 5)}  # colour, and length of a dash or 0
MARGIN = 22  # pixels for a line of text


def tracking(videos: Tracking, folder: Path, *, milliseconds: int, shown: int) -> list[Path]:
    """Writes tracking.gif, all videos side by side, a frame for `milliseconds`, and tracking.png, of
    the one that hides longest `shown` frames from first to last. Returns both paths."""
    time, rows, side = videos.frames.shape[:3]
    pictures = []
    for t in range(time):
        tiles = [_boxed(videos, t, row, max(1, 200 // side)) for row in range(rows)]
        pictures.append(_page(tiles, min(rows, 3), f"frame {t + 1} of {time}"))
    gif(folder / "tracking.gif", pictures, milliseconds)
    row = int(videos.hidden.sum(0).argmax())
    places = np.unique(np.linspace(0, time - 1, shown).round().astype(int))
    tiles = [_boxed(videos, t, row, max(1, 150 // side)) for t in places]
    _page(tiles, len(tiles), f"frames {', '.join(str(t + 1) for t in places)} of {time}").save(
        folder / "tracking.png"
    )
    return [folder / "tracking.gif", folder / "tracking.png"]


def gif(path: Path, frames: Sequence[Any], milliseconds: int) -> None:
    """Writes Pillow's images of one size as an animated GIF that begins anew at its end. A frame is
    shown for `milliseconds`, which the format rounds to hundredths of a second."""
    first, *others = [frame.quantize(64) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


def _boxed(videos: Tracking, t: int, row: int, scale: int) -> Any:
    """One frame, every pixel `scale` x `scale`, with both boxes."""
    from PIL import Image, ImageDraw

    side = videos.frames.shape[2] * scale
    pixels = videos.frames[t, row].repeat(scale, 0).repeat(scale, 1)
    image = Image.fromarray(pixels).convert("RGB")
    drawing = ImageDraw.Draw(image)
    for values, (colour, dash) in zip((videos.true, videos.said), LINES.values(), strict=True):
        centre, size = values[t, row, :2] * side, np.clip(values[t, row, 2:], 0, 1) * side
        (left, top), (right, bottom) = centre - size / 2, centre + size / 2
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        for one, other in itertools.pairwise(corners):
            _line(drawing, np.array(one), np.array(other), colour, dash)
    if videos.hidden[t, row]:
        drawing.text((4, 2), "hidden", fill="white", stroke_width=1, stroke_fill="black")
    return image


def _line(drawing: Any, one: np.ndarray, other: np.ndarray, colour: str, dash: int) -> None:
    length = float(np.hypot(*(other - one)))
    parts = max(1, round(length / dash)) if dash else 1
    for part in range(0, parts, 2):
        ends = [one + (other - one) * min(share, parts) / parts for share in (part, part + 1)]
        drawing.line([tuple(map(float, end)) for end in ends], fill=colour, width=2)


def _page(tiles: Sequence[Any], columns: int, title: str) -> Any:
    """The tiles, `columns` beside each other, over a legend."""
    from PIL import Image, ImageDraw

    width, height = tiles[0].size
    lines = -(-len(tiles) // columns)
    gap = 4
    page = Image.new(
        "RGB", (columns * (width + gap) + gap, lines * (height + gap) + gap + MARGIN), "white"
    )
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        page.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    drawing = ImageDraw.Draw(page)
    middle, x = page.height - MARGIN / 2, 8.0
    for name, (colour, dash) in LINES.items():
        # On black, as in the pictures: neither colour is dark enough for white.
        drawing.rectangle((x, middle - 6, x + 34, middle + 6), fill="black")
        ends = np.array([x + 2, middle]), np.array([x + 32, middle])
        _line(drawing, *ends, colour, dash)
        drawing.text((x + 40, middle - 6), name, fill="black")
        x += 90
    drawing.text((x, middle - 6), title, fill="black")
    return page
