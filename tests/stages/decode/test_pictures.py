"""Which way up frames are shown, and which of several streams is shown."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

import kinegraph
from tests.coded_videos import drawn, orient_mp4, read
from tests.conftest import write_video

QUARTERS = np.array([["R", "G"], ["B", "W"]])
COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}


def quarters_of(pixels: np.ndarray) -> str:
    """The colours of the quarters of [H, W, 3]: top left, top right, bottom left, bottom right."""
    height, width = pixels.shape[:2]
    names = {tuple(np.array(colour) > 128): name for name, colour in COLOURS.items()}
    places = [(y * height // 4, x * width // 4) for y in (1, 3) for x in (1, 3)]
    return "".join(names[tuple(pixels[place] > 128)] for place in places)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), "RGBW"),
        ((0, 1, -1, 0), "BRWG"),
        ((-1, 0, 0, -1), "WBGR"),
        ((0, -1, 1, 0), "GWRB"),
        ((-1, 0, 0, 1), "GRWB"),
        ((1, 0, 0, -1), "BWRG"),
        ((0, 1, 1, 0), "RBGW"),
        ((0, -1, -1, 0), "WGBR"),
    ],
)
def test_all_display_matrices(tmp_path: Path, matrix: tuple[int, int, int, int], shown: str) -> None:
    picture = np.array([[COLOURS[name] for name in row] for row in QUARTERS], np.uint8).repeat(32, 0).repeat(64, 1)
    path = orient_mp4(write_video(tmp_path / "v.mp4", np.stack([picture] * 4)), *matrix)
    told = kinegraph.probe(str(path))
    (frames,) = kinegraph.decode(str(path), times=[0.0, 0.3])
    assert isinstance(frames, kinegraph.Frames)
    assert frames.pixels.shape == (2, told.height, told.width, 3)
    assert (told.width, told.height) == ((128, 64) if matrix[0] else (64, 128))
    assert quarters_of(frames.pixels[1]) == shown


@pytest.mark.parametrize(
    ("default", "shown"), [((), 1), ((0,), 0), ((2,), 2), ((0, 1), 1), ((0, 2), 0)], ids=lambda value: str(value)
)
def test_the_default_stream_else_the_largest(tmp_path: Path, default: tuple[int, ...], shown: int) -> None:
    """Of several defaults the largest, of equals the first."""
    path = tmp_path / "v.mkv"
    sizes = [(144, 64), (288, 128), (144, 64)]
    with av.open(str(path), "w") as out:
        streams: list[Any] = [out.add_stream("mpeg4", rate=25) for _ in sizes]
        for number, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = Disposition.default if number in default else Disposition.original
        for time in range(10):
            for number, (stream, size) in enumerate(zip(streams, sizes, strict=True)):
                frame = av.VideoFrame.from_ndarray(drawn(number, *size), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 25)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    with av.open(str(path)) as file:
        marked = tuple(s.index for s in file.streams.video if s.disposition & Disposition.default)
    assert marked == default
    (frames,) = kinegraph.decode(str(path), times=[0.0, 0.2])
    assert isinstance(frames, kinegraph.Frames)
    assert read(frames.pixels[0]) == shown
