"""Reads videos by version 1 of the rules for reading videos. An upgrade compares its frames with those of the latest
rules. No new cache is made by version 1. Torch-free.

Version 1 had three faults. Frames whose time stamps went back were dropped. Decode times were taken for presentation
times. Durations included edit lists and late starts.
"""

import math
from collections.abc import Sequence

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinegraph.stages.decode.pictures import Orientation, display_matrix
from kinegraph.stages.decode.reading import VideoBeingRead

FLOAT_NOISE_SECONDS = 1e-6
ROUNDING_SECONDS = 0.5


class FirstTimeline:
    """Computes when the frames of `stream` are shown, by version 1 of the rules for reading videos. `timeline.Timeline`
    does this by the latest rules.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, _: Sequence[int] = ()) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.complaints: list[str] = []
        self.frame_period = float(1 / rate) if rate else 0.0
        self.slack_seconds, self.is_raw, self.has_decode_times = FLOAT_NOISE_SECONDS, False, False
        self._latest = 0.0
        self._first: float | None = None

    def seconds(self, frame: VideoFrame) -> float | None:
        """Returns the time at which `frame` is shown, in seconds since the first frame of the video. Returns None if
        the frame is dropped, because its time is earlier than the time of a frame before it.
        """
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None or frame.time_base is None:
            seconds = self._latest + self.frame_period
        else:
            seconds = float(stamp * frame.time_base)
        self._first = seconds if self._first is None else self._first
        if seconds - self._first < self._latest:
            return None
        self._latest = seconds - self._first
        return self._latest


def stated_duration(video: VideoBeingRead) -> float | None:
    """Returns the duration in seconds that the container states, by version 1 of the rules for reading videos. Returns
    None if the container states no duration.
    """
    stream, container = video.stream, video.container
    counted = stream.frames * video.timeline.frame_period
    if stream.duration is not None and stream.time_base is not None:
        stated = float(stream.duration * stream.time_base)
        return counted if counted - stated > ROUNDING_SECONDS else stated
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def duration(video: VideoBeingRead, first: VideoFrame) -> float:
    """Returns the seconds from the first frame of `video` to the end of the last frame, by version 1 of the rules for
    reading videos. `first` is not used. Every function `Rules.duration` has this argument.
    """
    return stated_duration(video) or video.read_to_end().pts_span_seconds() + video.timeline.frame_period


def choose_stream(streams: Sequence[VideoStream]) -> VideoStream:
    return streams[0]


def orientation(frame: VideoFrame) -> Orientation:
    """Returns the Orientation in which a player shows `frame`, by version 1 of the rules for reading videos. Version 1
    uses only the angle of the display matrix, so pictures are never mirrored.
    """
    a, b, c, d = display_matrix(frame)
    if not (math.hypot(a, c) and math.hypot(b, d)):
        return Orientation()
    degrees = -math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    turns = (Orientation(), Orientation(True, False, True), Orientation(False, True, True), Orientation(True, True))
    return turns[round(degrees / 90) % 4]
