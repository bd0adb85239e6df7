"""Pictures in characters, for samples.txt and a terminal."""

import numpy as np

SHADES = " .:+#"  # from dark to bright


def shaded(picture: np.ndarray) -> list[str]:
    """A line of characters for each row of a picture [h, w] of numbers from 0 to 1."""
    shades = np.minimum((picture * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[shade] for shade in row) for row in shades]
