"""Converts decoded frames to upright RGB pictures with libswscale, and scales them in the same step. Torch-free."""

from collections import defaultdict

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from kinegraph.stages.decode.pictures import Orientation
from kinegraph.stages.decode.wanted import Size

# Bilinear. In a smaller picture a pixel is a mean over all pixels in its place. Without the other flags, libswscale may
# drop every other column of colours, of RGB frames and of the result, and cuts sums off.
FULL_COLOURS = Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
SCALING = Interpolation.BILINEAR | FULL_COLOURS | Interpolation.ACCURATE_RND


class Converter:
    """Converts the frames of one video to RGB. Only one thread may use a Converter at a time.

    Conversions of frames of one size share one converter of libswscale. A new converter for each frame is 25 times
    slower.
    """

    def __init__(self) -> None:
        self._reformatters: dict[Size | None, VideoReformatter] = defaultdict(VideoReformatter)

    def rgb(self, frame: VideoFrame, turn: Orientation) -> np.ndarray:
        """Returns `frame` as RGB pixels, uint8 [height, width, 3], turned and mirrored as `turn` says."""
        pixels = self._reformatters[None].reformat(frame, format="rgb24", threads=1).to_ndarray()
        return turn.applied(pixels)

    def scaled(self, frame: VideoFrame, turn: Orientation, size: Size) -> np.ndarray:
        """Returns `frame` as RGB pixels, uint8 [height, width, 3], turned and mirrored as `turn` says, and scaled to
        `size` = (width, height) in px. `size` is the size after turning.

        An interlaced frame (of two fields) becomes RGB before it is scaled, because libswscale would scale each field
        alone.
        """
        if turn.size(frame.width, frame.height) == size:
            return self.rgb(frame, turn)
        if frame.interlaced_frame:
            return self.scaled_rgb(self.rgb(frame, turn), size)
        return turn.applied(self._scaled(frame, turn.size(*size)))

    def scaled_rgb(self, pixels: np.ndarray, size: Size) -> np.ndarray:
        """Returns the picture `pixels`, uint8 RGB [height, width, 3], scaled to `size` = (width, height) in px."""
        if pixels.shape[1::-1] == size:
            return pixels
        return self._scaled(VideoFrame.from_ndarray(pixels, format="rgb24"), size)

    def _scaled(self, frame: VideoFrame, size: Size) -> np.ndarray:
        width, height = size
        reformatter = self._reformatters[size]
        scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
        pixels: np.ndarray = scaled.to_ndarray()
        return pixels
