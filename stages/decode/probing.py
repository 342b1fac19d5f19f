"""Probes a video: reads the facts that indexing needs, with one decoded frame. Imports no torch."""

from dataclasses import dataclass

from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import PYAV_ERRORS, Seekable, open_video
from kinegraph.stages.decode.timeline import PresentedFrames
from kinegraph.stages.decode.wanted import LATEST_RULES


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The facts about a video that indexing needs."""

    duration: float  # from the first frame to the end of the last frame, in seconds
    frame_width: int  # the width of an upright frame in px
    frame_height: int  # the height of an upright frame in px
    rate: float = 0.0  # frames per second
    warning: str = ""  # what went wrong while the video was probed, in words, or ""
    # The number and the times of the frames. None, except for folders of images and after `probe_counted`.
    frames: PresentedFrames | None = None


def probe(path: str | Seekable, rules: int = LATEST_RULES) -> Probe:
    """Returns the Probe (duration, frame size and frame rate) of the video at `path`, a path or an open file. The first
    frame is decoded. All packets are read only if the header does not state the duration.

    `rules` is the version of the rules for reading videos. Raises DecodeError if the video cannot be opened, or if no
    frame can be decoded.
    """
    with open_video(path, rules) as video:
        for first in video.frames():
            try:
                seconds, (width, height) = video.rules.duration(video, first.frame), video.size(first.frame)
            except PYAV_ERRORS as error:
                raise DecodeError("unreadable", f"{video.complaints}; {error}".strip("; ")) from error
            return Probe(
                duration=seconds,
                frame_width=width,
                frame_height=height,
                rate=1 / video.frame_period if video.frame_period else 0.0,
                warning="; ".join(filter(None, [video.complaints, video.packets.note])),
            )
        raise DecodeError("unreadable", video.complaints or "it holds no frame")
