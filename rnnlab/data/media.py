"""Reading pictures and videos; what is no such file is named in one line.

Pillow and PyAV are imported where they are used: whoever reads no media needs none of them.
"""

import warnings
from pathlib import Path

import numpy as np

from rnnlab.data import archives
from rnnlab.errors import UsageError

# ---- images


def image(path: Path | str, size: int) -> np.ndarray:
    """The picture of an image file as uint8 [size, size, 3], RGB, turned as its EXIF says.

    Its height and width are each scaled to `size`, averaging over the pixels that become one, so that
    nothing is cut off and the shape of what is in it may change.

    Raises UsageError naming the file if it cannot be read, is no image, is cut short, or has more pixels
    than Pillow takes for sane; or if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError(
            "reading images needs the package pillow: pip install -c constraints.txt -e '.[media]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            whole = ImageOps.exif_transpose(opened).convert("RGB")
            scaled = whole.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(scaled, np.uint8)
    except OSError as error:  # no file, no image (UnidentifiedImageError), or cut short
        reason = f"cannot be read: {error.strerror}" if error.strerror else _not_image(error)
        raise UsageError(f"{path} {reason}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{path} is not read: {error}") from None
    except (ValueError, SyntaxError, EOFError) as error:
        raise UsageError(f"{path} {_not_image(error)}") from None


def _not_image(error: Exception) -> str:
    reason = str(error)
    if "cannot identify" in reason:
        return "is no image that Pillow can read"
    return f"is a damaged image: {reason}"


# ---- videos


def video(path: Path | str, side: int = 0) -> np.ndarray:
    """The frames of a video file's first video stream, uint8 [T, h, w, 3], RGB.

    side: each frame is scaled to side x side as it is decoded, like `image`; 0: as they are stored.
    Marks that say how a player should turn the frames are not heeded.

    Raises UsageError naming the file if it cannot be read, is no video, has no frames, holds less than
    half of the frames that it says it has, or with side 0 has frames of different sizes; or if PyAV or
    Pillow is not installed.
    """
    try:
        import av
        import av.error
        from PIL import Image
    except ImportError as error:
        package = "av" if error.name == "av" else "pillow"
        raise UsageError(
            f"reading videos needs the package {package}: pip install -c constraints.txt -e '.[media]'"
        ) from None
    frames, size = [], 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UsageError(f"{path} has no video in it")
            stream = container.streams.video[0]
            promised = stream.frames  # 0: the format does not say
            for frame in container.decode(stream):
                picture = frame.to_image()
                if side:
                    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
                frames.append(np.asarray(picture, np.uint8))
                size += frames[-1].nbytes
                if size > archives.MOST:
                    raise UsageError(
                        f"{path} has more than {archives.MOST >> 20} MiB of frames: cut it into shorter ones"
                    )
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


def evenly(count: int, most: int) -> np.ndarray:
    """int [min(count, most)]: which of `count` frames to keep, spread evenly from the first part to
    the last: the middle ones of as many equal parts."""
    kept = min(count, most)
    return ((np.arange(kept) + 0.5) * count / kept).astype(int)
