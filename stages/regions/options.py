"""Options of the region features. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class RegionOptions(StageOptions):
    """RoIAlign to size x size on every tap of `backbones`, then `reduce` over the bins."""

    backbones: tuple[str, ...] = Field(min_length=1)
    size: int = Field(7, ge=1)
    reduce: Literal["max", "mean"] = "max"
    storage_dtype: Literal["float16", "float32"] = "float16"
