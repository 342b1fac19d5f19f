"""Defines the stages `regions/<entry>`, which compute a feature of each proposal from the maps of a backbone.

Imports no torch.
"""

from collections.abc import Mapping
from math import gcd
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.arrays import ArraySpec, region_arrays
from kinegraph.cache_schemas.cache import FEATURES
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.options import need
from kinegraph.stages.proposals.stage import Proposals
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import StageKind

if TYPE_CHECKING:
    import torch

    from kinegraph.stages.regions.run import RegionRunner

VERSION = 1  # increase it when the output changes by more than rounding


class Regions(StageKind):
    kind = "regions"

    def keys(self, recipe: Recipe) -> list[str]:
        return [f"{self.kind}/{name}" for name in recipe.regions.backbones] if recipe.regions else []

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        options, proposals, name = recipe.regions, recipe.proposals, self._name(key)
        assert options is not None
        assert proposals is not None
        arrays: list[ArraySpec] = []
        for tap in recipe.backbones[name].taps:
            step = recipe.frame_step_of(name, tap)
            shape = (recipe.clips.num_frames // step, proposals.top, recipe.tap_of(name, tap).channels)
            grid_size = options.size if options.grid else None
            frames = recipe.frame_index_of(name, tap)
            arrays += region_arrays(name, tap, shape, step, options.storage_dtype, grid_size, frames)
        reads = {read: declared[read].fingerprint for read in (f"{FEATURES}{name}", Proposals.kind)}
        recorded = options.recorded() | {"version": VERSION, "reads": reads}
        return Stage(key=key, options=recorded, arrays=tuple(arrays))

    def check(self, recipe: Recipe) -> None:
        if recipe.regions is None:
            return
        if recipe.proposals is None:
            raise ValueError("regions: need a `proposals:` section")
        every, frames = recipe.proposals.every, recipe.clips.num_frames
        for name in recipe.regions.backbones:
            entries = [*recipe.backbones]
            need(name in entries, "regions.backbones", name, f"entries of backbones: {entries}")
            for tap in recipe.backbones[name].taps:
                step = recipe.frame_step_of(name, tap)
                allowed = f"multiples of {step}, for regions of {name}/{tap}"
                need(frames % step == 0, "clips.num_frames", frames, allowed)
                step = gcd(*(recipe.frame_index_of(name, tap) or [step]))
                allowed = f"a divisor of {step}, so that {name}/{tap} has boxes"
                need(step % every == 0, "proposals.every", every, allowed)

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> "RegionRunner":
        from kinegraph.stages.regions.run import RegionRunner

        assert recipe.regions is not None
        name = self._name(key)
        taps = [recipe.tap_of(name, tap) for tap in recipe.backbones[name].taps]
        return RegionRunner(key, f"{FEATURES}{name}", taps, recipe.framing_of(name), recipe.regions)

    def _name(self, key: str) -> str:
        return key.removeprefix(f"{self.kind}/")
