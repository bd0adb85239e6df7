"""The curves of one run, and what every figure promises."""

import math
import struct

import matplotlib
import pytest
from matplotlib.image import imread

from rnnlab.errors import StorageError
from rnnlab.run.figure import BLUE, GREEN, GREY, ORANGE, RED
from rnnlab.train.curves import draw_curves


def train_row(step, **changes):
    return {
        "step": step,
        "split": "train",
        "loss": 1.4 + 2 * math.exp(-step / 300),
        "grad_norm": 0.4 + math.exp(-step / 100),
        "grad_norm_max": 0.8 + 2 * math.exp(-step / 100),
        "clipped": math.exp(-step / 200),
        "update_ratio": 1e-3,
    } | changes


def valid_row(step, **changes):
    return {"step": step, "split": "valid", "loss": 1.5 + 2 * math.exp(-step / 300)} | changes


TRAIN = [train_row(step) for step in range(50, 1001, 50)]
VALID = [valid_row(step, loss_random_windows=1.7) for step in (250, 500, 750, 1000)]

ROWS = {
    "no row": [],
    "one row": TRAIN[:1],
    "no validation": TRAIN,
    "validation alone": VALID,
    "rows without some values": [{"step": 1, "split": "train", "loss": 1.0}, valid_row(1)],
    "rows of a kind yet unknown": [*TRAIN, {"step": 1000, "split": "test", "loss": 1.0}],
    "nothing finite": [
        train_row(50, loss=math.nan, grad_norm=math.inf),
        valid_row(50, loss=math.inf),
    ],
    "nothing but zeros": [
        train_row(1, loss=0.0, update_ratio=0.0, grad_norm=0.0, grad_norm_max=0.0),
        valid_row(1, loss=0.0),
        valid_row(2, loss=-1.0),
    ],
    "a run that blows up": [train_row(step, grad_norm_max=10.0**step) for step in range(30)],
}


def draw(rows, path, title="a run", clip_norm=1.0):
    draw_curves(rows, path, title=title, clip_norm=clip_norm, unit="char")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("what", ROWS)
def test_curves_draws(what, tmp_path):
    width, height = draw(ROWS[what], tmp_path / "curves.png", clip_norm=math.inf)
    assert width >= 1200
    assert height >= 700
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("clip_norm", [1e-4, 1e4])
def test_a_title_is_taken_as_it_is(clip_norm, tmp_path):
    draw(TRAIN, tmp_path / "curves.png", title="50$ and \\frac$, под 月", clip_norm=clip_norm)


def test_a_value_that_is_not_finite_is_as_one_that_is_missing(tmp_path):
    draw(TRAIN + VALID, tmp_path / "without.png")
    names = ("loss", "grad_norm", "grad_norm_max", "clipped", "update_ratio")
    odd = [
        valid_row(300, loss=math.nan, loss_random_windows=math.inf),
        train_row(300, **dict.fromkeys(names, math.inf)),
        train_row(400, **dict.fromkeys(names, math.nan)),
    ]
    draw(odd + TRAIN + VALID, tmp_path / "with.png")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


def test_the_curves_are_in_the_picture(tmp_path):
    draw(TRAIN + VALID, tmp_path / "full.png")
    draw([], tmp_path / "empty.png", clip_norm=math.inf)
    pixels = {name: imread(tmp_path / f"{name}.png")[..., :3] for name in ("full", "empty")}
    for colour in (BLUE, ORANGE, GREEN, RED, GREY):
        exact = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        count = {name: (abs(image - exact).max(-1) < 0.01).sum() for name, image in pixels.items()}
        assert count["full"] > count["empty"] + 20, colour


def test_the_importers_backend_is_left_alone(tmp_path):
    backend = matplotlib.get_backend()
    path = tmp_path / "curves.png"
    path.write_bytes(b"an old figure")
    try:
        matplotlib.use("svg")
        draw(TRAIN + VALID, path)
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(backend)


def test_a_figure_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*curves\.png: Is a directory"):
        draw([train_row(1)], tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with pytest.raises(StorageError, match=r"cannot write .*away/curves\.png: No such file"):
        draw([train_row(1)], tmp_path / "away" / "curves.png")
