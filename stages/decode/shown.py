"""Returns the pixels of one frame of an open video. Torch-free."""

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
    video: OpenVideo | OpenImages | TorchcodecVideo, shown: TimedFrame, converter: Converter, clock: Clock
) -> FramePixels:
    """Returns the pixels of the frame `shown` of `video`.

    A frame of an OpenVideo is converted when its pixels are needed. Other videos have RGB frames, which are read at
    once. `clock` counts this as decoding, and `converter` scales them. Raises DecodeError where the frame cannot be
    read or converted, also when its pixels are needed later.
    """
    if isinstance(video, OpenVideo):

        def rgb() -> np.ndarray:
            with _showing(shown):
                return video.rgb(shown.frame)

        def scaled(size: Size) -> np.ndarray:
            with _showing(shown):
                return video.scaled(shown.frame, size)

        with _showing(shown):
            return FramePixels(video.size(shown.frame), rgb, scaled)
    with clock.during(DECODE), _showing(shown):
        return FramePixels.of(Image.fromarray(video.rgb(shown.frame)), converter)


@contextmanager
def _showing(shown: TimedFrame) -> Iterator[None]:
    """Raises DecodeError (`unreadable`) in place of an error of PyAV in the `with` block. The message names the time of
    the frame `shown`.
    """
    try:
        yield
    except DecodeError:  # of one image of a folder
        raise
    except PYAV_ERRORS as error:
        words = f"the frame at {shown.seconds:.2f} s cannot be shown: {error}"
        raise DecodeError("unreadable", words) from error
