"""What the rules of versions, and seeks, ask of a video that is being read. Torch-free."""

from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.timeline import ShownTimes


class VideoBeingRead(Protocol):
    """`stream.OpenVideo` is one. Seconds are since the first frame, but where said otherwise."""

    container: InputContainer
    stream: VideoStream
    packets: PacketCount
    path: str | None  # None for an open file
    is_at_end: bool  # all packets are read
    passed_seconds: float
    first_stamp_seconds: float  # of the first frame, on the container's clock

    @property
    def timeline(self) -> ShownTimes: ...

    def read_to_end(self) -> PacketCount: ...
