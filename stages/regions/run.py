"""Computes region features clip by clip, from maps that a backbone has just made or that are in the cache."""

from collections.abc import Sequence

import numpy as np
import torch

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.device import DTYPES_STORED
from kinegraph.stages.proposals.stage import BOXES, COUNT
from kinegraph.stages.regions.extract import regions_of_clips
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.regions.roi import RegionBatch
from kinegraph.stages.stage import StageBatch


class RegionRunner:
    """The runner of the stage `key`, such as `regions/i3d`, which computes the region features of one backbone as
    `options` say. The runner writes one array for each tap in `taps`.

    `maps_of` is the key of the stage with the maps, such as `features/i3d`. `framing` says which rectangle of a frame
    the backbone saw.
    """

    digest = ""

    def __init__(self, key: str, maps_of: str, taps: Sequence[Tap], framing: Framing, options: RegionOptions) -> None:
        self.key, self.maps_of, self.taps, self.framing = key, maps_of, taps, framing
        self.options = options

    @torch.inference_mode()
    def run(self, batch: StageBatch) -> None:
        boxes, count = (
            np.stack([np.asarray(batch.read(array, slot)) for slot in batch.slots]) for array in (BOXES, COUNT)
        )
        seen = np.array([batch.rows[slot].seen(self.framing) for slot in batch.slots], np.float64)
        all_boxes, all_counts, all_seen = (batch.upload(values) for values in (boxes, count, seen))
        for clip, slot in enumerate(batch.slots):
            at = slice(clip, clip + 1)
            of_clip = all_boxes[at], all_counts[at], all_seen[at]
            for tap in self.taps:
                maps = batch.upload(batch.read(f"{self.maps_of}/{tap.name}", slot))[None]
                frames = tap.frames_of_maps(maps.shape[1], boxes.shape[1])
                places = batch.upload(_places(count[clip, frames], boxes.shape[2]))
                regions = regions_of_clips(maps, *of_clip, self.framing.size, tap, self.options, places)
                self._keep(tap, regions, slot, batch)

    def _keep(self, tap: Tap, regions: RegionBatch, slot: int, batch: StageBatch) -> None:
        array, dtype = f"{self.key}/{tap.name}", DTYPES_STORED[self.options.storage_dtype]
        batch.write(array, [slot], regions.features.to(dtype))
        if regions.grid is not None:
            batch.write(f"{array}_grid", [slot], regions.grid.to(dtype))


def _places(count: np.ndarray, num_boxes: int) -> np.ndarray:
    """Returns the places of the valid boxes of a clip, int64 [2, n] for n boxes. Row 0 has the index of the map of each
    box. Row 1 has the index of the box in its frame.

    `count` [maps] is the number of valid boxes for each map, at most `num_boxes`.
    """
    # computed on the host, because the same on a GPU would wait for it
    return np.stack((np.arange(num_boxes) < count[:, None]).nonzero())
