"""Computes region features of a clip from stored maps and stored boxes: one vector per proposal."""

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
    """Returns T frames of regions from stored maps and stored boxes.

    maps: [T, C, H, W]. boxes: [T_p, N, 4] in video pixels. count: [T_p]. crop: the rectangle that the network saw,
    mirrored where x1 > x2. Boxes may be finer in time than maps: map row t reads the boxes of its own input frame.
    `stride` and `offset_px` are those of the tap.
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
