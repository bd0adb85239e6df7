"""Pictures with what a model says of them: a page, and a contact sheet.

The page is one HTML file that needs nothing but itself.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rnnlab.run.figure import save

LEAST = 192  # pixels; a smaller picture is enlarged by a whole number, each pixel a sharp square


class Shown(NamedTuple):
    """A picture with its captions."""

    name: str
    picture: np.ndarray | None  # uint8 [h, w, 3]; None where there are features alone
    answer: str  # the model's
    truths: tuple[str, ...]  # one or more
    right: bool  # the answer is one of them


def enlarged(picture: np.ndarray) -> np.ndarray:
    """The picture [h, w, 3] with each pixel repeated, so that its shorter side is LEAST or more."""
    times = max(1, -(-LEAST // min(picture.shape[:2])))
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


def _png(picture: np.ndarray) -> str:
    from PIL import Image  # which matplotlib brings along

    out = io.BytesIO()
    Image.fromarray(enlarged(picture)).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def page(title: str, about: Sequence[str], shown: Sequence[Shown]) -> str:
    """The page's HTML. about: paragraphs, as text."""
    cards = []
    for one in shown:
        mark, kind = ("&#10003; right", "right") if one.right else ("&#10007; other words", "wrong")
        image = (
            ""
            if one.picture is None
            else f'<img alt="{escape(one.name)}" src="data:image/png;base64,{_png(one.picture)}">'
        )
        truths = "".join(f"<li>{escape(truth)}</li>" for truth in one.truths)
        cards.append(
            f'<figure class="{kind}">{image}<figcaption><p class="name">{escape(one.name)} '
            f'<span class="mark">{mark}</span></p><p class="answer">{escape(one.answer)}</p>'
            f"<ul>{truths}</ul></figcaption></figure>"
        )
    return _TEMPLATE.format(
        title=escape(title),
        about="".join(f"<p>{escape(text)}</p>" for text in about),
        cards="\n".join(cards),
    )


def sheet(path: Path, shown: Sequence[Shown], columns: int = 4) -> None:
    """Write a PNG with the pictures in rows of `columns`, below each the answer and, where it is none
    of them, the first of the truths."""
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(2.9 * columns, 2.9 * rows), dpi=100)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.16 / rows, top=1 - 0.02 / rows)
    figure.subplots_adjust(wspace=0.08, hspace=0.36)
    for number, axis in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        axis.set_axis_off()
        if number >= len(shown):
            continue
        one = shown[number]
        if one.picture is not None:
            axis.imshow(one.picture, interpolation="nearest")
        said = [f"{'✓' if one.right else '✗'} {_wrapped(one.answer)}"]
        if not one.right:
            said.append(f"true: {_wrapped(one.truths[0])}")
        axis.text(
            0.5,
            -0.03,
            "\n".join(said),
            transform=axis.transAxes,
            ha="center",
            va="top",
            fontsize=8.5,
            color="#000000" if one.right else "#b34700",
        )
    save(figure, path, dpi=100)


def _wrapped(text: str, width: int = 36) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem;
  color: #111; background: #fff; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; padding: .75rem; border: 2px solid #0a6b4b; border-radius: .4rem; }}
figure.wrong {{ border: 2px dashed #b34700; }}
img {{ width: 100%; display: block; image-rendering: pixelated; }}
p {{ margin: .4rem 0; }}
.name {{ font-size: .8rem; color: #444; display: flex; justify-content: space-between; }}
.right .mark {{ color: #0a6b4b; font-weight: 600; }}
.wrong .mark {{ color: #b34700; font-weight: 600; }}
.answer {{ font-weight: 600; }}
ul {{ margin: .3rem 0 0; padding-left: 1.1rem; font-size: .85rem; color: #333; }}
</style>
</head>
<body>
<h1>{title}</h1>
{about}
<p>In bold what the model says; below it, what people said or what is true.</p>
<main>
{cards}
</main>
</body>
</html>
"""
