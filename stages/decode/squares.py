"""Cuts the square pictures that networks take out of a frame.

The frame is resized once for all crops that are cut out of it. libswscale can resize a frame before the frame becomes
RGB. So a frame becomes RGB only if another way of resizing needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from PIL import Image

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Rectangle, Resize, cut_origin, resized_frame
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.wanted import Size, Square


@dataclass
class FramePixels:
    """The pixels of one frame of a video, and the pictures that were made from the frame so far."""

    size: Size  # (width, height) of the frame in px
    # A function that returns the frame as RGB pixels, uint8 [height, width, 3]. The function is called only if needed.
    rgb: Callable[[], np.ndarray]
    # A function: size -> the frame, resized to this size by libswscale. The function is called only if needed.
    scaled: Callable[[Size], np.ndarray]
    _made: dict[object, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Image.Image, converter: Converter | None = None) -> "FramePixels":
        """Returns the FramePixels of a frame that is an RGB picture already. `converter` scales the picture. If
        `converter` is None, a new Converter does.
        """
        scaled = (converter or Converter()).scaled_rgb
        return cls(image.size, lambda: np.asarray(image), lambda size: scaled(np.asarray(image), size))

    @cached_property
    def pixels(self) -> np.ndarray:
        return self.rgb()

    @cached_property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)

    def square(self, square: Square, row: ClipRow) -> np.ndarray:
        """Returns the part of this frame that the crop of `row` covers, resized as `square` says: uint8 [size, size,
        3], where size is `square.size`. The part is mirrored if the row is mirrored, as with the crop `left_flip`.
        """
        framing = (square.size, square.resize_short, square.resize)
        key = (framing, row.crop, row.crop_name if square.cuts(row.crop_name) else "", row.mirrored)
        if key not in self._made:
            cut = self._cut(square, row)
            self._made[key] = np.ascontiguousarray(cut[:, ::-1]) if row.mirrored else cut
        return self._made[key]

    def whole(self, size: Size, how: Resize) -> np.ndarray:
        """Returns the whole frame, resized to `size` = (width, height): uint8 [height, width, 3]. `how` is the way of
        resizing: "pillow", "bicubic", "torch" or "swscale".
        """
        key = (size, how)
        if key not in self._made:
            self._made[key] = self._resized(size, how)
        return self._made[key]

    def _resized(self, size: Size, how: Resize) -> np.ndarray:
        if size == self.size:  # without a Pillow image, whose making takes two copies
            return self.pixels
        return self.scaled(size) if how == "swscale" else RESIZES[how](self.image, size, (0, 0, *self.size))

    def _cut(self, square: Square, row: ClipRow) -> np.ndarray:
        if not square.cuts(row.crop_name):
            side = square.size, square.size
            if row.crop == (0, 0, *self.size):
                return self.whole(side, square.resize)
            return RESIZES[square.resize](self.image, side, row.crop)
        assert square.resize_short is not None
        size = resized_frame(*self.size, square.resize_short)
        x, y = cut_origin(row.crop_name, *size, square)
        return self.whole(size, square.resize)[y : y + square.size, x : x + square.size]


def resized_by_pillow(
    image: Image.Image,
    size: Size,
    box: Rectangle,
    filter: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Returns a part of `image`, resized with antialias: uint8 [height, width, 3]. The values equal those of Pillow,
    and those of torchvision for Pillow images.

    `size`: (width, height) of the result in px.
    `box`: the part, (x1, y1, x2, y2) in px of the image.
    `filter`: bilinear or bicubic.
    """
    if image.size == size and box == (0, 0, *size):
        return np.asarray(image)
    return np.asarray(image.resize(size, filter, box=box))


def resized_by_torch(image: Image.Image, size: Size, box: Rectangle) -> np.ndarray:
    """Returns a part of `image`, resized without antialias (bilinear): uint8 [height, width, 3]. `size` is (width,
    height) of the result, and `box` is the part, (x1, y1, x2, y2) in px of the image.

    The values are those of torch.nn.functional.interpolate(mode="bilinear", align_corners=False), rounded. If all
    corners of `box` are whole numbers, the result is that of cutting the image to `box` first.
    """
    pixels = np.asarray(image)
    if image.size == size and box == (0, 0, *size):
        return pixels
    x1, y1, x2, y2 = box
    left, right, across = _mixed(x1, x2, size[0], image.width)
    top, bottom, down = _mixed(y1, y2, size[1], image.height)
    rows = pixels[top].astype(np.float32)
    rows += (pixels[bottom] - rows) * down[:, None, None]
    mixed = rows[:, left]
    mixed += (rows[:, right] - mixed) * across[:, None]
    rounded: np.ndarray = np.rint(mixed).astype(np.uint8)
    return rounded


def _mixed(start: float, end: float, count: int, available: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which two input pixels are mixed for each of `count` output pixels along one axis, and in which shares.

    The axis has `available` input pixels. The output pixels divide the part [`start`, `end`) of the axis evenly.
    Returns three arrays [count]: the index of the input pixel before the centre of each output pixel, the index of the
    pixel after the centre, and the share (0..1) of the pixel after the centre.
    """
    centres = start + (np.arange(count) + 0.5) * (end - start) / count - 0.5
    centres = np.clip(centres, start, max(start, end - 1))
    before = np.minimum(np.floor(centres).astype(np.int64), available - 1)
    after = np.minimum(before + 1, available - 1)
    return before, after, (centres - before).astype(np.float32)


RESIZES: dict[Resize, Callable[[Image.Image, Size, Rectangle], np.ndarray]] = {  # ways that take any part of a picture
    "pillow": resized_by_pillow,
    "bicubic": partial(resized_by_pillow, filter=Image.Resampling.BICUBIC),
    "torch": resized_by_torch,
}
