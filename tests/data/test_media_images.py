import sys

import numpy as np
import pytest
from PIL import Image

from rnnlab.data import media
from rnnlab.errors import UsageError


@pytest.fixture
def halves():
    """Red above, blue below: 30 wide, 20 high."""
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:10, :, 0] = 255
    picture[10:, :, 2] = 255
    return picture


def test_an_image_is_scaled_and_not_cropped(halves, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(halves).save(path)
    found = media.image(path, 10)
    assert found.shape == (10, 10, 3)
    assert found.dtype == np.uint8
    assert (found[:4] == [255, 0, 0]).all()
    assert (found[6:] == [0, 0, 255]).all()


def test_pixels_that_become_one_are_averaged(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    found = media.image(tmp_path / "a.png", 8).astype(int)
    assert np.abs(found - 100).max() <= 15


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode, halves, tmp_path):
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.fromarray(halves).convert(mode).save(path)
    assert media.image(path, 6).shape == (6, 6, 3)


def test_an_image_is_turned_as_its_exif_says(halves, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    Image.fromarray(halves).save(tmp_path / "a.png", exif=exif)
    found = media.image(tmp_path / "a.png", 10)
    assert (found[0, 0] == [0, 0, 255]).all()


def test_what_is_no_image_is_named(halves, tmp_path):
    for name, content, said in (
        ("text.jpg", b"I am no image", "no image"),
        ("empty.jpg", b"", "no image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name} is {said}"):
            media.image(tmp_path / name, 8)
    with pytest.raises(UsageError, match=r"absent\.png cannot be read: No such file"):
        media.image(tmp_path / "absent.png", 8)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        media.image(tmp_path, 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp"])
def test_an_image_cut_short_is_named(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError, match=f"a.{suffix} is a damaged image"):
        media.image(path, 8)


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path, monkeypatch, recwarn):
    """Pillow warns from its limit on, and unpacks all the same up to twice as many."""
    path = tmp_path / "bomb.png"
    Image.new("RGB", (40, 30)).save(path)
    for limit in (1000, 500):  # 1,200 pixels: above it, and above twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UsageError, match=r"bomb\.png is not read: Image size \(1200 pixels\)"):
            media.image(path, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    assert media.image(path, 8).shape == (8, 8, 3)
    assert not recwarn.list


def test_without_pillow_a_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match="needs the package pillow: pip install"):
        media.image(tmp_path / "a.png", 8)
