"""Chooses the video stream of a file, and the orientation in which its frames are shown. Torch-free."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class Orientation(NamedTuple):
    """Describes how a decoded picture [H, W, 3] (H rows, W columns) becomes the picture that a player shows.

    `is_transposed` swaps rows and columns first. Then `flips_x` mirrors left and right, and `flips_y` mirrors top and
    bottom.
    """

    is_transposed: bool = False
    flips_x: bool = False
    flips_y: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns (number of columns, number of rows) of the picture as a player shows it. The decoded picture has
        `width` x `height` pixels.
        """
        return (height, width) if self.is_transposed else (width, height)

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the picture as a player shows it, turned and mirrored, in a contiguous array.

        `pixels` is the picture as decoded, [rows, columns, 3].
        """
        if not any(self):
            return pixels
        turned = pixels.transpose(1, 0, 2) if self.is_transposed else pixels
        return np.ascontiguousarray(turned[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Returns the entries (a, b, c, d) of the display matrix of `frame`. The point (x, y) of the frame is shown at the
    place (a*x+c*y, b*x+d*y).

    Returns (1, 0, 0, 1), which changes nothing, where `frame` has no display matrix.
    """
    sides: Any = frame.side_data  # looked up by its key, as PyAV 18 iterates over values and PyAV 19 over keys
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return a, b, c, d


def orientation(frame: VideoFrame) -> Orientation:
    """Returns the Orientation that the display matrix of `frame` asks for.

    Eight matrices move pixels without resampling: the turns by multiples of 90 degrees, each with or without a mirror.
    Another angle or a scale counts as the nearest of these eight.
    """
    a, b, c, d = display_matrix(frame)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def chosen_stream(streams: Sequence[VideoStream]) -> VideoStream:
    """Returns the video stream to read: the stream that is marked as default.

    Where several streams are marked as default, returns the largest of the marked streams in pixels. Where no stream is
    marked, returns the largest of all streams. Among streams of equal size, the first counts.
    """
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]
    return max(defaults or streams, key=lambda stream: (stream.width or 0) * (stream.height or 0))
