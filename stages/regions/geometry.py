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
    """Returns the boxes that overlap the crop [top, 4], their scores [top], and their number k.

    Only the first `count` of `boxes` [N, 4] are read. If more than `top` boxes overlap, the first `top` are returned.
    The boxes keep their order and are not clipped to the crop. The rows of the results from k on are zero.
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
    """Transforms boxes from the video to a backbone's input, which is the crop resized to `size` x `size` pixels.

    `boxes` and the result are [..., 4], the result in float32. The result is clipped to the input. A crop with x1 > x2
    is mirrored. Its pixels are read from right to left, and boxes are mirrored with the pixels. The computation is in
    float64.
    """
    inside: Float32Array = on_input(boxes, np.asarray(crop, np.float64), size).astype(np.float32)
    return inside


def on_input(boxes: Any, crop: Any, size: int) -> Any:
    """Does the same as `to_input`, but for arrays or tensors, and in the precision of the arguments.

    `crop` [..., 4] may have another crop for each clip.
    """
    origin = crop[..., [0, 1, 0, 1]]
    extent = crop[..., [2, 3, 2, 3]] - origin
    inside = ((boxes - origin) * (size / extent)).clip(0, size)
    is_mirrored = extent[..., :1] < 0
    return inside * ~is_mirrored + inside[..., [2, 1, 0, 3]] * is_mirrored
