"""Measures how long a video lasts. The source is the container if it is reliable, and otherwise the packets.
Torch-free.
"""

import av
from av.video.frame import VideoFrame

from kinegraph.stages.decode.reading import VideoBeingRead
from kinegraph.stages.decode.timeline import JOINED, formats

TRUNCATED_SECONDS = 0.5  # a shorter gap before the stated end is rounding by the encoder
TOGETHER = frozenset({"matroska", "flv", "asf", "asf_o"})  # containers that state one end for all streams, on one clock


def duration(video: VideoBeingRead, first: VideoFrame) -> float:
    """Returns the seconds from the first frame of a video to the end of its last frame. `first` is the first frame.

    All packets are read if the container does not state the duration. For a file that was cut off, the result is the
    duration that the container states. So clips of the missing part fail as `truncated` when they are decoded.
    """
    if (stated := _header_seconds(video)) is not None:
        return stated - video.passed_seconds
    video.read_to_end()
    shown = video.packets.shown_seconds(video.timeline, first.pts)
    return stated_duration(video) or shown


def stated_duration(video: VideoBeingRead) -> float | None:
    """Returns the seconds from the first frame to the end of the video stream, as the container states it. Returns None
    if the container does not state this.

    Some containers, such as flv, state one end for all streams together. The result is then None, unless the file was
    cut off: every stream ends before the stated end.
    """
    if (stated := _header_seconds(video)) is not None:
        return stated - video.passed_seconds
    if not video.is_at_end or video.packets.jumps or not formats(video.container) & TOGETHER:
        return None
    end = (video.container.duration or 0) / av.time_base
    if end - video.packets.latest_end_seconds <= TRUNCATED_SECONDS:
        return None
    return end - video.first_stamp_seconds if end > video.first_stamp_seconds else end


def _header_seconds(video: VideoBeingRead) -> float | None:
    """Returns the duration in seconds that the header states for the video stream alone. Returns None if the header
    states nothing reliable, and for formats whose files may be several recordings joined, such as MPEG-TS.

    FFmpeg only guesses the duration of an avi file that was cut off. For such a file the result comes from the number
    of frames in the header.
    """
    stream, names = video.stream, formats(video.container)
    if video.timeline.is_raw or names & JOINED:
        return None
    if names & TOGETHER:
        begins_at_0 = not stream.start_time and len(video.container.streams) == 1
        is_stated = "matroska" in names and begins_at_0 and video.container.duration
        return float(video.container.duration or 0) / av.time_base if is_stated else None
    if stream.duration is not None and stream.time_base is not None:
        stated = float(stream.duration * stream.time_base)
        counted = float(stream.frames * stream.time_base) if "avi" in names else 0.0  # a tick of avi is one frame
        return (counted if counted - stated > TRUNCATED_SECONDS else stated) or None
    if video.container.duration is not None and len(video.container.streams) == 1:
        return video.container.duration / av.time_base
    return None
