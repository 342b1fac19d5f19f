"""Defines the options of region features. Imports no torch."""

from typing import Any, Literal

from pydantic import Field

from kinegraph.stages.options import StageOptions


class RegionOptions(StageOptions):
    """The options of region features, a section of the config. A region feature is one vector for each proposal,
    computed by RoIAlign at each tap of some backbones.

    `backbones` names these backbones. RoIAlign divides a box into `size` x `size` bins. `reduce` says how the bins
    become one vector. If `grid` is true, the bins are also stored. Features are stored as `storage_dtype`.
    """

    backbones: tuple[str, ...] = Field(min_length=1, description="names of entries in `backbones`")
    size: int = Field(7, ge=1, le=64, description="bins per side of the RoIAlign grid")
    reduce: Literal["max", "mean"] = Field("max", description="how the bins of a box are reduced to one vector")
    grid: bool = Field(False, description="the bins are also stored before they are reduced: [T, N, D, size, size]")
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="type of the stored region features")

    def recorded(self) -> dict[str, Any]:
        """Returns {option: value} of the options that the fingerprint of a region stage covers.

        `backbones` is left out, because each backbone has a stage of its own. `grid` is left out if it is false,
        because caches of earlier versions lack it.
        """
        exclude = {"backbones"} if self.grid else {"backbones", "grid"}
        return self.model_dump(mode="json", exclude=exclude)
