import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

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


def grey(shade):
    return [shade] * 3


RED, WHITE = [255, 0, 0], [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "suffix", "above", "below"),
    [
        ("1", "png", grey(255), grey(0)),
        ("L", "png", grey(76), grey(29)),
        ("P", "png", RED, [0, 0, 255]),
        ("RGB", "webp", RED, [0, 0, 255]),
        ("RGBX", "tiff", RED, [0, 0, 255]),
        ("CMYK", "tiff", RED, [0, 0, 255]),
        ("YCbCr", "tiff", RED, [0, 0, 255]),
        ("LAB", "tiff", RED, [0, 0, 255]),
        ("HSV", "", RED, [0, 0, 255]),
    ],
)
def test_every_mode_becomes_rgb(mode, suffix, above, below, halves, tmp_path, monkeypatch):
    picture = Image.fromarray(halves)
    if mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        picture = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    elif mode == "1":
        picture = picture.getchannel("R").convert("1")
    else:
        picture = picture.convert(mode)
    path = tmp_path / f"a.{suffix or 'png'}"
    if suffix:
        picture.save(path)
    else:  # of which there is no file
        monkeypatch.setattr(Image, "open", lambda path: picture)
    found = media.image(path, 10).astype(int)
    assert np.abs(found[:4] - above).max() <= 25
    assert np.abs(found[6:] - below).max() <= 25


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
@pytest.mark.parametrize("saved", [True, False])
def test_what_is_transparent_lies_on_white(mode, saved, halves, tmp_path, monkeypatch):
    """Above it is clear, below half clear; the colours below are those of black."""
    alpha = np.zeros((20, 30, 1), np.uint8)
    alpha[10:] = 128
    picture = Image.fromarray(np.concatenate([0 * halves, alpha], -1))
    if mode == "PA":  # which `convert` makes opaque
        pairs = np.concatenate([alpha * 0, alpha], -1)
        picture = Image.frombytes("PA", (30, 20), pairs.tobytes())
        picture.putpalette([0, 0, 0])
    if mode == "La":
        picture = picture.convert("LA")
    picture = picture if mode == "PA" else picture.convert(mode)
    path = tmp_path / "a.png"
    if saved and mode in ("LA", "RGBA", "PA"):
        picture.save(path := tmp_path / ("a.tiff" if mode == "PA" else "a.png"))
    else:
        monkeypatch.setattr(Image, "open", lambda path: picture)
    found = media.image(path, 10).astype(int)
    assert (found[:4] == 255).all()
    assert np.abs(found[6:] - 127).max() <= 2


@pytest.mark.parametrize(("mode", "clear"), [("1", 0), ("L", 29), ("P", 0), ("RGB", (0, 0, 255))])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_colour_that_is_called_transparent_is_white(mode, clear, suffix, halves, tmp_path):
    if suffix == "gif" and mode != "P":
        pytest.skip("all others become that one")
    picture = Image.fromarray(halves)
    picture = picture.getchannel("R").convert("1") if mode == "1" else picture.convert(mode)
    if mode == "P":
        clear = picture.getpixel((0, 19))
    picture.save(tmp_path / f"a.{suffix}", transparency=clear)
    found = media.image(tmp_path / f"a.{suffix}", 10)
    assert (found[6:] == 255).all()
    assert mode == "1" or (found[:4] < 255).any()


SHADES = np.repeat(np.array([[0], [257], [25700], [65535]], np.uint16), 4, axis=1)


@pytest.mark.parametrize("suffix", ["png", "tiff", "jp2", "pgm"])
@pytest.mark.parametrize("turned", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(suffix, turned, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        content = b"P5 4 4 65535\n" + SHADES.astype(">u2").tobytes()
        path.write_bytes(content)
    else:
        exif = Image.Exif()
        exif[0x0112] = turned
        more = {"exif": exif} if suffix == "png" else {}
        Image.fromarray(SHADES).save(path, **more)
    found = media.image(path, 4)
    expected = [0, 1, 100, 255] if suffix != "png" or turned == 1 else [255, 100, 1, 0]
    np.testing.assert_array_equal(found[:, 0, 0], expected)


def test_sixteen_bits_in_the_other_order_of_bytes_and_other_depths(tmp_path):
    path = tmp_path / "a.tiff"
    Image.frombytes("I;16B", (4, 4), SHADES.astype(">u2").tobytes()).save(path)
    assert media.image(path, 4)[:, 0, 0].tolist() == [0, 1, 100, 255]
    path = tmp_path / "a.pgm"  # of 10 bits
    path.write_bytes(b"P5 2 2 1023\n" + np.array([0, 341, 682, 1023], ">u2").tobytes())
    assert media.image(path, 2)[..., 0].ravel().tolist() == [0, 85, 170, 255]


def test_a_tiff_in_which_zero_is_white(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(SHADES).save(path)
    content = path.read_bytes()
    entry = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    assert content.count(entry + b"\1") == 1
    path.write_bytes(content.replace(entry + b"\1", entry + b"\0"))
    assert media.image(path, 4)[:, 0, 0].tolist() == [255, 254, 155, 0]


def test_a_shade_of_sixteen_bits_may_be_transparent(tmp_path):
    Image.fromarray(SHADES).save(tmp_path / "a.png", transparency=257)
    assert media.image(tmp_path / "a.png", 4)[:, 0, 0].tolist() == [0, 255, 100, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_shades_without_a_black_and_a_white_are_told(mode, tmp_path):
    picture = Image.fromarray(SHADES.astype(np.int32 if mode == "I" else np.float32))
    assert picture.mode == mode
    picture.save(tmp_path / "a.tiff")
    with pytest.raises(UsageError, match=rf"a\.tiff is an image of the mode {mode}, whose numbers"):
        media.image(tmp_path / "a.tiff", 4)


def test_every_mode_of_pillow_is_known(tmp_path, monkeypatch):
    """Either it is a picture, or the file and the mode are named."""
    from PIL import ImageMode

    ImageMode.getmode("L")  # fills the list
    known = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"]
    known += ["HSV", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"]
    for mode in known:
        picture = Image.new(mode, (4, 4))
        monkeypatch.setattr(Image, "open", lambda path, picture=picture: picture)
        if mode in ("I", "F"):
            with pytest.raises(UsageError, match=f"a.png is an image of the mode {mode}"):
                media.image("a.png", 4)
        else:
            assert media.image("a.png", 4).shape == (4, 4, 3)


@pytest.mark.parametrize("error", [KeyError(1), TypeError("x"), ValueError("y"), IndexError("z")])
def test_whatever_pillow_raises_is_told_with_the_file(error, monkeypatch):
    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UsageError, match=r"a\.png is a damaged image"):
        media.image("a.png", 4)


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
