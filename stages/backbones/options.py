"""The options of one backbone entry. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kinegraph.stages.options import StageOptions
from kinegraph.stages.weights.sources import ChannelOrder, Channels


class BackboneOptions(StageOptions):
    """A frozen backbone, cut at its taps."""

    model: str = Field(description="a name that `kinegraph models` lists, or timm/<model> for an image model of timm")
    weights: str = Field(
        description="a named file of the catalogue, a path, random:<seed>, or, for the ResNet-3D family and "
        "TSM, inflate: and any of these for the 2D ResNet of its depth"
    )
    taps: tuple[str, ...] = Field(min_length=1, description="where to cut: names that `kinegraph models` lists")
    every: int = Field(1, ge=1, le=10_000, description="use every k-th frame of the clip")
    size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side of the square input, px; null: as the weights were tested",
    )
    resize_short: Annotated[int, Field(ge=16)] | Literal["auto"] | None = Field(
        "auto",
        description="px: the whole frame is resized to this short side, then crops are cut out at `size`; null: crops "
        "are cut first, then resized to `size`; auto: as the named weights were tested, if `size` is null or theirs, "
        "else null",
    )
    resize: Literal["auto", "pillow", "torch"] = Field(
        "auto",
        description="pillow: antialiased bilinear, as torchvision on images; torch: bilinear without antialias, as "
        "PySlowFast and PyTorchVideo; auto: with `resize_short` as the named weights were tested, else pillow",
    )
    store: tuple[Literal["maps", "pooled"], ...] = Field(
        ("pooled",), min_length=1, description="maps: [T, C, H, W]; pooled: their mean over H and W, float32"
    )
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="of the maps")
    mean: Channels | None = Field(
        None, description="of the pixels in 0..1, in `channel_order`; null: as the weights expect"
    )
    std: Channels | None = Field(None, description="what the pixels less `mean` are divided by; given with `mean`")
    channel_order: ChannelOrder | None = Field(None, description="RGB or BGR; null: as the weights expect")
    precision: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="the network computes in")
    options: dict[str, int | str] = Field(
        default_factory=dict,
        description="of the ResNet-3D family, as `kinegraph models` lists them; what is left out is as the named "
        "weights were trained, else, or with `geometry: paper`, as in the network's paper",
    )

    @model_validator(mode="after")
    def _normalises(self) -> "BackboneOptions":
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean, std: given {self.mean} and {self.std}, allowed: both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: given {self.std}, allowed: three numbers above 0")
        return self
