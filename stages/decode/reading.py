"""Defines what the rules for reading videos need of an open video. Torch-free."""

from typing import Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.timeline import ShownTimes


class VideoBeingRead(Protocol):
    """The attributes and methods of an open video that other modules of this folder use. `stream.OpenVideo` has them.

    Seconds count from the first frame unless stated otherwise.
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
