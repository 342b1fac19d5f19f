"""Computes region features clip by clip, on maps that a backbone has just made or that are in the cache."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.device import DTYPES_STORED, on_device, upload
from kinegraph.stages.proposals.stage import BOXES, COUNT
from kinegraph.stages.regions.extract import regions_of_clips
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.stage import StageBatch


class RegionRunner:
    """Computes the region features of one backbone, on the maps of all its taps.

    The maps are read from the stage with the key `maps_of`, such as `features/i3d`.
    """

    digest = ""

    def __init__(
        self,
        key: str,
        maps_of: str,
        taps: Sequence[Tap],
        framing: Framing,
        options: RegionOptions,
        device: torch.device,
    ) -> None:
        self.key, self.maps_of, self.taps, self.framing = key, maps_of, taps, framing
        self.options, self.device = options, device

    @torch.inference_mode()
    def run(self, batch: StageBatch) -> None:
        for slot in batch.slots:
            boxes, count = (on_device(batch.read(array, slot), self.device)[None] for array in (BOXES, COUNT))
            for tap in self.taps:
                self._align(tap, boxes, count, slot, batch)

    def _align(self, tap: Tap, boxes: Tensor, count: Tensor, slot: int, batch: StageBatch) -> None:
        maps = on_device(batch.read(f"{self.maps_of}/{tap.name}", slot), self.device)[None]
        seen = upload(np.array([batch.rows[slot].seen(self.framing)], np.float64), self.device)
        regions = regions_of_clips(maps, boxes, count, seen, self.framing.size, tap, self.options)
        array, dtype = f"{self.key}/{tap.name}", DTYPES_STORED[self.options.storage_dtype]
        batch.write(array, [slot], regions.features.to(dtype))
        if regions.grid is not None:
            batch.write(f"{array}_grid", [slot], regions.grid.to(dtype))
