"""Options of one backbone entry. Torch-free."""

from typing import Literal

from pydantic import Field

from stages.options import StageOptions


class BackboneOptions(StageOptions):
    """A frozen backbone, cut at its taps."""

    model: str = Field(description="a name that `kinegraph models` lists, or timm/<model> for an image model of timm")
    weights: str = Field(
        description="a named file of the catalogue, a path, random:<seed>, or, for the ResNet-3D family, inflate: "
        "and any of these for the 2D ResNet of its depth"
    )
    taps: tuple[str, ...] = Field(min_length=1, description="where to cut: names that `kinegraph models` lists")
    every: int = Field(1, ge=1, description="use every k-th frame of the clip")
    size: int | None = Field(None, ge=16, description="side of the square input, px; null: the model's own")
    store: tuple[Literal["maps", "pooled"], ...] = Field(
        ("pooled",), min_length=1, description="maps: [T, C, H, W]; pooled: their mean over H and W, float32"
    )
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="of the maps")
    precision: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="the network computes in")
    options: dict[str, int | str] = Field(
        default_factory=dict,
        description="of the ResNet-3D family: res5_stride (1 or 2); of its I3Ds: temporal_kernels (alternate or all)",
    )
