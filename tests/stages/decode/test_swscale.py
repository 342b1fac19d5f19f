"""`resize: swscale` against Pillow, which resizes the RGB frame, and against the formulas of the colour matrices.

Where frames shrink to less than half their sides, 2 grey levels on average and 16 at most are allowed for colours of
half the resolution (4:2:0), and 1 and 3 for others. libswscale resizes colours before it makes RGB of them, at the
places that the video states, and rounds where the conversion alone cuts digits off (1 level).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.pictures import Orientation
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.wanted import Square, Wanted, WholeFrame
from tests.conftest import rotate_mp4, write_video
from tests.stages.decode.conftest import clip_row

UPRIGHT = Orientation()
HALF_COLOURS, FULL_COLOURS = (2.0, 16), (1.0, 3)  # most on average, most
MOVED_COLOURS = (5.0, 32)  # H.264 states that colours lie half a pixel further left, which the conversion alone ignores
MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 2: (0.299, 0.114)}  # AVCOL_SPC -> Kr, Kb. 2: unknown, as BT.601


def picture(width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8: blurred blocks of 8 px, with noise."""
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8))
    smooth = np.asarray(blocks.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    pixels: np.ndarray = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    return pixels


def frame_of(pixels: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    """One thread, because libswscale with several threads may make other 10-bit frames each time."""
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt, threads=1)


def assert_near(found: np.ndarray, wanted: np.ndarray, allowed: tuple[float, int]) -> None:
    levels = np.abs(found.astype(int) - wanted)
    assert found.shape == wanted.shape
    assert levels.mean() <= allowed[0]
    assert levels.max() <= allowed[1]


@pytest.mark.parametrize(
    ("pix_fmt", "allowed"),
    [
        ("yuv420p", HALF_COLOURS),
        ("yuvj420p", HALF_COLOURS),
        ("yuv420p10le", HALF_COLOURS),
        ("yuv422p10le", HALF_COLOURS),
        ("nv12", HALF_COLOURS),
        ("yuv444p", FULL_COLOURS),
        ("gray", FULL_COLOURS),
        ("gbrp", FULL_COLOURS),
        ("rgba", FULL_COLOURS),
    ],
)
@pytest.mark.parametrize(("given", "size"), [((320, 240), (149, 112)), ((319, 241), (64, 64)), ((180, 322), (81, 145))])
def test_near_pillow(pix_fmt: str, allowed: tuple[float, int], given: tuple[int, int], size: tuple[int, int]) -> None:
    frame, converter = frame_of(picture(*given), pix_fmt), Converter()
    pillows = Image.fromarray(converter.rgb(frame, UPRIGHT)).resize(size, Image.Resampling.BILINEAR)
    assert_near(converter.scaled(frame, UPRIGHT, size), np.asarray(pillows), allowed)


def test_noise_and_larger_frames() -> None:
    """The worst case: colours without any likeness among neighbours, and frames that grow."""
    pixels, converter = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8), Converter()
    for size in ((80, 60), (213, 160)):
        frame = frame_of(pixels, "yuv420p")
        pillows = Image.fromarray(converter.rgb(frame, UPRIGHT)).resize(size, Image.Resampling.BILINEAR)
        assert_near(converter.scaled(frame, UPRIGHT, size), np.asarray(pillows), (10.0, 100))


def test_stripes_of_one_pixel_average_to_grey() -> None:
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, 1::2] = 200
    for pix_fmt in ("rgb24", "yuv420p"):
        found = Converter().scaled(frame_of(stripes, pix_fmt), UPRIGHT, (13, 6))
        np.testing.assert_allclose(found[:, 1:-1], 100, atol=2)


@pytest.mark.parametrize("turn", [(True, True, False), (True, False, True), (False, True, True), (True, False, False)])
def test_turned_frames(turn: tuple[bool, bool, bool]) -> None:
    frame, converter, turned = frame_of(picture(320, 240), "yuv420p"), Converter(), Orientation(*turn)
    size = turned.size(149, 112)
    pillows = Image.fromarray(converter.rgb(frame, turned)).resize(size, Image.Resampling.BILINEAR)
    assert_near(converter.scaled(frame, turned, size), np.asarray(pillows), HALF_COLOURS)


def test_a_frame_of_the_right_size_is_that_of_pillow() -> None:
    frame, converter = frame_of(picture(160, 120), "yuv420p"), Converter()
    np.testing.assert_array_equal(converter.scaled(frame, UPRIGHT, (160, 120)), converter.rgb(frame, UPRIGHT))


def planted(colours: list[tuple[int, int, int]], space: int, color_range: int) -> av.VideoFrame:
    """A frame of 64 x 64 px with a stripe for each colour (Y, U, V), from left to right."""
    frame = av.VideoFrame(64 * len(colours), 64, "yuv420p")
    for plane, levels in zip(frame.planes, zip(*colours, strict=True), strict=True):
        row = np.zeros(plane.line_size, np.uint8)
        row[: plane.width] = np.repeat(levels, plane.width // len(colours))
        plane.update(np.tile(row, plane.height).tobytes())
    frame.colorspace, frame.color_range = space, color_range
    return frame


@pytest.mark.parametrize("space", [*MATRICES])
@pytest.mark.parametrize("color_range", [0, 1, 2])  # unknown, limited, full
def test_planted_colours(space: int, color_range: int) -> None:
    """BT.709 and BT.601, each in both ranges: within 1 level of the formula."""
    colours = [(60, 110, 140), (200, 100, 120), (120, 150, 110)]
    frame = planted(colours, space, color_range)
    found = Converter().scaled(frame, UPRIGHT, (48, 16))[8, 8::16].astype(float)
    kr, kb = MATRICES[space]
    y, u, v = (np.array(colours, float) - (0, 128, 128)).T
    y, u, v = (y / 255, u / 255, v / 255) if color_range == 2 else ((y - 16) / 219, u / 224, v / 224)
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    wanted = 255 * np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], -1)
    np.testing.assert_allclose(found, wanted, atol=1.0)


def test_a_frame_of_two_fields_is_resized_as_a_whole(tmp_path: Path) -> None:
    """libswscale scales each field alone, which shows them as stripes."""
    path = str(tmp_path / "v.mkv")
    fields = np.repeat(picture(96, 64)[None], 2, 0)
    fields[:, 1::2] = np.roll(fields[:, 1::2], 12, 2)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("mpeg2video", rate=25, options={"flags": "+ilme+ildct"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for pixels in fields:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert frame.interlaced_frame
    converter = Converter()
    pillows = Image.fromarray(converter.rgb(frame, UPRIGHT)).resize((48, 32), Image.Resampling.BILINEAR)
    assert_near(converter.scaled(frame, UPRIGHT, (48, 32)), np.asarray(pillows), HALF_COLOURS)


def never(*_: Any) -> Any:
    raise AssertionError("not needed")


def test_a_frame_becomes_rgb_only_if_that_is_needed() -> None:
    asked: list[tuple[int, int]] = []

    def scaled(size: tuple[int, int]) -> np.ndarray:
        asked.append(size)
        return np.zeros((size[1], size[0], 3), np.uint8)

    frame = FramePixels((120, 90), never, scaled)
    for crop in ("left", "center", "right_flip", "full"):
        row = clip_row(Path("v"), [0.0], crop_name=crop, mirrored="flip" in crop, crop=(0.0, 0.0, 120.0, 90.0))
        square = frame.square(Square(size=32, resize_short=40, resize="swscale", every=1), row)
        assert square.shape == (32, 32, 3)
    assert asked == [(53, 40), (32, 32)]
    with pytest.raises(AssertionError, match="not needed"):
        frame.whole((53, 40), "pillow")


@pytest.mark.parametrize("turned", [False, True])
def test_clips_of_a_video(tmp_path: Path, turned: bool) -> None:
    """Crops and whole frames of a video are near those of Pillow, also if the video is shown turned."""
    path = write_video(tmp_path / "v.mp4", np.repeat(picture(320, 240)[None], 2, 0), fps=10)
    width, height = (240, 320) if turned else (320, 240)
    if turned:
        rotate_mp4(path, 90)
    rows = [
        clip_row(path, [0.0], crop_name=crop, mirrored="flip" in crop, frame_width=width, frame_height=height)
        for crop in ("center", "left_flip")
    ]
    clips = [one_way(path, rows, how) for how in ("swscale", "pillow")]
    assert [len(each) for each in clips] == [2, 2]
    for found, wanted in zip(*clips, strict=True):
        assert found.whole is not None
        assert wanted.whole is not None
        assert_near(found.whole, wanted.whole, MOVED_COLOURS)
        for square in found.squares:
            assert_near(found.squares[square], wanted.squares[replace(square, resize="pillow")], MOVED_COLOURS)


def one_way(path: Path, rows: list[Any], how: Any) -> list[DecodedClip]:
    network_size: Callable[[int, int], tuple[int, int]] = lambda height, width: (height // 4, width // 4)  # noqa: E731
    square = Square(size=40, resize_short=48, resize=how, every=1)
    wanted = Wanted(
        num_frames=1, squares=frozenset([square]), whole=WholeFrame(network_size=network_size, every=1, resize=how)
    )
    clips = decode_clips(str(path), rows, wanted, 60.0)
    return [clip for clip in clips if isinstance(clip, DecodedClip)]
