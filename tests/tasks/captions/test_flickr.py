import numpy as np
import pytest
from PIL import Image

from rnnlab.data import media
from rnnlab.errors import UsageError
from rnnlab.tasks.captions import flickr
from tests.tasks.files import PHOTOGRAPHS, SPLITS, publish

SIZE = 8


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    publish(tmp_path / "flickr")
    return tmp_path / "flickr"


def _write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")


def test_images_and_captions_stay_together_in_the_split_that_lists_them(folder):
    found = flickr.load(str(folder), SIZE)
    assert {split: found[split].names for split in found} == SPLITS
    for split in found.values():
        assert split.pictures.shape == (len(split.names), SIZE, SIZE, 3)
        for name, picture, captions in zip(
            split.names, split.pictures, split.captions, strict=True
        ):
            number = PHOTOGRAPHS.index(name)
            assert np.abs(picture.astype(int) - 40 * number).max() <= 2
            # in the order of their numbers
            assert captions == (f"a dog number {number} runs 0", f"a dog number {number} runs 1")


def test_the_rule_of_words():
    said = "Two dogs' owner -- a \"man\" -- can't jump 3 well-worn steps; née Ann .\t!"
    wanted = "two dogs owner a man can't jump 3 well-worn steps née ann"
    assert " ".join(flickr.words(said)) == wanted


def test_images_are_read_once(folder, monkeypatch):
    first = flickr.load(str(folder), SIZE)["test"].pictures
    calls = []
    read = media.image
    monkeypatch.setattr(media, "image", lambda *how: calls.append(how) or read(*how))
    second = flickr.load(str(folder), SIZE)["test"].pictures
    assert not calls
    np.testing.assert_array_equal(first, second)
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(folder / "Flicker8k_Dataset" / "f.jpg")
    third = flickr.load(str(folder), SIZE)["test"].pictures  # an image that has changed
    assert len(calls) == len(PHOTOGRAPHS)
    assert (third[0] == first[0]).all()
    assert np.abs(third[1].astype(int) - 7).max() <= 2


def test_features_take_the_place_of_images(folder, tmp_path):
    for file in (folder / "Flicker8k_Dataset").iterdir():
        file.unlink()
    rows = np.arange(14.0).reshape(7, 2)
    names = ["more.jpg", *reversed(PHOTOGRAPHS)]
    np.save(tmp_path / "vectors.npy", rows)
    _write(tmp_path, "vectors.txt", "\n".join(names) + "\n")
    found = flickr.load(str(folder), SIZE, str(tmp_path / "vectors.npy"))
    for split in found.values():
        assert split.pictures.dtype == np.float32
        np.testing.assert_array_equal(
            split.pictures, [rows[names.index(name)] for name in split.names]
        )

    def fails(match):
        with pytest.raises(UsageError, match=match):
            flickr.load(str(folder), SIZE, str(tmp_path / "vectors.npy"))

    _write(tmp_path, "vectors.txt", "\n".join(names[:-1]) + "\n")
    fails(r"vectors\.txt has 6 lines, and .*vectors\.npy 7 rows")
    _write(tmp_path, "vectors.txt", "\n".join([*names[:-1], "z.jpg"]) + "\n")
    fails(r"trainImages\.txt:1: a\.jpg has no row in .*vectors\.npy")
    _write(tmp_path, "vectors.txt", "\n".join(names) + "\n")
    rows[4, 1] = np.nan
    np.save(tmp_path / "vectors.npy", rows)
    fails(rf"vectors\.npy: row 5, of {names[4]}, has a value that is not finite")
    np.save(tmp_path / "vectors.npy", rows[0])
    fails(r"must hold an array \[N, E\] of numbers")
    np.save(tmp_path / "vectors.npy", np.array([["x"]]))
    fails(r"must hold an array \[N, E\] of numbers")
    _write(tmp_path, "vectors.npy", "no array")
    fails(r"vectors\.npy is no array that NumPy can read")
    (tmp_path / "vectors.npy").unlink()
    fails(r"vectors\.npy is no array that NumPy can read: .*No such file")


def test_without_a_folder_it_says_where_the_data_is(tmp_path):
    with pytest.raises(UsageError, match=r"data\.path must name .*Flickr8k_text\.zip and https:"):
        flickr.load("", SIZE)
    with pytest.raises(UsageError, match="nowhere is no folder"):
        flickr.load(str(tmp_path / "nowhere"), SIZE)


def test_a_bad_image_is_named_with_the_line_that_lists_it(folder):
    image = folder / "Flicker8k_Dataset" / "b.jpg"
    image.write_text("I am no image")
    with pytest.raises(UsageError, match=r"trainImages\.txt:2: .*b\.jpg is no image that Pillow"):
        flickr.load(str(folder), SIZE)
    image.unlink()
    with pytest.raises(UsageError, match=r"trainImages\.txt:2: b\.jpg is not in "):
        flickr.load(str(folder), SIZE)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("a.jpg A dog .", "a line is NAME.jpg#0, a tab and a caption; this is 'a.jpg A dog .'"),
        ("a.jpg#0 A dog .", "a line is NAME.jpg#0, a tab"),
        ("a.jpg#x\tA dog .", "a line is NAME.jpg#0, a tab"),
        ("", "a line is NAME.jpg#0, a tab"),
        ("a.jpg#7\t . ", "the caption has no word"),
        ("a.jpg#0\tA dog .", "a.jpg has a caption #0 already"),
    ],
)
def test_a_malformed_line_is_named(line, match, folder):
    text = (folder / flickr.TOKENS).read_text()
    lines = text.splitlines()
    _write(folder, flickr.TOKENS, "\n".join([*lines[:4], line, *lines[4:]]) + "\n")
    with pytest.raises(UsageError) as caught:
        flickr.load(str(folder), SIZE)
    assert f"{flickr.TOKENS}:5: {match}" in str(caught.value)


def test_bytes_that_are_no_utf8_are_named(folder):
    path = folder / flickr.TOKENS
    path.write_bytes(path.read_bytes().replace(b"runs 1", b"runs \xff", 2))
    with pytest.raises(UsageError, match=r"Flickr8k\.token\.txt:1 is not UTF-8"):
        flickr.load(str(folder), SIZE)


@pytest.mark.parametrize(
    ("split", "names", "match"),
    [
        ("test", "e.jpg\nb.jpg\n", r"testImages\.txt:2: b\.jpg is at .*trainImages\.txt:2 already"),
        (
            "train",
            "a.jpg\na.jpg\n",
            r"trainImages\.txt:2: a\.jpg is at .*trainImages\.txt:1 already",
        ),
        ("valid", "", r"devImages\.txt names no image"),
        ("valid", "d.jpg\n\n", r"devImages\.txt:2: .* this one is empty"),
        ("valid", "d.jpg\nz.jpg", r"devImages\.txt:2: z\.jpg has no caption in "),
    ],
)
def test_a_bad_list_is_named(split, names, match, folder):
    _write(folder, flickr.LISTS[split], names)
    with pytest.raises(UsageError, match=match):
        flickr.load(str(folder), SIZE)


@pytest.mark.parametrize("name", [flickr.TOKENS, *flickr.LISTS.values()])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"has no {name}"):
        flickr.load(str(folder), SIZE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_lists_and_captions_may_have_a_mark(encoding, folder):
    before = flickr.load(str(folder), SIZE)
    for name in (flickr.TOKENS, *flickr.LISTS.values()):
        _write(folder, name, (folder / name).read_text())
        (folder / name).write_text((folder / name).read_text(), encoding=encoding)
    found = flickr.load(str(folder), SIZE)
    assert [(s.names, s.captions) for s in found.values()] == [
        (s.names, s.captions) for s in before.values()
    ]


def test_an_encoding_that_is_named_is_taken(folder):
    text = (folder / flickr.TOKENS).read_text().replace("A dog", "Ein Rüde")
    (folder / flickr.TOKENS).write_bytes(text.encode("cp1252"))
    found = flickr.load(str(folder), SIZE, encoding="cp1252")
    assert found["valid"].captions[0][0].startswith("ein rüde number")


def test_words_keep_their_marks():
    assert flickr.words("एक हिन्दी किताब।") == ["एक", "हिन्दी", "किताब"]
    assert flickr.words("Cafe\u0301 snake_case ÉTÉ") == ["café", "snake", "case", "été"]


def test_a_linked_folder_of_images_is_read(folder, tmp_path):
    (folder / "Flicker8k_Dataset").rename(tmp_path / "elsewhere")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert {split: found.names for split, found in flickr.load(str(folder), SIZE).items()} == SPLITS


@pytest.mark.parametrize("number", ["9" * 5000, "\u0661"])
def test_a_number_of_a_caption_that_is_too_long_is_told(number, folder):
    _write(folder, flickr.TOKENS, f"a.jpg#{number}\tA dog .\n")
    with pytest.raises(UsageError, match=r"token\.txt:1: a line is|has no caption"):
        flickr.load(str(folder), SIZE)
