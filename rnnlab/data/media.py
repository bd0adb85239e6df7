"""Reading pictures and videos; what is no such file is named in one line.

Pillow and PyAV are imported where they are used: whoever reads no media needs none of them.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.data import archives
from rnnlab.data.reading import reading, reason_of
from rnnlab.errors import RnnlabError, UsageError, exhausted

# ---- images

_SILENT = logging.NullHandler()  # what Pillow logs of a damaged file is told in the one line


def image(path: Path | str, size: int) -> np.ndarray:
    """The picture of an image file as uint8 [size, size, 3], RGB, turned as its EXIF says.

    What is transparent lies on white. Of 16 bits a colour the upper 8 are taken, and shades of grey of 12
    or 16 bits are scaled by the largest that there can be. Its height and width are each scaled to `size`,
    averaging over the pixels that become one, so that nothing is cut off and the shape of what is in it may
    change.

    Raises UsageError naming the file if it cannot be read, is no image, is cut short, has shades whose black
    and white the file does not tell (32 bits and decimals), or more pixels than Pillow takes for sane; or if
    Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError(
            "reading images needs the package pillow: pip install -c constraints.txt -e '.[media]'"
        ) from None
    logging.getLogger("PIL").addHandler(_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that nobody reads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                whole = _rgb(ImageOps.exif_transpose(opened), opened, path)
            scaled = whole.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(scaled, np.uint8)
    except RnnlabError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{path} is not read: {error}") from None
    except (
        Exception
    ) as error:  # no file, no image (UnidentifiedImageError), or any way to be damaged
        if exhausted(error):
            raise
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = f"cannot be read: {strerror}" if strerror else _not_image(error)
        raise UsageError(f"{path} {reason}") from None


PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")  # modes that Pillow makes RGB of
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def _rgb(picture: Any, opened: Any, path: Path | str) -> Any:
    """The picture in RGB. opened: as its file was. Raises UsageError for a mode that cannot be."""
    from PIL import Image

    mode, clear = picture.mode, opened.info.get("transparency")
    if mode == "LAB":
        return _of_lab(picture)
    if (most := _most(opened)) and mode != "F":
        shades = np.asarray(picture).astype(np.int64)
        inverted = getattr(opened, "tag_v2", {}).get(262) == 0  # TIFF: 0 is white
        grey = np.rint((most - shades if inverted else shades) * (255 / most))
        grey = np.where(shades == clear, 255, np.clip(grey, 0, 255))
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if mode not in (*PLAIN, *ALPHA):
        raise UsageError(
            f"{path} is an image of the mode {mode}, whose numbers for black and white the file does not "
            "tell: save it with 8 or 16 bits"
        )
    if mode in ALPHA or clear is not None:
        if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, as the colours were
            picture.info["transparency"] = tuple(value >> 8 for value in clear)
        return on_white(picture.convert("LA") if mode == "La" else picture)
    return picture.convert("RGB")


def on_white(picture: Any) -> Any:
    """A Pillow image with transparency as it looks on white, in RGB."""
    from PIL import Image

    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def _most(opened: Any) -> int:
    """The largest shade of a picture of more than 8 bits, 0 for another one, or if nobody knows."""
    if opened.mode.startswith("I;16"):
        bits = getattr(opened, "tag_v2", {}).get(258, (16,))
        return (1 << int(bits[0])) - 1
    # Pillow scales all of these to 16 bits.
    return 65535 if opened.mode == "I" and opened.format in ("PPM", "PNG") else 0


def _of_lab(picture: Any) -> Any:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(picture, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))


def _not_image(error: Exception) -> str:
    reason = reason_of(error)
    if "cannot identify" in reason:
        return "is no image that Pillow can read"
    return f"is a damaged image: {reason}"


# ---- videos


def video(path: Path | str, side: int = 0) -> np.ndarray:
    """The frames of a video file's first video stream, uint8 [T, h, w, 3], RGB.

    side: each frame is scaled to side x side as it is decoded, like `image`; 0: as they are stored.
    What is transparent lies on white. Marks that say how a player should turn the frames are not heeded,
    and tags, a title say, may be in any encoding.

    Raises UsageError naming the file if it cannot be read, is no video, has no frames, holds less than
    half of the frames that it says it has, or with side 0 has frames of different sizes; or if PyAV or
    Pillow is not installed.
    """
    try:
        import av.error
        import PIL  # noqa: F401
    except ImportError as error:
        package = "av" if error.name == "av" else "pillow"
        raise UsageError(
            f"reading videos needs the package {package}: pip install -c constraints.txt -e '.[media]'"
        ) from None
    frames: list[np.ndarray] = []
    with reading(path):
        try:
            with _opened(path) as container:
                promised = _decode(container, path, side, frames)
        except av.error.FFmpegError as error:
            if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
                raise UsageError(f"{path} cannot be read: {error.strerror}") from None
            raise UsageError(f"{path} is no video that can be decoded: {error.strerror}") from None
    if not frames:
        raise UsageError(f"{path} is a video without frames")
    if 2 * len(frames) < promised:
        raise UsageError(
            f"{path} is cut short: of the {promised} frames that it should have, {len(frames)} are there"
        )
    if any(frame.shape != frames[0].shape for frame in frames):
        raise UsageError(f"{path} has frames of different sizes")
    return np.stack(frames)


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    """The container of a video, whose tags may be in any encoding."""
    import av

    with contextlib.ExitStack() as stack:
        source: Any = str(path)
        try:
            source.encode()
        except UnicodeEncodeError:  # a name that PyAV cannot pass on
            source = io.BytesIO(Path(path).read_bytes())
        yield stack.enter_context(av.open(source, metadata_errors="replace"))


def _decode(container: Any, path: Path | str, side: int, frames: list[np.ndarray]) -> int:
    """Add to `frames` those of a container; how many it says it has, 0 if it does not say."""
    from PIL import Image

    if not container.streams.video:
        raise UsageError(f"{path} has no video in it")
    stream, size = container.streams.video[0], 0
    for frame in container.decode(stream):
        if any(component.is_alpha for component in frame.format.components):
            picture = on_white(Image.fromarray(frame.to_ndarray(format="rgba")))
        else:
            picture = frame.to_image()
        if side:
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        frames.append(np.asarray(picture, np.uint8))
        size += frames[-1].nbytes
        if size > archives.MOST:
            raise UsageError(
                f"{path} has more than {archives.MOST >> 20} MiB of frames: cut it into shorter ones"
            )
    return stream.frames


def evenly(count: int, most: int) -> np.ndarray:
    """int [min(count, most)]: which of `count` frames to keep, spread evenly from the first part to
    the last: the middle ones of as many equal parts."""
    kept = min(count, most)
    return ((np.arange(kept) + 0.5) * count / kept).astype(int)
