"""Lists the versions of the rules by which video files are read. A cache stores the version with which it was made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinegraph.stages.decode import durations, first_rules, pictures
from kinegraph.stages.decode.first_rules import FirstTimeline
from kinegraph.stages.decode.pictures import Orientation
from kinegraph.stages.decode.reading import VideoBeingRead
from kinegraph.stages.decode.timeline import ShownTimes, Timeline


@dataclass(frozen=True, kw_only=True)
class Rules:
    """One version of the rules by which video files are read. Each field is a function."""

    # (video streams of a file) -> the stream that is read
    choose_stream: Callable[[Sequence[VideoStream]], VideoStream]
    # (container, stream, time stamps of the first frames) -> the ShownTimes, which compute when a frame is shown
    timeline: Callable[[InputContainer, VideoStream, Sequence[int]], ShownTimes]
    # (open video) -> the duration in seconds that the container states, or None
    stated_duration: Callable[[VideoBeingRead], float | None]
    # (open video, first frame) -> the duration in seconds, from the container or from the packets
    duration: Callable[[VideoBeingRead, VideoFrame], float]
    # (frame) -> the Orientation, which says how a player turns and mirrors the frame
    orientation: Callable[[VideoFrame], Orientation]


RULES = {
    1: Rules(
        choose_stream=first_rules.choose_stream,
        timeline=FirstTimeline,
        stated_duration=first_rules.stated_duration,
        duration=first_rules.duration,
        orientation=first_rules.orientation,
    ),
    2: Rules(
        choose_stream=pictures.choose_stream,
        timeline=Timeline,
        stated_duration=durations.stated_duration,
        duration=durations.duration,
        orientation=pictures.orientation,
    ),
}  # version of `clips` -> rules
