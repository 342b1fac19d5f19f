"""Resizing as torch does it, without torch, and what is shared among the crops of a frame."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinegraph.stages.decode.squares import FramePixels, resized_by_torch
from kinegraph.stages.decode.wanted import Square
from tests.stages.decode.conftest import clip_row

SHAPES = [((320, 240), (341, 256)), ((340, 256), (149, 112)), ((1280, 720), (455, 256)), ((33, 57), (96, 41))]


def torchs(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """As PySlowFast and PyTorchVideo resize: floats, no antialias."""
    frames = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(frames, size=size[::-1], mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("given", "size"), SHAPES)
def test_torchs_bilinear(given: tuple[int, int], size: tuple[int, int]) -> None:
    """0.55 grey levels: torch keeps floats, which are rounded here, and has the places of pixels in float32."""
    pixels = np.random.default_rng(0).integers(0, 256, (given[1], given[0], 3), np.uint8)
    found = resized_by_torch(Image.fromarray(pixels), size, (0, 0, *given))
    wanted = torchs(pixels, size)[0].permute(1, 2, 0).numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.55


@pytest.mark.parametrize("size", [(40, 40), (200, 150)])
def test_a_box_of_whole_pixels_is_the_image_cut_to_it(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    found = resized_by_torch(Image.fromarray(pixels), size, (30, 10, 110, 80))
    np.testing.assert_array_equal(found, resized_by_torch(Image.fromarray(pixels[10:80, 30:110]), size, (0, 0, 80, 70)))


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8))
    np.testing.assert_array_equal(resized_by_torch(image, (30, 20), (0, 0, 30, 20)), np.asarray(image))


@pytest.mark.parametrize("short", [40, None])
def test_bicubic_is_pillows_filter(short: int | None) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8))
    square = Square(size=32, resize_short=short, resize="bicubic", every=1)
    row = clip_row(Path("v"), [0.0], crop_name="center")
    found = FramePixels.of(image).square(square, row)
    if short is None:
        wanted = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=row.crop))
    else:
        wanted = np.asarray(image.resize((53, 40), Image.Resampling.BICUBIC))[4:36, 10:42]
    np.testing.assert_array_equal(found, wanted)


def test_a_frame_is_resized_once_for_all_its_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    resized: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], *args: Any, **more: Any) -> Image.Image:
        resized.append(size)
        return resize(self, size, *args, **more)

    monkeypatch.setattr(Image.Image, "resize", counted)
    frame = FramePixels.of(Image.new("RGB", (120, 90)))
    for crop in ("left", "center", "right", "center_flip", "top_left"):
        for square in (Square(size=32, resize_short=40, every=1), Square(size=40, resize_short=40, every=2)):
            row = clip_row(Path("v"), [0.0], crop_name=crop, mirrored=crop.endswith("_flip"))
            assert frame.square(square, row).shape == (square.size, square.size, 3)
    assert resized == [(53, 40)]
