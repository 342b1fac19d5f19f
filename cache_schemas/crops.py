"""Which rectangle of a frame a row's pixels are of. Pure arithmetic, part of the format: SPEC.md states it.

A crop is named by its place: `left` and `right` are the ends of the longer side, so in an upright frame they are top
and bottom; `even_<n>_<i>` is number i of n along the longer side. `_flip` behind a name: the pixels are mirrored after
the cut. Rectangles are x1, y1, x2, y2 in pixels of the video's frame; pixel i covers [i, i + 1).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Rectangle = tuple[float, float, float, float]
Resize = Literal["pillow", "torch"]

FULL, FLIP = "full", "_flip"
MIDDLE = Fraction(1, 2)
ENDS = {"left": Fraction(0), "center": MIDDLE, "right": Fraction(1)}  # along the longer side
CORNERS = {
    f"{row}_{column}": (Fraction(x), Fraction(y))
    for y, row in enumerate(("top", "bottom"))
    for x, column in enumerate(("left", "right"))
}
EVEN = re.compile(r"even_([1-9][0-9]*)(?:_([0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a frame becomes the square input of a network, `size` px a side.

    resize_short None: the crop is cut first, then resized. Else the whole frame is resized until its short side is
    `resize_short` px (the long side is rounded down), then the crop is cut at `size` px. `full` is squeezed both ways.
    resize: `pillow` is antialiased bilinear, as Pillow's and torchvision's on images. `torch` is bilinear without
    antialias, as PySlowFast's and PyTorchVideo's. Each rounds the place of a crop as those libraries do.
    """

    size: int
    resize_short: int | None = None
    resize: Resize = "pillow"

    def cuts(self, crop: str) -> bool:
        """Whether the crop is cut out of a resized frame."""
        return self.resize_short is not None and base_of(crop) != FULL

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Framing":
        """From the options of a stage `features/<entry>`."""
        return cls(**{key: options[key] for key in ("size", "resize_short", "resize") if key in options})

    @property
    def options(self) -> dict[str, Any]:
        """What enters the options of a stage; what came later is left out where it is as in early caches."""
        later = {"resize_short": (self.resize_short, None), "resize": (self.resize, "pillow")}
        return {"size": self.size} | {key: value for key, (value, early) in later.items() if value != early}


def is_mirrored(crop: str) -> bool:
    return crop.endswith(FLIP)


def base_of(crop: str) -> str:
    """The name without `_flip`."""
    return crop.removesuffix(FLIP)


def is_crop(name: str) -> bool:
    """Whether a config may name this crop; `even_<n>` stands for n of them."""
    base = base_of(name)
    even = EVEN.fullmatch(base)
    return base in ENDS or base in CORNERS or base == FULL or (even is not None and even[2] is None)


def crops_of(name: str) -> list[str]:
    """The crops that a name in a config stands for: `even_<n>` for n, any other for itself."""
    even = EVEN.fullmatch(base_of(name))
    if even is None:
        return [name]
    flip = FLIP if is_mirrored(name) else ""
    return [f"{base_of(name)}_{i}{flip}" for i in range(int(even[1]))]


def crop_rectangle(crop: str, width: int, height: int) -> Rectangle:
    """The largest square at the crop's place in a frame of width x height px; of `full`, the whole frame."""
    if base_of(crop) == FULL:
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    across, down = _place(base_of(crop), width, height)
    x, y = (width - side) * float(across), (height - side) * float(down)
    return x, y, x + side, y + side


def resized_frame(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height once the short side is `short_side` px; the long side is rounded down."""
    short = min(width, height)
    return width * short_side // short, height * short_side // short


def cut_origin(crop: str, width: int, height: int, framing: Framing) -> tuple[int, int]:
    """Left and top pixel of the crop in the resized frame of width x height px.

    pillow: half is rounded to even, as by torchvision's CenterCrop; a mirrored crop lies where that crop of the
    mirrored frame does, as in TenCrop. torch: rounded up, as by PySlowFast's and PyTorchVideo's uniform_crop.
    """
    across, down = _place(base_of(crop), width, height)
    free_x, free_y = width - framing.size, height - framing.size
    rounded = round if framing.resize == "pillow" else math.ceil
    x = free_x - rounded(free_x * (1 - across)) if is_mirrored(crop) else rounded(free_x * across)
    return x, rounded(free_y * down)


def seen_rectangle(crop: str, width: int, height: int, framing: Framing) -> Rectangle:
    """What of a frame of width x height px the network sees, in the frame's pixels; may be fractions of a pixel."""
    if not framing.cuts(crop):
        return crop_rectangle(crop, width, height)
    assert framing.resize_short is not None
    columns, rows = resized_frame(width, height, framing.resize_short)
    x, y = cut_origin(crop, columns, rows, framing)
    across, down = width / columns, height / rows
    return x * across, y * down, (x + framing.size) * across, (y + framing.size) * down


def directed(rectangle: Rectangle, *, mirrored: bool) -> Rectangle:
    """The rectangle in the direction in which its pixels are read: a mirrored one has x1 > x2."""
    x1, y1, x2, y2 = rectangle
    return (x2, y1, x1, y2) if mirrored else rectangle


def _place(base: str, width: int, height: int) -> tuple[Fraction, Fraction]:
    """Where a crop lies between the first (0) and the last (1) possible place, across and down."""
    if base in CORNERS:
        return CORNERS[base]
    along = ENDS[base] if base in ENDS else _even(base)
    return (MIDDLE, along) if height > width else (along, MIDDLE)


def _even(base: str) -> Fraction:
    even = EVEN.fullmatch(base)
    if even is None or even[2] is None:
        raise ValueError(f"no crop is named {base!r}")
    count, number = int(even[1]), int(even[2])
    return Fraction(number, count - 1) if count > 1 else MIDDLE
