"""Computes region features: RoIAlign on the maps of a backbone, then one vector for each box.

The method is that of Wang and Gupta 2018, arXiv 1806.01810, section 3.1.

Shapes: T frames, N regions, C channels, H rows and W columns of a map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

POOLED_GRID_BYTES = 256 * 2**20

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda grid: grid.amax((2, 3)),
    "mean": lambda grid: grid.mean((2, 3)),
}


@dataclass(frozen=True, kw_only=True)
class RegionBatch:
    """The features of N regions in each of T frames, with C channels.

    `features`: [T, N, C] float32, one vector for each region.
    `grid`: [T, N, C, size, size] float32, the bins into which RoIAlign divides each region. None if the option `grid`
    is false.

    Regions without a valid box have zeros. For B clips, both arrays have an axis B before T.
    """

    features: Tensor
    grid: Tensor | None


def region_features(
    maps: Tensor,
    boxes: Tensor,
    valid: Tensor,
    stride: float,
    size: int = 7,
    reduce: str = "max",
    *,
    with_grid: bool = False,
    places: Tensor | None = None,
) -> RegionBatch:
    """Computes the features of N boxes in each of T frames by RoIAlign. Returns a RegionBatch. Boxes that are not valid
    get zeros. Gradients flow to `maps`.

    - `maps`: [T, C, H, W], one map of a backbone for each frame.
    - `boxes`: [T, N, 4], (x1, y1, x2, y2) in pixels of the backbone's square input. The centre of the first pixel is at
      0.5.
    - `valid`: bool [T, N], whether a box is valid.
    - `stride`: the side of a map cell in pixels of the input.
    - `size`: each box is divided into `size` x `size` bins. A bin takes as many samples along an axis as it covers map
      cells, rounded up.
    - `reduce`: "max" or "mean", how the bins of a box become one vector.
    - `with_grid`: whether the result also has the bins.
    - `places`: [2, n] int64, the indices (frame, box) of the n valid boxes. If `places` is None, it is computed from
      `valid`.
    """
    from torchvision.ops import roi_align  # takes as long to import as torch; most heads read no map

    channels = maps.shape[1]
    # Many caches have few boxes in most frames.
    frame, slot = valid.nonzero(as_tuple=True) if places is None else places
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    rois = torch.cat([frame[:, None], boxes[frame, slot]], dim=1).to(maps.dtype)  # [boxes, 5]
    features = maps.new_zeros(*valid.shape, channels)
    grids = features.new_zeros(*features.shape, size, size) if with_grid else None
    # The grids of all boxes at once would take size * size times the memory of the result.
    chunk = max(1, POOLED_GRID_BYTES // (channels * size * size * 4))
    for at in range(0, len(rois), chunk):
        part = slice(at, at + chunk)
        grid = roi_align(maps, rois[part], size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
        features[frame[part], slot[part]] = REDUCTIONS[reduce](grid)  # [chunk, C, size, size] -> [chunk, C]
        if grids is not None:
            grids[frame[part], slot[part]] = grid
    return RegionBatch(features=features, grid=grids)
