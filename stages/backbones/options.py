"""Defines the options of one backbone entry of a config. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kinegraph.stages.backbones.entry import Tokens
from kinegraph.stages.options import StageOptions
from kinegraph.stages.weights.sources import ChannelOrder, Channels


class BackboneOptions(StageOptions):
    """The options of a frozen backbone, an entry of the config's section `backbones`.

    `model` names the network, `weights` names its weights, and `taps` names the layers whose output is cached. The
    other options say how frames become the input of the network, and what is stored in which type.
    """

    model: str = Field(
        description="a name that `kinegraph models` lists, timm/<model> for an image model of timm, or "
        "transformers/<folder> for a network in a folder of transformers or in the cache of the Hugging Face hub"
    )
    weights: str = Field(
        description="a named file of the catalogue, a path, or random:<seed>; pretrained for timm/<model> and "
        "transformers/<folder>; for the ResNet-3D family and TSM also inflate:<weights>, with <weights> of the 2D "
        "ResNet of the same depth"
    )
    taps: tuple[str, ...] = Field(
        min_length=1, description="where the network is cut: names that `kinegraph models` lists"
    )
    every: int = Field(1, ge=1, le=10_000, description="the network sees every k-th frame of the clip")
    size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="side of the square input, px; null: as the weights were tested",
    )
    resize_short: Annotated[int, Field(ge=16)] | Literal["auto"] | None = Field(
        "auto",
        description="short side in px to which the whole frame is resized before crops are cut at `size`; null: crops "
        "are cut first, then resized to `size`; auto: as in the test of the named weights, if `size` is null or the "
        "size of that test, otherwise null",
    )
    resize: Literal["auto", "pillow", "bicubic", "torch", "swscale"] = Field(
        "auto",
        description="pillow: antialiased bilinear, as torchvision resizes images; bicubic: Pillow's bicubic, "
        "antialiased; torch: bilinear without antialias, as in PySlowFast and PyTorchVideo; swscale: antialiased "
        "bilinear of FFmpeg, faster than pillow and nearly equal, only for whole frames (with `resize_short`, or with "
        "the crop `full`); auto: as in the test of the named weights, if `resize_short` is too, otherwise pillow",
    )
    store: tuple[Literal["maps", "pooled"], ...] = Field(
        ("pooled",),
        min_length=1,
        description="arrays to store: maps [T, C, H, W], or pooled, the mean of the maps over H and W in float32",
    )
    tokens: Tokens = Field(
        "patch",
        description="what is stored of each tap; patch: the arrays that `store` names; class: only the class token, in "
        "float32; both: these arrays and the class token. Only some transformers have a class token",
    )
    head: bool = Field(
        False,
        description="whether the output of the network after its last tap is stored too, in float32: a projection or a "
        "pooled vector; only some networks have such an output",
    )
    storage_dtype: Literal["float16", "float32"] = Field("float16", description="type of the stored maps")
    mean: Channels | None = Field(
        None,
        description="subtracted from pixels in 0..1, one number per channel in `channel_order`; null: as "
        "the weights expect",
    )
    std: Channels | None = Field(
        None, description="pixels are divided by these numbers after `mean` is subtracted; needed if `mean` is given"
    )
    channel_order: ChannelOrder | None = Field(
        None, description="order of the input's channels, RGB or BGR; null: as the weights expect"
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field("bf16", description="precision in which the network computes")
    options: dict[str, int | str] = Field(
        default_factory=dict,
        description="options of the network: those of the ResNet-3D family, as `kinegraph models` lists them, and "
        "`final_norm` of timm's transformers; a missing option has the value with which the named weights were "
        "trained, or the value of the network's paper if that is unknown or with `geometry: paper`",
    )

    @model_validator(mode="after")
    def _stores_what_is_named(self) -> "BackboneOptions":
        if self.tokens == "class" and "maps" in self.store:
            raise ValueError(f"store: given {[*self.store]}, allowed: only with tokens: patch or tokens: both")
        return self

    @model_validator(mode="after")
    def _normalises(self) -> "BackboneOptions":
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean, std: given {self.mean} and {self.std}, allowed: both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: given {self.std}, allowed: three numbers above 0")
        return self
