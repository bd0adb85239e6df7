"""Data sets of a few files, written as they are published."""

import av
import numpy as np
from PIL import Image

from rnnlab.tasks.captions import flickr
from rnnlab.tasks.tracking import mot

SPLITS = {"train": ("a.jpg", "b.jpg", "c.jpg"), "valid": ("d.jpg",), "test": ("e.jpg", "f.jpg")}
PHOTOGRAPHS = [name for names in SPLITS.values() for name in names]


def publish(root):
    """Write a folder as the two published archives unpack side by side."""
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    lines = []
    for number, name in enumerate(PHOTOGRAPHS):
        shade = np.full((20, 30, 3), 40 * number, np.uint8)
        Image.fromarray(shade).save(root / "Flicker8k_Dataset" / name)
        lines += [f"{name}#{which}\tA dog , number {number} , runs {which} ." for which in (1, 0)]
    # The published file has captions of an image that is not there and that no list has.
    lines.append("gone.jpg.1#0\tA man .")
    (root / flickr.TOKENS).write_text("\n".join(lines) + "\n")
    for split, names in SPLITS.items():
        (root / flickr.LISTS[split]).write_text("\r\n".join(names) + "\r\n")


def boxes(rows):
    """Boxes of (frame, id, cx); each is 10 x 10."""
    array = np.array(sorted(rows), float).reshape(-1, 3)
    there = np.stack([array[:, 2], 0 * array[:, 2], *2 * [0 * array[:, 2] + 10]], -1)
    return mot.Boxes("x", array[:, 0].astype(int), array[:, 1].astype(int), there)


def write_video(path, frames, codec="mpeg4"):
    """A video file of frames uint8 [T, h, w, 3]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
