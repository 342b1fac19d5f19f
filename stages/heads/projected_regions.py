"""Reads region features and the mean of the frame features, from cached regions or from cached maps, and projects them
by a linear layer from D to C channels.

A region is the part of a frame inside a box. Shapes: B clips, T frames, N regions of a frame, D cached channels, C =
`dim` channels, H rows and W columns of a map.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import Spec, TapOptions
from kinegraph.stages.heads.inputs import MapRegionReader, RegionReader, Regions, choose_source, project_maps
from kinegraph.stages.heads.maps import each_frame


class ProjectedRegionOptions(TapOptions):
    dim: int | None = Field(512, gt=0, description="width of the projection of cached features; null: no projection")
    regions_from: Literal["cached", "maps"] = Field(
        "cached",
        description="cached: cached regions are projected; maps: cached maps are projected, then RoIAlign "
        "and maximum follow, as in Wang and Gupta",
    )
    num_regions: int | None = Field(
        None, gt=0, description="number of best boxes per frame that are read; null: all cached boxes"
    )


class ProjectedRegions:
    """Reads the region features of a batch and projects them to other channels. With `regions_from: maps`, cached maps
    are projected, and RoIAlign then computes the regions. With `regions_from: cached`, cached regions are projected.

    - `spec`: {name of the array: shape of one clip} of the cache.
    - `options`: the options of the head.
    - `boxes`: whether the Regions have boxes. With `regions_from: maps` they always have boxes.
    - `with_mean`: whether the mean of the features over the clip is computed too.

    The attribute `reads` has the names of the arrays that a batch must have. The head builds its projection with
    `make_project()`. A call has these arguments:

    - `batch`, `dtype`: the arrays, and the type of the features to compute.
    - `project`: the projection.
    - `follow`: a module that runs on each frame of the projected maps, or None.

    A call returns (Regions with features [B, T, N, C], mean [B, C]). The mean is None if `with_mean` is false.
    """

    def __init__(self, spec: Spec, options: ProjectedRegionOptions, *, boxes: bool, with_mean: bool) -> None:
        self.with_mean, top = with_mean, options.num_regions
        self.regions_of_maps: MapRegionReader | None = None
        if options.regions_from == "maps":
            self.source = choose_source(spec, ["maps"], options)
            self.regions_of_maps = MapRegionReader(spec, self.source, top=top)
            self.reads, cached = self.regions_of_maps.reads, spec[self.source.maps][1]
            self.proposals = self.regions_of_maps.proposals
        else:
            self.source = choose_source(spec, ["regions", "pooled"] if with_mean else ["regions"], options)
            self.cached_regions = RegionReader(spec, self.source, boxes=boxes, top=top)
            self.reads = self.cached_regions.reads + ((self.source.pooled,) if with_mean else ())
            cached = self.cached_regions.channels
            self.proposals = self.cached_regions.proposals
        self.channels = options.dim or cached
        self.make_project = partial(nn.Linear, cached, options.dim) if options.dim else nn.Identity

    def __call__(
        self, batch: Mapping[str, Tensor], dtype: torch.dtype, project: nn.Module, follow: nn.Module | None = None
    ) -> tuple[Regions, Tensor | None]:
        if self.regions_of_maps is not None:
            maps = project_maps(project, batch[self.source.maps].to(dtype))  # [B, T, C, H, W]
            maps = maps if follow is None else each_frame(follow, maps)
            return self.regions_of_maps(batch, maps), maps.mean((1, 3, 4)) if self.with_mean else None
        regions = self.cached_regions(batch, dtype)
        regions = replace(regions, features=project(regions.features))
        frames = batch[self.source.pooled].to(dtype) if self.with_mean else None  # [B, T, D]
        return regions, None if frames is None else project(frames.mean(1))
