"""Writes a sequence of pictures as a video file. Each picture has a time. The file appears whole or not at all.
Torch-free.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.codec import UnknownCodecError

from kinegraph.cache_schemas.files import writing_whole
from kinegraph.stages.errors import UsageError

CLOCK = Fraction(1, 90_000)  # seconds per tick, the unit of time in the file
THREADS = 4  # the most threads of an encoder
ITU_601 = 6  # FFmpeg's number of the colour matrix (RGB to YUV), which the file states for players


class _Form(NamedTuple):
    codec: str
    ending: str
    container: str
    options: dict[str, str]  # of the codec
    container_options: dict[str, str]


FORMS = (  # bf 0: no B-frames, with which an mp4 of varying rate would end too early
    _Form("libx264", ".mp4", "mp4", {"crf": "20", "bf": "0"}, {"movflags": "+faststart"}),
    _Form("libvpx-vp9", ".webm", "webm", {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "5"}, {}),
)


def film_ending() -> str:
    """Returns the ending of the files that `writing_film` writes: ".mp4" (H.264), or ".webm" (VP9) if PyAV was built
    without libx264.

    Raises UsageError if PyAV has neither encoder.
    """
    return _form().ending


def _form() -> _Form:
    for form in FORMS:
        with suppress(UnknownCodecError):
            av.Codec(form.codec, "w")
            return form
    names = " nor ".join(form.codec for form in FORMS)
    raise UsageError(f"This build of PyAV has neither {names}, so it cannot write videos: pip install --upgrade av")


class Film:
    """A video file that is being written. `add` adds a frame, and `end` completes the file. `num_frames` is the number
    of frames so far.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.num_frames = 0
        self._container, self._stream = container, stream
        self._held: tuple[Any, int] | None = None  # the last frame and its time in ticks, until its end is known
        self._durations: dict[int, int] = {}  # time of a frame -> its duration, both in ticks

    def add(self, pixels: np.ndarray, seconds: float) -> None:
        """Adds the frame `pixels`, uint8 RGB [height, width, 3]. The frame is shown `seconds` after the first frame.

        Frames are added in the order of their times. If a frame is not later than the frame before, it is shown one
        tick (1/90,000 s) after the frame before.
        """
        ticks = round(seconds / CLOCK)
        if self._held is not None:
            ticks = max(ticks, self._held[1] + 1)
            self._encode(ticks)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        self._held = frame.reformat(format="yuv420p", dst_colorspace="ITU601"), ticks
        self.num_frames += 1

    def end(self, last_seconds: float) -> None:
        """Writes all frames that are not written yet, so that the video is complete. The last frame is shown for
        `last_seconds`.
        """
        if self._held is not None:
            self._encode(self._held[1] + max(1, round(last_seconds / CLOCK)))
        self._mux(self._stream.encode(None))

    def _encode(self, until: int) -> None:
        assert self._held is not None
        frame, ticks = self._held
        frame.pts, frame.time_base, self._durations[ticks] = ticks, CLOCK, until - ticks
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)


@contextmanager
def writing_film(target: Path, size: tuple[int, int], rate: float) -> Iterator[Film]:
    """Yields a Film for a `with` block. At the end of the block, the video becomes the file `target`, in place of an
    existing file. If the block raises an error, no file is written. Call `end` of the Film last in the block.

    - `target`: the path of the file, which ends with `film_ending()`.
    - `size`: (width, height) in px, both even.
    - `rate`: the nominal frame rate of the file, in frames per second. The times given to `Film.add` may differ from
      it.

    Raises UsageError if PyAV has no encoder. Raises CacheNotWritable if there is no room or no permission.
    """
    form = _form()
    with (
        writing_whole(target) as temporary,
        av.open(str(temporary), "w", format=form.container, options=form.container_options) as container,
    ):
        stream: Any = container.add_stream(
            form.codec, rate=Fraction(rate).limit_denominator(1001), options=form.options
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        context = stream.codec_context
        context.time_base, context.colorspace = CLOCK, ITU_601
        context.thread_count = min(THREADS, len(os.sched_getaffinity(0)))
        yield Film(container, stream)
