"""Videos: their frames are read as they were written, and what is no video is named."""

import sys

import av
import numpy as np
import pytest

from rnnlab.data import media
from rnnlab.errors import UsageError
from tests.tasks.files import write_video


def shades(time, height=32, width=48):
    """Frame t is grey of 20 + 20 t, with the left half black."""
    frames = np.zeros((time, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = (20 + 20 * np.arange(time))[:, None, None, None]
    return frames


def test_every_frame_is_read_in_order_and_in_rgb(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), np.uint8)
    write_video(tmp_path / "a.mkv", frames, codec="ffv1")  # loses nothing
    np.testing.assert_array_equal(media.video(tmp_path / "a.mkv"), frames)


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_tags_may_be_in_any_encoding(name, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "the title"
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(shades(1)[0], format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert b"the title" in content
    path.write_bytes(content.replace(b"the title", b"\xff\xe9 titre\xe9"))
    assert media.video(path, 8).shape == (1, 8, 8, 3)


def test_a_name_that_is_no_utf8_is_read(tmp_path):
    write_video(tmp_path / "a.avi", shades(2))
    path = tmp_path / b"\xff.avi".decode("utf-8", "surrogateescape")
    try:
        (tmp_path / "a.avi").rename(path)
    except OSError:
        pytest.skip("this file system has none")
    assert media.video(path, 8).shape == (2, 8, 8, 3)


def test_what_is_transparent_lies_on_white(tmp_path):
    frame = np.zeros((16, 16, 4), np.uint8)
    frame[8:, :, 3] = 255
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgra"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
        container.mux(stream.encode())
    found = media.video(tmp_path / "a.mkv")[0]
    assert (found[:8] == 255).all()
    assert (found[8:] == 0).all()


@pytest.mark.parametrize("error", [KeyError(1), TypeError("x"), UnicodeError("y")])
def test_whatever_pyav_raises_is_told_with_the_file(error, monkeypatch):
    def fail(*how, **more):
        raise error

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(UsageError, match=r"cannot read a\.avi: ."):
        media.video("a.avi")


@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv"])
def test_frames_are_scaled_to_a_side(name, tmp_path):
    write_video(tmp_path / name, shades(8))
    found = media.video(tmp_path / name, 8)
    assert found.shape == (8, 8, 8, 3)
    assert found.dtype == np.uint8
    right = found[:, :, 6:].mean((1, 2, 3))
    np.testing.assert_allclose(right, 20 + 20 * np.arange(8), atol=6)
    assert found[:, :, :2].mean() < 8


def test_a_video_of_too_many_frames_is_told(tmp_path, monkeypatch):
    write_video(tmp_path / "a.avi", shades(8))
    monkeypatch.setattr(media.archives, "MOST", 8 * 16 * 16 * 3)
    assert media.video(tmp_path / "a.avi", 16).shape == (8, 16, 16, 3)
    monkeypatch.setattr(media.archives, "MOST", 8 * 16 * 16 * 3 - 1)
    with pytest.raises(UsageError, match=r"a\.avi has more than 0 MiB of frames"):
        media.video(tmp_path / "a.avi", 16)


def test_what_is_no_video_is_named(tmp_path):
    def refused(name, words, content=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=words) as caught:
            media.video(path, 8)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    write_video(tmp_path / "good.avi", shades(12))
    content = (tmp_path / "good.avi").read_bytes()
    frames = content.index(b"movi") + 4
    refused("absent.avi", "cannot be read: No such file")
    refused("text.avi", "is no video that can be decoded", b"this is a text\n" * 100)
    refused("empty.avi", "is no video that can be decoded", b"")
    refused("headers.avi", "is a video without frames|no video that can be", content[:frames])
    end = content.index(b"idx1")
    refused("cut.avi", "is cut short: of the 12 frames", content[: frames + (end - frames) // 3])
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, av.AudioStream)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    refused("sound.wav", "has no video in it")


def test_without_pyav_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"needs the package av: pip install"):
        media.video(tmp_path / "a.avi")


@pytest.mark.parametrize(("count", "most"), [(3, 5), (5, 5), (100, 7), (1, 4), (13, 12)])
def test_frames_are_kept_evenly(count, most):
    kept = media.evenly(count, most)
    assert len(kept) == min(count, most)
    assert kept[0] >= 0
    assert kept[-1] < count
    assert kept[0] + kept[-1] in (count - 1, count)  # as much is left out at either end
    gaps = np.diff(kept)
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
