"""How well boxes agree. A box is (cx, cy, w, h): its centre, width and height."""

from typing import Any


def iou(first: Any, second: Any) -> Any:
    """Intersection over union of boxes [..., 4]: [...], of NumPy's or JAX's arrays. A negative width or
    height counts as 0, and so does the IoU of two boxes without area."""
    a, b = first[..., 2:].clip(0), second[..., 2:].clip(0)
    away = abs(first[..., :2] - second[..., :2])
    most = (a + b) / 2 - away  # of the intersection's sides: of overlapping ends,
    least = (a + b - abs(a - b)) / 2  # or of one side within the other
    side = ((most + least - abs(most - least)) / 2).clip(0)
    common = side[..., 0] * side[..., 1]
    whole = a[..., 0] * a[..., 1] + b[..., 0] * b[..., 1] - common
    return common / (whole + (whole <= 0))
