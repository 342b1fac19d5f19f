"""Options of one backbone entry. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class BackboneOptions(StageOptions):
    """A frozen backbone, cut at its taps. `size` is the side of its square input; unset, the model's own."""

    model: str
    weights: str
    taps: tuple[str, ...] = Field(min_length=1)
    every: int = Field(1, ge=1)
    size: int | None = Field(None, ge=16)
    store: tuple[Literal["maps", "pooled"], ...] = Field(("pooled",), min_length=1)
    storage_dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
