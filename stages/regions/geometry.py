"""Transforms boxes of a video to the crop of a clip, and to the input of a backbone. Imports no torch.

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
    """Chooses the boxes that overlap the rectangle `crop`. Returns (boxes [top, 4], scores [top], k). The first k rows
    are the chosen boxes, in the order of the input. All further rows are 0.

    `boxes` [N, 4] and `crop` are (x1, y1, x2, y2) in pixels of the video. `scores` is [N]. Only the first `count` boxes
    are read, and only the first `top` overlapping boxes are returned. Boxes are not clipped to the crop.
    """
    seen = boxes[:count]
    kept = np.flatnonzero(overlaps(seen, crop))[:top]
    out_boxes, out_scores = np.zeros((top, 4), np.float32), np.zeros(top, np.float32)
    out_boxes[: len(kept)] = seen[kept]
    out_scores[: len(kept)] = scores[kept]
    return out_boxes, out_scores, len(kept)


def overlaps(boxes: Any, crop: Sequence[Any]) -> Any:
    """Returns bool [...]: for each of `boxes` [..., 4], whether the box and the rectangle `crop` share an area.

    Boxes and crop are (x1, y1, x2, y2) in the same pixels, as arrays or tensors. `crop` has four numbers. If each box
    has its own crop, `crop` has four arrays [...].
    """
    x1, y1, x2, y2 = crop
    width = boxes[..., 2].clip(max=x2) - boxes[..., 0].clip(min=x1)
    height = boxes[..., 3].clip(max=y2) - boxes[..., 1].clip(min=y1)
    return (width > 0) & (height > 0)


def on_input(boxes: Any, crop: Any, size: int) -> Any:
    """Transforms boxes of a video into boxes of a network's input, which is the crop resized to `size` x `size` px.
    Returns [..., 4] in pixels of the input, clipped to the input.

    `boxes` [..., 4] and `crop` [..., 4] are (x1, y1, x2, y2) in pixels of the video, both arrays or both tensors.
    `crop` holds one crop for all boxes, or one crop for each box. If x1 > x2, the crop is mirrored, and so are the
    boxes.
    """
    # Slices in place of lists of indexes, which a GPU would wait for. The axes are (boxes ..., corner, x or y).
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
    origin = crop[..., None, :2]
    extent = crop[..., None, 2:] - origin
    inside = ((corners - origin) * (size / extent)).clip(0, size)
    swapped = inside * 1
    swapped[..., 0, 0], swapped[..., 1, 0] = inside[..., 1, 0], inside[..., 0, 0]
    is_mirrored = extent[..., :1] < 0
    return (inside * ~is_mirrored + swapped * is_mirrored).reshape(*inside.shape[:-2], 4)
