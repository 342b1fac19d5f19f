"""Computes region features: RoIAlign on the maps of a tap, then one vector per box.

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
    """The region features of T frames, with N regions in each frame and C channels.

    `features` [T, N, C] float32 has one vector for each region. `grid` [T, N, C, size, size] float32 has the values of
    the cells into which RoIAlign divides the region. It is None if the option `grid` is false. Regions without a valid
    box have zeros.
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
    """Returns a RegionBatch with the features of N boxes in each of T frames. Features of boxes that are false in
    `valid`, bool [T, N], are 0. Gradients flow to `maps`.

    `maps` is [T, C, H, W]. `boxes` [T, N, 4] are (x1, y1, x2, y2) in pixels of the backbone's square input. The centre
    of the first pixel is at 0.5. A map cell has `stride` x `stride` pixels. Each box is cut into `size` x `size` bins.
    Along each axis, a bin takes as many samples as it covers map cells, rounded up. The bins of a box are reduced to
    one vector by `reduce`, "max" or "mean". With `with_grid`, the result has the bins of each box as well.

    `places` [2, n] int64 are the frames and the numbers of the n valid boxes, in the order of `valid.nonzero()`.
    Without `places` they are taken from `valid`, for which a GPU waits.
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
