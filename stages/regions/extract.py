"""Computes the region features of clips from maps and boxes. Each box gets one vector.

Shapes: B clips, T maps of a clip, T_p frames with boxes, N boxes a frame, C channels, H rows and W columns of a map.
"""

import torch
from torch import Tensor

from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.regions.geometry import on_input
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.regions.roi import RegionBatch, region_features


def regions_of_clips(
    maps: Tensor,
    boxes: Tensor,
    count: Tensor,
    seen: Tensor,
    input_size: int,
    tap: Tap,
    options: RegionOptions,
    places: Tensor | None = None,
) -> RegionBatch:
    """Computes the region features of clips from maps. Returns a RegionBatch, whose `features` [B, T, N, C] have one
    vector for each region. There are B clips, T maps per clip, N boxes per frame and C channels.

    If `options.grid` is true, the RegionBatch also has `grid` [B, T, N, C, size, size]: the cells that are reduced to
    the vector of the region. `size` is `options.size`. Otherwise `grid` is None.

    `maps` [B, T, C, H, W] are the output of the backbone at the tap `tap`. `boxes` [B, T_p, N, 4] are (x1, y1, x2, y2)
    in pixels of the video. `count` [B, T_p] is the number of boxes in each frame. T_p is a multiple of T, and map t
    reads the boxes of frame t * T_p / T, or of the frame that `Tap.frames_of_maps` names.

    `places` [2, n] int64 says which n of the boxes are valid. Row 0 has the numbers of their maps, from 0 to B * T - 1.
    Row 1 has their indexes among the N boxes. If `places` is None, it is computed from `count`.

    `seen` [B, 4] float64 is a rectangle (x1, y1, x2, y2) in pixels of the video. The network saw it as a square of
    `input_size` px, mirrored if x1 > x2.
    """
    at = tap.frames_of_maps(maps.shape[1], boxes.shape[1])
    projected = on_input(boxes[:, at].double(), seen[:, None, None], input_size).float() - tap.offset_px
    valid = torch.arange(boxes.shape[2], device=count.device) < count[:, at, None]
    flat = region_features(
        maps.flatten(0, 1),
        projected.flatten(0, 1),
        valid.flatten(0, 1),
        tap.stride,
        options.size,
        options.reduce,
        with_grid=options.grid,
        places=places,
    )
    shape = maps.shape[:2]
    return RegionBatch(
        features=flat.features.view(*shape, *flat.features.shape[1:]),
        grid=None if flat.grid is None else flat.grid.view(*shape, *flat.grid.shape[1:]),
    )
