"""Named crops against the libraries whose networks were published with them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as F

from kinegraph.cache_schemas.crops import (
    Framing,
    Resize,
    crop_rectangle,
    crops_of,
    cut_origin,
    is_crop,
    resized_frame,
    seen_rectangle,
)
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.wanted import Square
from tests.stages.decode.conftest import clip_row

SIZES = [(320, 240), (240, 320), (341, 256), (256, 343), (299, 255), (97, 61), (64, 64), (1001, 333)]
CORNERS = ["top_left", "top_right", "bottom_left", "bottom_right"]


def seen(image: Image.Image, crop: str, **framing: Any) -> np.ndarray:
    """The pixels of a crop as the decoder makes them."""
    width, height = image.size
    rectangle = crop_rectangle(crop, width, height)
    row = clip_row(
        Path("v"), [0.0], crop_name=crop, crop=rectangle, frame_width=width, frame_height=height,
        mirrored=crop.endswith("_flip"),
    )  # fmt: skip
    return FramePixels.of(image).square(Square(every=1, **framing), row)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("short", "size"), [(256, 224), (232, 224), (61, 48), (64, 64)])
def test_imagenet_and_ten_crops_are_torchvisions(width: int, height: int, short: int, size: int) -> None:
    """Resize and CenterCrop, FiveCrop and TenCrop on images, pixel for pixel, also where an odd pixel is left over."""
    image = picture(width, height)
    resized = F.resize(image, short)
    assert resized.size == resized_frame(width, height, short)
    framing = {"size": size, "resize_short": short}
    np.testing.assert_array_equal(seen(image, "center", **framing), np.asarray(F.center_crop(resized, [size, size])))
    first = [*CORNERS, "center"]
    mirrored = ["top_right_flip", "top_left_flip", "bottom_right_flip", "bottom_left_flip", "center_flip"]
    for crop, wanted in zip([*first, *mirrored], F.ten_crop(resized, [size, size]), strict=True):
        np.testing.assert_array_equal(seen(image, crop, **framing), np.asarray(wanted), err_msg=crop)


def uniform_crop(width: int, height: int, size: int, place: int) -> tuple[int, int]:
    """As PySlowFast's `uniform_crop` and PyTorchVideo's: left, centre, right, or top, centre, bottom."""
    x, y = math.ceil((width - size) / 2), math.ceil((height - size) / 2)
    if height > width:
        y = (0, y, height - size)[place]
    else:
        x = (0, x, width - size)[place]
    return x, y


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(("short", "size"), [(256, 256), (256, 224), (61, 48)])
def test_the_three_crops_of_kinetics(width: int, height: int, short: int, size: int) -> None:
    framing = Framing(size=size, resize_short=short, resize="torch")
    frame = resized_frame(width, height, short)
    for names in (["left", "center", "right"], crops_of("even_3")):
        found = [cut_origin(crop, *frame, framing) for crop in names]
        assert found == [uniform_crop(*frame, size, place) for place in range(3)]


@pytest.mark.parametrize("resize", ["pillow", "bicubic", "torch"])
def test_eleven_crops_lie_evenly_along_the_longer_side(resize: Resize) -> None:
    framing = Framing(size=256, resize_short=256, resize=resize)
    names = ClipOptions(crops=("even_11",)).crop_names
    origins = [cut_origin(crop, 455, 256, framing) for crop in names]
    assert len(names) == 11
    assert [y for _, y in origins] == [0] * 11
    np.testing.assert_allclose([x for x, _ in origins], np.linspace(0, 199, 11), atol=1)
    assert (origins[0][0], origins[-1][0]) == (0, 199)
    upright = [cut_origin(crop, 256, 455, framing) for crop in names]
    assert upright == [(y, x) for x, y in origins]


def test_even_crops_of_one_and_of_three() -> None:
    assert crops_of("even_1") == ["even_1_0"]
    assert crop_rectangle("even_1_0", 100, 50) == crop_rectangle("center", 100, 50)
    three = [crop_rectangle(crop, 100, 50) for crop in crops_of("even_3")]
    assert three == [crop_rectangle(crop, 100, 50) for crop in ("left", "center", "right")]
    assert crops_of("even_2_flip") == ["even_2_0_flip", "even_2_1_flip"]


def test_names() -> None:
    assert all(map(is_crop, ["center", "full_flip", "even_11", "even_2_flip", *CORNERS]))
    assert not any(map(is_crop, ["centre", "even_0", "even_", "even_3_1", "center_flip_flip", "flip", "even_01"]))


@pytest.mark.parametrize("resize", ["pillow", "torch"])
@pytest.mark.parametrize("crop", ["left", "center", "bottom_right", "even_4_1", "center_flip", "full"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_what_is_seen_is_where_the_pixels_come_from(crop: str, resize: str, width: int, height: int) -> None:
    """A ramp tells its own place: the first and last pixel of the cut lie half a pixel inside of the rectangle."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None]
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    framing: dict[str, Any] = {"size": 48, "resize_short": 61, "resize": resize}
    pixels = seen(Image.fromarray(ramp), crop, **framing).astype(float)
    x1, y1, x2, y2 = seen_rectangle(crop, width, height, Framing(**framing))
    assert -1e-9 <= x1 < x2 <= width + 1e-9
    assert -1e-9 <= y1 < y2 <= height + 1e-9
    middle = (pixels[24, 23, :2] + pixels[24, 24, :2] + pixels[23, 23, :2] + pixels[23, 24, :2]) / 4
    expected = (((x1 + x2) / 2 - 0.5) * 255 / (width - 1), ((y1 + y2) / 2 - 0.5) * 255 / (height - 1))
    np.testing.assert_allclose(middle, expected, atol=1.5 + 255 / min(width, height) * 0.2)
