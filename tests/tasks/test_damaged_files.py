"""Files with bytes changed, lost or put in: they are read, or one line names them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from rnnlab.data import media
from rnnlab.errors import UsageError
from rnnlab.tasks import mnist, one_to_one
from rnnlab.tasks.actions import clips
from rnnlab.tasks.captions import flickr
from rnnlab.tasks.speech import audio
from rnnlab.tasks.tracking import mot
from rnnlab.tasks.translation import texts
from tests.tasks.files import write_video


def array(path: Path) -> None:
    np.save(path, np.random.default_rng(0).normal(size=(5, 3)))


def sound(path: Path) -> None:
    soundfile.write(path, 0.5 * np.sin(np.arange(200)), 8000)


def picture(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (9, 7)).save(path)


def says(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8")


def video(path: Path) -> None:
    write_video(path, np.zeros((3, 32, 48, 3), np.uint8))


def images(path: Path) -> None:
    path.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 5)) + bytes(5))


def boxes(path: Path) -> Any:
    return mot.read(path, name="a", size=(100, 100), truth=True)


BOXES = "1,7,10,20,30,40,1,-1\n1,9,50,20,10,10,1,-1\n"
KINDS = {  # name: (how it is written, how it is read)
    "a.npy": (array, lambda path: clips._numbers(path, "a", None)),
    "b.csv": (says("x,y,l\n1,2,up\n3,4,up\n"), lambda path: clips._numbers(path, "up", None)),
    "c.csv": (says("1,2,a\n3,4,b\n"), lambda path: one_to_one.read.__wrapped__(str(path), None)),
    "d.wav": (sound, lambda path: audio.read(path, 8000)),
    "e.idx": (images, lambda path: mnist.parsed(path.read_bytes(), path.name, rank=1)),
    "gt.txt": (says(BOXES), boxes),
    "seqinfo.ini": (says("[Sequence]\nimWidth=10\nimHeight=8\n"), mot.size_of),
    "f.token.txt": (
        says("a.jpg#0\tA dog .\na.jpg#1\tA cat .\n"),
        lambda path: flickr._captions(path, None),
    ),
    "g.en": (says("ein Mann\n" * 3), lambda path: texts.lines(path.read_bytes(), path.name)),
    "h.txt": (says("a/b.avi 1\n"), lambda path: clips.listed(str(path), {"a/b.avi": 0})),
    "i.png": (picture("RGBA"), lambda path: media.image(path, 4)),
    "j.gif": (picture("P"), lambda path: media.image(path, 4)),
    "k.tiff": (picture("I;16"), lambda path: media.image(path, 4)),
    "l.jpg": (picture("CMYK"), lambda path: media.image(path, 4)),
    "m.mp4": (video, lambda path: media.video(path, 4)),
    "n.avi": (video, lambda path: media.video(path, 4)),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        at, how = (
            chance.randrange(min(len(found), chance.choice([64, len(found)])) or 1),
            chance.random(),
        )
        if how < 0.6:
            found[at : at + 1] = bytes([chance.choice([0, 255, chance.randrange(256)])])
        elif how < 0.75:
            del found[at : at + chance.randrange(1, 9)]
        elif how < 0.9:
            found[at:at] = chance.randbytes(4)
        else:
            del found[at:]
        found = found or bytearray(1)
    return bytes(found)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_named(name, tmp_path):
    write, read = KINDS[name]
    path, chance = tmp_path / name, random.Random(name)
    write(path)
    content = path.read_bytes()
    read(path)
    told = []
    for _ in range(10 if name in ("m.mp4", "n.avi") else 40):
        path.write_bytes(damaged(content, chance))
        try:
            read(path)
        except UsageError as error:
            told.append(str(error))
    assert told
    assert all(name in line and "\n" not in line for line in told)
