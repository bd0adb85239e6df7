"""Reading pictures; what is no such file is named in one line.

Pillow is imported where it is used: whoever reads no media needs none of it.
"""

from pathlib import Path

import numpy as np

from rnnlab.types import UsageError

# ---- images


def image(path: Path | str, size: int) -> np.ndarray:
    """The picture of an image file as uint8 [size, size, 3], RGB, turned as its EXIF says.

    Its height and width are each scaled to `size`, averaging over the pixels that become one, so that
    nothing is cut off and the shape of what is in it may change.

    Raises UsageError naming the file if it cannot be read, is no image, or is cut short; or if Pillow
    is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError(
            "reading images needs the package pillow: pip install -c constraints.txt -e '.[media]'"
        ) from None
    try:
        with Image.open(path) as opened:
            whole = ImageOps.exif_transpose(opened).convert("RGB")
            scaled = whole.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(scaled, np.uint8)
    except OSError as error:  # no file, no image (UnidentifiedImageError), or cut short
        reason = f"cannot be read: {error.strerror}" if error.strerror else _not_image(error)
        raise UsageError(f"{path} {reason}") from None
    except (ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} {_not_image(error)}") from None


def _not_image(error: Exception) -> str:
    reason = str(error)
    if "cannot identify" in reason:
        return "is no image that Pillow can read"
    return f"is a damaged image: {reason}"
