"""Transforms boxes from the video to the crop of a clip and to the input of a backbone. Imports no torch.

Boxes and crops are (x1, y1, x2, y2) in float pixels of the video frame after rotation. Pixel i covers [i, i + 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


def boxes_in_crop(
    boxes: Float32Array, scores: Float32Array, count: int, crop: Sequence[float], top: int
) -> tuple[Float32Array, Float32Array, int]:
    """Returns the boxes that overlap the crop, their scores, and their number. The order stays, without gaps.

    Only the first `count` of `boxes` [N, 4] are read, and at most `top` are returned. Boxes are not clipped. The
    results are boxes [top, 4], scores [top] and the number of boxes. Rows from that number on are zero.
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


def to_input(boxes: Float32Array, crop: Sequence[float], size: int) -> Float32Array:
    """Returns `boxes` [..., 4] in pixels of the crop resized to `size` x `size`, clipped to the crop: float32.

    A crop with x1 > x2 is mirrored. Its pixels are read from right to left, and boxes are mirrored with the pixels. The
    computation is in float64.
    """
    inside: Float32Array = on_input(boxes, np.asarray(crop, np.float64), size).astype(np.float32)
    return inside


def on_input(boxes: Any, crop: Any, size: int) -> Any:
    """Returns the same boxes as `to_input`, in the precision of the arguments, which may be tensors.

    `crop` [..., 4] may hold many crops.
    """
    origin = crop[..., [0, 1, 0, 1]]
    extent = crop[..., [2, 3, 2, 3]] - origin
    inside = ((boxes - origin) * (size / extent)).clip(0, size)
    is_mirrored = extent[..., :1] < 0
    return inside * ~is_mirrored + inside[..., [2, 1, 0, 3]] * is_mirrored
