"""Options of the region features. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class RegionOptions(StageOptions):
    """RoIAlign of every proposal on every tap of some backbones."""

    backbones: tuple[str, ...] = Field(min_length=1, description="entries of `backbones`")
    size: int = Field(7, ge=1, description="bins a side")
    reduce: Literal["max", "mean"] = Field("max", description="over the bins")
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="of the region features")
