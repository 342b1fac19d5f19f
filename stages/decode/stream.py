"""A video stream as a player shows it: rotated frames with the time since the first one. Torch-free.

PyAV's own threads stay off: work runs in parallel over videos, each on a thread of its own, and then FFmpeg's log
lines reach the thread that caused them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from stages.decode.errors import DecodeError
from stages.decode.opening import on_disk, open_container, require_file

MAX_COMPLAINTS = 5  # kept per video
TRUNCATED_SECONDS = 0.5  # a shorter gap before the declared end is how encoders round
Logs = list[tuple[int, str, str]]  # level, who, what


class Seekable(Protocol):
    """An open file, as far as FFmpeg needs it."""

    def read(self, size: int = -1) -> bytes: ...

    def seek(self, to: int, whence: int = 0) -> int: ...

    def tell(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What indexing needs to know: seconds from first to last presented frame, and the rotated frame's size."""

    duration: float
    frame_width: int
    frame_height: int


class OpenVideo:
    """A video that is being read once, front to back. `logs` is what FFmpeg says meanwhile."""

    def __init__(self, container: InputContainer, stream: VideoStream, logs: Logs) -> None:
        self.container, self.stream, self._logs = container, stream, logs
        self._errors: list[str] = []
        self.stream.codec_context.thread_count = 1
        self._reformatter = VideoReformatter()
        rate = stream.average_rate or stream.guessed_rate
        self.frame_period = float(1 / rate) if rate else 0.0

    @property
    def complaints(self) -> str:
        """What went wrong so far, in FFmpeg's words; empty if nothing did."""
        return _said(self._logs) or "; ".join(self._errors[:MAX_COMPLAINTS])

    @property
    def declared_duration(self) -> float | None:
        """Seconds the container promises for the video stream; None where it only speaks of all streams together.

        For an avi that was cut off FFmpeg guesses the duration from the file's size; its header still has the
        number of frames.
        """
        counted = self.stream.frames * self.frame_period
        if self.stream.duration is not None and self.stream.time_base is not None:
            told = float(self.stream.duration * self.stream.time_base)
            return counted if counted - told > TRUNCATED_SECONDS else told
        if self.container.duration is not None and len(self.container.streams) == 1:
            return self.container.duration / av.time_base
        return None

    def frames(self, deadline: float = float("inf")) -> Iterator[tuple[float, VideoFrame]]:
        """(seconds since the first presented frame, frame) in presentation order.

        What cannot be decoded is noted in `complaints` and passed over, as a player does. Raises DecodeError
        (`timeout`) once time.monotonic() is past `deadline`.
        """
        first: float | None = None
        latest = 0.0
        for frame in self._decoded():
            if time.monotonic() > deadline:
                raise DecodeError("timeout", f"decoding had reached {latest:.1f} s of the video when its time was up")
            seconds = self._seconds(frame, latest)
            first = seconds if first is None else first
            if seconds - first >= latest:
                latest = seconds - first
                yield latest, frame

    def _seconds(self, frame: VideoFrame, latest: float) -> float:
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None or frame.time_base is None:  # a raw stream: count frames
            return latest + self.frame_period
        return float(stamp * frame.time_base)

    def _decoded(self) -> Iterator[VideoFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._errors.append(f"reading stopped: {error}")
                return
            try:
                yield from packet.decode()
            except (av.error.FFmpegError, OSError) as error:
                self._errors.append(str(error))

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """The frame as uint8 [H, W, 3], rotated as its metadata asks."""
        # one converter a video with one thread: a converter of its own per frame is 25 times slower
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextmanager
def open_video(path: str | Seekable) -> Iterator[OpenVideo]:
    """Open the first video stream of a file, which may be open already.

    Raises DecodeError: `missing`, `unreadable` (no regular file, cannot be opened), `no_video_stream`.
    """
    if not isinstance(path, str):
        path.seek(0)
    else:
        path = on_disk(path)
        require_file(path)
    if av.logging.get_level() != av.logging.ERROR:
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # it looks back beyond this video: a complaint went to the next one
    with av.logging.Capture() as logs:
        try:
            container = open_container(path, logs)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise DecodeError("unreadable", _said(logs) or str(error)) from error
        with container:
            videos = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not videos:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
                raise DecodeError("no_video_stream", f"streams found: {kinds}")
            yield OpenVideo(container, videos[0], logs)


def _said(logs: Logs) -> str:
    lines = dict.fromkeys(f"{name}: {message.strip()}" for _, name, message in logs)
    return "; ".join([*lines][:MAX_COMPLAINTS])


def probe(path: str | Seekable) -> Probe:
    """Duration and frame size of a video, from its header and first frame; by counting packets where it must.

    Raises DecodeError as `open_video` does, and `unreadable` where not one frame can be decoded.
    """
    with open_video(path) as video:
        for _, frame in video.frames():
            turned = round(frame.rotation / 90) % 2 == 1
            width, height = (frame.height, frame.width) if turned else (frame.width, frame.height)
            break
        else:
            raise DecodeError("unreadable", video.complaints or "it holds no frame")
        duration = video.declared_duration
    return Probe(duration=duration or _counted_duration(path), frame_width=width, frame_height=height)


def _counted_duration(path: str | Seekable) -> float:
    """Seconds from the first to the end of the last packet, for containers that do not say."""
    with open_video(path) as video:
        base = video.stream.time_base
        stamps = [p.pts for p in video.container.demux(video.stream) if p.pts is not None]
        if not stamps or base is None:
            return video.frame_period
        return float((max(stamps) - min(stamps)) * base) + video.frame_period
