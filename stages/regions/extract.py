"""Computes the region features of a clip from maps and boxes. Each box gets one vector."""

import numpy as np
import torch
from torch import Tensor

from kinegraph.stages.device import upload
from kinegraph.stages.regions.geometry import to_input
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.regions.roi import RegionBatch, region_features


@torch.inference_mode()
def clip_regions(
    maps: Tensor,
    boxes: np.ndarray,
    count: np.ndarray,
    crop: tuple[float, float, float, float],
    input_size: int,
    stride: int,
    options: RegionOptions,
    offset_px: float = 0.0,
) -> RegionBatch:
    """Returns the region features of one clip. `maps` [T, C, H, W] are the clip's maps (C channels, H rows, W columns).

    `boxes` [T_p, N, 4] are in pixels of the video, and `count` [T_p] is the number of boxes in each frame. T_p is k *
    T, because boxes may be cached for more frames than maps. Map t reads the boxes of frame k * t. `crop` (x1, y1, x2,
    y2) is the rectangle of the video that the network saw, in pixels. If x1 > x2, the network saw it mirrored.
    `input_size` is the side of the network's square input. `stride` and `offset_px` are the properties of the maps'
    `Tap`.
    """
    step = len(boxes) // len(maps)
    projected = to_input(boxes[::step], crop, input_size) - np.float32(offset_px)
    valid = np.ascontiguousarray(count[::step], dtype=np.int64)
    return region_features(
        maps,
        upload(projected, maps.device),
        upload(valid, maps.device),
        stride,
        options.size,
        options.reduce,
        with_grid=options.grid,
    )
