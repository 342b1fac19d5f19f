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
    """Returns the region features of the T frames of `maps` [T, C, H, W] (C channels, H rows, W columns).

    `boxes` [T_p, N, 4] are in pixels of the video, and `count` [T_p] is the number of boxes in each of T_p frames. T_p
    is a multiple of T. Each map reads the boxes of its own input frame. `crop` is the rectangle that the network saw,
    mirrored if x1 > x2. `stride` and `offset_px` are those of the tap.
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
