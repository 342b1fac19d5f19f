"""Chooses the video stream of a file, and the orientation in which frames are shown. Torch-free."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class Orientation(NamedTuple):
    """Says how a decoded picture, pixels [H, W, 3], is turned and mirrored for display. H is the number of rows, W of
    columns.

    First `is_transposed` swaps rows and columns. Then `flips_x` mirrors left and right, and `flips_y` mirrors top and
    bottom.
    """

    is_transposed: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns (width, height) in px of the picture as a player shows it. `width` and `height` are those of the
        decoded picture.
        """
        return (height, width) if self.is_transposed else (width, height)

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the picture `pixels` [rows, columns, 3], turned and mirrored for display, in a contiguous array."""
        if not any(self):
            return pixels
        turned = pixels.transpose(1, 0, 2) if self.is_transposed else pixels
        return np.ascontiguousarray(turned[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Returns the entries (a, b, c, d) of the display matrix of `frame`. The matrix moves the point (x, y) of the frame
    to (a*x + c*y, b*x + d*y). A frame without a display matrix has (1, 0, 0, 1), which changes nothing.
    """
    # `frame.side_data` would stay with the frame, and each refers to the other: a cycle, which is freed much later
    sides: Any = SideDataContainer(frame)  # type: ignore[call-arg]  # PyAV 18 iterates over values, PyAV 19 over keys
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return a, b, c, d


def orientation(frame: VideoFrame) -> Orientation:
    """Returns the Orientation that the display matrix of `frame` asks for.

    Eight orientations move pixels without resampling: the turns by multiples of 90 degrees, each with or without a
    mirror. A matrix with another angle or with a scale is replaced by the nearest of these eight.
    """
    a, b, c, d = display_matrix(frame)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def choose_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """Returns the video stream to read: the stream that the file marks as default.

    If several streams are marked as default, the result is the largest of these streams in pixels. If no stream is
    marked, the result is the largest of all streams. Among streams of equal size, the first is returned.
    """
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]
    return max(defaults or streams, key=lambda stream: (stream.width or 0) * (stream.height or 0))
