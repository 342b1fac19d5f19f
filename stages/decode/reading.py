"""Defines what the rules for reading videos need of an open video. Torch-free."""

from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.timeline import ShownTimes


class VideoBeingRead(Protocol):
    """The attributes and methods of an open video that other modules of this folder use. `stream.OpenVideo` has them.

    `container` and `stream` are PyAV's objects of the file and of its video stream. `path` is None for a file that the
    caller had opened. `packets` counts the packets that were read so far, and `is_at_end` is True once all were read.

    `passed_seconds` is the duration of the frames at the start that FFmpeg passed over, because data that they need is
    missing. `first_stamp_seconds` is the time stamp of the first decoded frame on the container's clock. `timeline`
    computes the times of frames.
    """

    container: InputContainer
    stream: VideoStream
    packets: PacketCount
    path: str | None  # None for a file that was given open
    is_at_end: bool  # all packets have been read
    passed_seconds: float
    first_stamp_seconds: float  # the first frame's stamp on the container's clock

    @property
    def timeline(self) -> ShownTimes: ...

    def read_to_end(self) -> PacketCount: ...
