"""Options of one backbone entry. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class BackboneOptions(StageOptions):
    """A frozen backbone, cut at its taps."""

    model: str = Field(description="name in the catalogue: resnet18 ... resnet101, i3d_r50, tiny_i3d")
    weights: str = Field(description="a named file of the catalogue, a path, or random:<seed>")
    taps: tuple[str, ...] = Field(min_length=1, description="where to cut: stem, res2 ... res5")
    every: int = Field(1, ge=1, description="use every k-th frame of the clip")
    size: int | None = Field(None, ge=16, description="side of the square input, px; null: the model's own")
    store: tuple[Literal["maps", "pooled"], ...] = Field(
        ("pooled",), min_length=1, description="maps: [T, C, H, W]; pooled: their mean over H and W, float32"
    )
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="of the maps")
    precision: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="the network computes in")
