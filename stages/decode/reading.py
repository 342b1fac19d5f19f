"""Declares what the rules for reading videos need of an open video. Torch-free."""

from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.timeline import ShownTimes


class VideoBeingRead(Protocol):
    """The attributes and methods of an open video that the modules of this folder use. `stream.OpenVideo` has them."""

    container: InputContainer  # PyAV's object of the open file
    stream: VideoStream  # PyAV's object of the video stream
    packets: PacketCount  # counts the packets that were read so far
    # The path of the file, or None if the caller passed an open file
    path: str | None
    # True once all packets were read
    is_at_end: bool
    # The duration of the frames at the start that FFmpeg left out, because data that they need is missing
    passed_seconds: float
    # The time stamp of the first decoded frame, in seconds of the container's clock
    first_stamp_seconds: float

    @property
    def timeline(self) -> ShownTimes: ...

    def read_to_end(self) -> PacketCount: ...
