"""Pixels as a player shows them: rotated, the right rectangle, any codec."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.decode.wanted import Square, Wanted, WholeFrame
from tests.conftest import VIDEOS, rotate_mp4, write_video
from tests.stages.decode.conftest import clip_row, counting_frames, numbers, write_at

CORNERS = {"top left": (0, 0), "top right": (0, -1), "bottom right": (-1, -1), "bottom left": (-1, 0)}


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """64 x 32 px, black, with a white square in the top left corner."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16, :16] = 255
    return write_video(tmp_path / "marked.mp4", frames, fps=10)


def bright_corner(image: np.ndarray) -> str:
    found = [name for name, (y, x) in CORNERS.items() if image[y, x].mean() > 128]
    assert len(found) == 1, found
    return found[0]


def one_clip(path: Path, *, size: int = 16, crop: tuple[float, ...] = (0, 0, 64, 32), **wanted: Any) -> DecodedClip:
    found = probe(str(path))
    row = clip_row(path, [0.0, 0.2], crop=crop, frame_width=found.frame_width, frame_height=found.frame_height)
    asked = Wanted(num_frames=2, squares=frozenset([Square(size=size, every=1)]), **wanted)
    (clip,) = decode_clips(str(path), [row], asked, 60.0)
    assert isinstance(clip, DecodedClip), clip
    return clip


@pytest.mark.parametrize(
    ("degrees_clockwise", "corner"), [(90, "top right"), (180, "bottom right"), (270, "bottom left")]
)
def test_rotation_metadata_is_applied(marked: Path, degrees_clockwise: int, corner: str) -> None:
    assert bright_corner(one_clip(marked).squares[Square(size=16, every=1)][0]) == "top left"
    rotate_mp4(marked, degrees_clockwise)
    width, height = (64, 32) if degrees_clockwise == 180 else (32, 64)
    found = probe(str(marked))
    assert (found.frame_width, found.frame_height) == (width, height)
    whole = WholeFrame(network_size=lambda height, width: (height, width), every=1)
    clip = one_clip(marked, crop=(0, 0, width, height), whole=whole)
    assert clip.whole is not None
    assert clip.whole.shape == (2, height, width, 3)
    assert bright_corner(clip.whole[0]) == corner
    assert bright_corner(clip.squares[Square(size=16, every=1)][0]) == corner


@pytest.mark.parametrize(
    ("crop", "quadrant"),
    [((0, 0, 32, 16), 0), ((32, 0, 64, 16), 1), ((0, 16, 32, 32), 2), ((32, 16, 64, 32), 3)],
)
def test_a_crop_is_its_rectangle(tmp_path: Path, crop: tuple[float, ...], quadrant: int) -> None:
    levels = np.array([[30, 90], [150, 210]], np.uint8).repeat(16, 0).repeat(32, 1)
    path = write_video(tmp_path / "v.mp4", np.broadcast_to(levels[None, :, :, None], (4, 32, 64, 3)).copy(), fps=10)
    pixels = one_clip(path, size=8, crop=crop).squares[Square(size=8, every=1)]
    assert pixels.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(pixels[:, 1:-1, 1:-1], [30, 90, 150, 210][quadrant], atol=6)


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    """Stripes of one pixel average to grey."""
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, 1::2] = 200
    path = write_video(tmp_path / "v.mkv", frames, fps=10, codec="ffv1")
    pixels = one_clip(path, size=4, crop=(0, 0, 32, 32)).squares[Square(size=4, every=1)]
    np.testing.assert_allclose(pixels, 100, atol=8)


def test_colour_channels_are_rgb(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[...] = (220, 40, 90)
    path = write_video(tmp_path / "v.mp4", frames, fps=10)
    pixels = one_clip(path).squares[Square(size=16, every=1)]
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), (220, 40, 90), atol=5)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("v.mp4", "libx264", "yuv420p10le"),
        ("v.mp4", "libx264", "yuv444p"),
        ("v.mp4", "libx265", "yuv420p"),
        ("v.mp4", "libx265", "yuv420p10le"),
        ("v.avi", "mpeg4", "yuv420p"),
        ("v.webm", "libvpx", "yuv420p"),
        ("v.webm", "libvpx-vp9", "yuv420p"),
        ("v.mov", "mjpeg", "yuvj420p"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    frames, times = counting_frames(8, 64, 64), [50 * n for n in range(8)]
    path = write_at(tmp_path / name, frames, times, codec=codec, pix_fmt=pix_fmt, options=options)
    assert 0.34 < probe(str(path)).duration < 0.41
    row = clip_row(path, [0.0, 0.11, 0.2, 0.35], crop=(0.0, 0.0, 64.0, 64.0), frame_width=64, frame_height=64)
    asked = Wanted(num_frames=4, squares=frozenset([Square(size=16, every=1)]))
    (clip,) = decode_clips(str(path), [row], asked, 60.0)
    assert isinstance(clip, DecodedClip), clip
    assert numbers(clip.squares[Square(size=16, every=1)]) == [0, 2, 4, 7]
    assert clip.warning == ""


@pytest.mark.shared
@pytest.mark.parametrize("path", sorted(VIDEOS.glob("*.*")), ids=lambda path: path.name)
def test_real_videos(path: Path) -> None:
    found = probe(str(path))
    assert found.duration > 0.5
    crop = (0.0, 0.0, float(found.frame_width), float(found.frame_height))
    times = [0.1, min(found.duration, 2.0) - 0.1]
    row = clip_row(path, times, crop=crop, frame_width=found.frame_width, frame_height=found.frame_height)
    asked = Wanted(num_frames=2, squares=frozenset([Square(size=32, every=1)]))
    (clip,) = decode_clips(str(path), [row], asked, 60.0)
    assert isinstance(clip, DecodedClip), clip
    assert clip.warning == ""
    assert 0 <= clip.frame_times[0] <= times[0] < clip.frame_times[1] <= times[1]
    with open_video(str(path)) as video:
        assert times[1] - clip.frame_times[1] < 3 * video.frame_period
