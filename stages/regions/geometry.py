"""Boxes from the video to a row's crop and to a backbone's input. Imports no torch.

Boxes and crops are xyxy float pixels of the (rotated) video frame; pixel i covers [i, i + 1).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def boxes_in_crop(
    boxes: FloatArray, scores: FloatArray, count: int, crop: Sequence[float], top: int
) -> tuple[FloatArray, FloatArray, int]:
    """The first `top` of the `count` boxes [N, 4] that share an area with the crop, closed up in order, not clipped.

    Returns boxes [top, 4], scores [top] and how many there are; rows past them are zero.
    """
    x1, y1, x2, y2 = crop
    seen = boxes[:count]
    width = np.minimum(seen[:, 2], x2) - np.maximum(seen[:, 0], x1)
    height = np.minimum(seen[:, 3], y2) - np.maximum(seen[:, 1], y1)
    kept = np.flatnonzero((width > 0) & (height > 0))[:top]
    out_boxes, out_scores = np.zeros((top, 4), np.float32), np.zeros(top, np.float32)
    out_boxes[: len(kept)] = seen[kept]
    out_scores[: len(kept)] = scores[kept]
    return out_boxes, out_scores, len(kept)


def to_input(boxes: FloatArray, crop: Sequence[float], size: int) -> FloatArray:
    """Boxes [..., 4] in the pixels of the crop resized to `size` x `size`, clipped to it.

    A crop with x1 > x2 is mirrored: its pixels are read from right to left, and the boxes are mirrored with them.
    """
    x1, y1, x2, y2 = crop
    origin = np.array([x1, y1, x1, y1], np.float64)
    scale = size / np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1], np.float64)
    found = np.clip((boxes - origin) * scale, 0, size).astype(np.float32)
    return found if x1 < x2 else found[..., [2, 1, 0, 3]]
