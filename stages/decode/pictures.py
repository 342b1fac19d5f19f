"""Which stream of a file is the video, and which way up its frames are shown. Torch-free."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class Orientation(NamedTuple):
    """How pixels [H, W, 3] become what a player shows: transposed first, then mirrored along each axis."""

    is_transposed: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as shown."""
        return (height, width) if self.is_transposed else (width, height)

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [H, W, 3] as shown, contiguous."""
        if not any(self):
            return pixels
        turned = pixels.transpose(1, 0, 2) if self.is_transposed else pixels
        return np.ascontiguousarray(turned[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of the frame's display matrix: a point (x, y) is shown at (a x + c y, b x + d y)."""
    sides: Any = frame.side_data  # it iterates over values, which its types do not say
    matrix = next((data for data in sides if data.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return a, b, c, d


def orientation(frame: VideoFrame) -> Orientation:
    """By the display matrix, of which each of the eight that keep pixels as they are is followed exactly.

    A matrix that turns by other angles, or scales, counts as the nearest of the eight.
    """
    a, b, c, d = display_matrix(frame)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def chosen_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """Of several video streams the one that is marked as the default; else, or of several defaults, the largest.

    The first of equals.
    """
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]
    return max(defaults or streams, key=lambda stream: (stream.width or 0) * (stream.height or 0))
