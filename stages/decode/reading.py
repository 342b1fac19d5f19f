"""Declares what the rules for reading videos need of an open video. Torch-free."""

from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.timeline import ShownTimes


class VideoBeingRead(Protocol):
    """The attributes and methods of an open video that the modules of this folder use. `stream.OpenVideo` has them.

    `container`: PyAV's object of the open file.
    `stream`: PyAV's object of the video stream.
    `packets`: counts the packets that were read so far.
    `path`: the path of the file, or None if the caller passed an open file.
    `is_at_end`: True once all packets were read.
    `passed_seconds`: the duration of the frames at the start that FFmpeg left out, because data that they need is
        missing.
    `first_stamp_seconds`: the time stamp of the first decoded frame, in seconds of the container's clock.
    `timeline`: computes the times of frames.
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
