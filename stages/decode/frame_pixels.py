"""Returns the pixels of one frame of an open video or of a folder of images. Torch-free."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from kinegraph.stages.clock import DECODE, Clock
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import OpenImages
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.stream import PYAV_ERRORS, OpenVideo, TimedFrame
from kinegraph.stages.decode.torchcodec_video import TorchcodecVideo
from kinegraph.stages.decode.wanted import Size


def pixels_of(
    video: OpenVideo | OpenImages | TorchcodecVideo, timed_frame: TimedFrame, converter: Converter, clock: Clock
) -> FramePixels:
    """Returns the FramePixels of the frame `timed_frame` of `video`: an object that returns the frame in the size that
    a caller wants.

    A frame of an OpenVideo is converted to RGB only when it is needed. A frame of an OpenImages or a TorchcodecVideo is
    read at once, and `clock` counts this as decoding. `converter` scales such a frame. Raises DecodeError if the frame
    cannot be read or converted, and so do the methods of the FramePixels.
    """
    if isinstance(video, OpenVideo):

        def rgb() -> np.ndarray:
            with _naming_time(timed_frame):
                return video.rgb(timed_frame.frame)

        def scaled(size: Size) -> np.ndarray:
            with _naming_time(timed_frame):
                return video.scaled(timed_frame.frame, size)

        with _naming_time(timed_frame):
            return FramePixels(video.size(timed_frame.frame), rgb, scaled)
    with clock.during(DECODE), _naming_time(timed_frame):
        return FramePixels.of(Image.fromarray(video.rgb(timed_frame.frame)), converter)


@contextmanager
def _naming_time(timed_frame: TimedFrame) -> Iterator[None]:
    """Raises DecodeError (`unreadable`) in place of an error of PyAV in the `with` block. The message names the time of
    the frame `timed_frame`.
    """
    try:
        yield
    except DecodeError:  # of one image of a folder
        raise
    except PYAV_ERRORS as error:
        words = f"the frame at {timed_frame.seconds:.2f} s cannot be shown: {error}"
        raise DecodeError("unreadable", words) from error
