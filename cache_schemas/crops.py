"""Computes which rectangle of a frame a row shows. The arithmetic is part of the cache format. SPEC.md states it.

A crop is a square and is named by its place in the frame. `left` and `right` are the ends of the longer side of the
frame, so `left` is the top of a frame that is higher than wide. `even_<n>_<i>` is crop i of n evenly spaced crops.
`full` is the whole frame. The ending `_flip` means that the pixels are mirrored. Rectangles are x1, y1, x2, y2 in
pixels of the frame. Pixel i covers the coordinates from i to i + 1.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Rectangle = tuple[float, float, float, float]
Resize = Literal["pillow", "bicubic", "torch", "swscale"]

FULL, FLIP = "full", "_flip"
MIDDLE = Fraction(1, 2)
ENDS = {"left": Fraction(0), "center": MIDDLE, "right": Fraction(1)}  # along the longer side
CORNERS = {
    f"{row}_{column}": (Fraction(x), Fraction(y))
    for y, row in enumerate(("top", "bottom"))
    for x, column in enumerate(("left", "right"))
}
MAX_EVEN = 1000  # most evenly spaced crops that a config may ask for
EVEN = re.compile(r"even_([1-9][0-9]*)(?:_([0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Describes how a frame becomes the square input of a network, with sides of `size` px.

    If `resize_short` is None, the crop is cut first and then resized. Otherwise the whole frame is resized until its
    short side has `resize_short` px. Then a crop of `size` px is cut. The crop `full` is resized to a square without
    keeping the aspect ratio.

    `resize` chooses how pixels are resized, and how the place of a crop is rounded to pixels:

    pillow: bilinear with antialias, as torchvision does for images.
    bicubic: Pillow's bicubic filter, also with antialias, as vision transformers expect it.
    torch: bilinear without antialias, as PySlowFast and PyTorchVideo do for videos.
    swscale: bilinear with antialias by FFmpeg's libswscale, which resizes a frame before the frame becomes RGB, and
        which resizes only whole frames.
    """

    size: int
    resize_short: int | None = None
    resize: Resize = "pillow"

    def cuts(self, crop: str) -> bool:
        """Returns whether a frame is resized before the crop named `crop`, such as "center", is cut out of it. If not,
        the crop is cut first and then resized.
        """
        return self.resize_short is not None and base_of(crop) != FULL

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Framing":
        """Returns the Framing that `options` describe, which says how the network of a stage resizes and cuts frames.
        `options` are those of a stage `features/<entry>`.
        """
        return cls(**{key: options[key] for key in ("size", "resize_short", "resize") if key in options})

    @property
    def options(self) -> dict[str, Any]:
        """Returns the Framing as entries for a stage's options. `from_options` makes an equal Framing from them.

        The defaults `resize_short: null` and `resize: pillow` are left out. Earlier versions did not write them, and
        the fingerprint of equal options must stay the same.
        """
        later = {"resize_short": (self.resize_short, None), "resize": (self.resize, "pillow")}
        return {"size": self.size} | {key: value for key, (value, early) in later.items() if value != early}


def is_mirrored(crop: str) -> bool:
    """Returns whether the crop with the name `crop` is mirrored: True for `left_flip`, False for `left`."""
    return crop.endswith(FLIP)


def base_of(crop: str) -> str:
    """Returns the name of a crop without the ending `_flip`: `left_flip -> left`."""
    return crop.removesuffix(FLIP)


def is_crop(name: str) -> bool:
    """Returns whether a config may have `name`, for example `left` or `even_3`, in its option `crops`.

    `even_3` stands for three evenly spaced crops. At most MAX_EVEN are allowed. Names of single evenly spaced crops,
    such as `even_3_0`, are not allowed in a config.
    """
    base = base_of(name)
    even = EVEN.fullmatch(base)
    is_even = even is not None and even[2] is None and len(even[1]) <= len(str(MAX_EVEN)) and int(even[1]) <= MAX_EVEN
    return base in ENDS or base in CORNERS or base == FULL or is_even


def crops_of(name: str) -> list[str]:
    """Returns the names of the crops that the name `name` in a config stands for. `even_<n>` stands for n crops:
    `even_2 -> [even_2_0, even_2_1]`. Every other name stands for one crop.
    """
    even = EVEN.fullmatch(base_of(name))
    if even is None:
        return [name]
    flip = FLIP if is_mirrored(name) else ""
    return [f"{base_of(name)}_{i}{flip}" for i in range(int(even[1]))]


def crop_rectangle(crop: str, width: int, height: int) -> Rectangle:
    """Returns the rectangle (x1, y1, x2, y2) of a crop, in pixels of a frame of `width` x `height` px. The rectangle is
    the largest square at the place that the name `crop` says, such as "left". For the crop "full", the rectangle is the
    whole frame.
    """
    if base_of(crop) == FULL:
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    across, down = _place(base_of(crop), width, height)
    x, y = (width - side) * float(across), (height - side) * float(down)
    return x, y, x + side, y + side


def resized_frame(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Returns (width, height) in px of a frame after resizing. The frame has `width` x `height` px before, and its
    short side gets `short_side` px. The aspect ratio is kept, and the long side is rounded down.
    """
    short = min(width, height)
    return width * short_side // short, height * short_side // short


def cut_origin(crop: str, width: int, height: int, framing: Framing) -> tuple[int, int]:
    """Returns (left, top), the first pixel of a crop in a resized frame of `width` x `height` px. `crop` is the name of
    the crop, such as "left".

    `framing.resize` says how the place is rounded to whole pixels. "torch" rounds up, as PySlowFast does. All other
    values round halves to even, as torchvision's CenterCrop does. For a crop with `_flip`, the place is rounded in the
    mirrored frame.
    """
    across, down = _place(base_of(crop), width, height)
    free_x, free_y = width - framing.size, height - framing.size
    rounded = math.ceil if framing.resize == "torch" else round
    x = free_x - rounded(free_x * (1 - across)) if is_mirrored(crop) else rounded(free_x * across)
    return x, rounded(free_y * down)


def seen_rectangle(crop: str, width: int, height: int, framing: Framing) -> Rectangle:
    """Returns the rectangle (x1, y1, x2, y2) that a network sees of a frame of `width` x `height` px, in pixels of the
    frame before any resizing. It may have fractions of a pixel.

    `crop` is the name of a crop, such as `full`, `center` or `even_3_0_flip`. `framing` says how the network resizes
    and cuts frames.
    """
    if not framing.cuts(crop):
        return crop_rectangle(crop, width, height)
    assert framing.resize_short is not None
    columns, rows = resized_frame(width, height, framing.resize_short)
    x, y = cut_origin(crop, columns, rows, framing)
    across, down = width / columns, height / rows
    return x * across, y * down, (x + framing.size) * across, (y + framing.size) * down


def directed(rectangle: Rectangle, *, mirrored: bool) -> Rectangle:
    """Returns the rectangle (x1, y1, x2, y2) with x1 and x2 swapped if `mirrored` is true, else unchanged. So x1 > x2
    marks a mirrored rectangle.
    """
    x1, y1, x2, y2 = rectangle
    return (x2, y1, x1, y2) if mirrored else rectangle


def _place(base: str, width: int, height: int) -> tuple[Fraction, Fraction]:
    """Returns where a crop lies in a frame of `width` x `height` px, as (across, down). 0 is the left or top end of the
    frame, 1/2 is the middle, and 1 is the right or bottom end.

    `base` is the name of the crop without `_flip`, for example `center`.
    """
    if base in CORNERS:
        return CORNERS[base]
    along = ENDS[base] if base in ENDS else _even(base)
    return (MIDDLE, along) if height > width else (along, MIDDLE)


def _even(base: str) -> Fraction:
    even = EVEN.fullmatch(base)
    if even is None or even[2] is None:
        raise ValueError(f"no crop is named {base!r}")
    count, index = int(even[1]), int(even[2])
    return Fraction(index, count - 1) if count > 1 else MIDDLE
