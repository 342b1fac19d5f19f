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
    """Computes the region features of B clips: one vector of C channels for each box. Returns a RegionBatch with
    `features` [B, T, N, C], for T maps of a clip and N boxes in a frame.

    - `maps`: [B, T, C, H, W], the output of a backbone at the tap `tap`.
    - `boxes`: [B, T_p, N, 4], (x1, y1, x2, y2) in pixels of the video, for T_p frames with boxes, a multiple of T. Map
      t reads frame t * T_p / T, or the frame that `Tap.frames_of_maps` names.
    - `count`: [B, T_p], the number of boxes in each frame.
    - `seen`: [B, 4] float64, the rectangle (x1, y1, x2, y2) of the video that the network saw as a square of
      `input_size` px. It is mirrored if x1 > x2.
    - `options`: the options of region features. If `options.grid` is true, the result also has `grid` [B, T, N, C, S,
      S], the S x S bins of each box, with S = `options.size`.
    - `places`: [2, n] int64, the indices (map, box) of the n valid boxes. The index of a map is from 0 to B * T - 1. If
      `places` is None, it is computed from `count`.
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
