"""Reads a video stream as a player shows it: upright frames, each with its time since the first frame. Torch-free.

One thread decodes a video, so that each log line of FFmpeg can be assigned to its video.
"""

import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Protocol

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode import seeking
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.first_rules import FirstTimeline
from kinegraph.stages.decode.opening import on_disk, open_container, require_file
from kinegraph.stages.decode.packets import PacketCount
from kinegraph.stages.decode.pictures import Orientation
from kinegraph.stages.decode.rules import RULES, Rules
from kinegraph.stages.decode.seeking import SeekLost
from kinegraph.stages.decode.timeline import first_stamps
from kinegraph.stages.decode.wanted import LATEST_RULES, Size

NOBODY = "NULL"  # source of complaints about headers that FFmpeg saw in part only, while looking for the format
MAX_COMPLAINTS = 5  # complaints of each kind that are kept per video
Logs = list[tuple[int, str, str]]  # level, source, message
# Errors that odd files cause.
PYAV_ERRORS = (av.error.FFmpegError, OSError, ValueError, TypeError, AttributeError, LookupError)


class Seekable(Protocol):
    """An open file with the methods that FFmpeg needs."""

    def read(self, size: int = -1) -> bytes: ...

    def seek(self, to: int, whence: int = 0) -> int: ...

    def tell(self) -> int: ...


class TimedFrame(NamedTuple):
    """One frame of a video with its time."""

    seconds: float  # the time at which the frame is shown, in seconds from the first frame of the video
    # The decoded frame of PyAV in an `OpenVideo`. In an `OpenImages` or a `TorchcodecVideo`, which decode a frame only
    # when its pixels are needed, it is the position of the frame in the video, an int from 0.
    frame: Any
    coded: int  # the number of the frame among all frames that the decoder returned, from 0. It is -1 after a seek.
    number: int  # the number of the frame among the frames that are shown, from 0. It is -1 after a seek.


class OpenVideo:
    """A video that is read from front to back. `container` is PyAV's object of the open file, and `stream` is the video
    stream that is read.

    `logs`: the messages of FFmpeg so far.
    `rules`: the rules that say which frame is shown at which time.
    `path`: the path of the file, or None if the caller passed an open file.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, logs: Logs, rules: Rules, path: str | None
    ) -> None:
        self.container, self.stream, self._logs, self.rules, self.path = container, stream, logs, rules, path
        self._errors: list[str] = []
        self.stream.codec_context.thread_count = 1
        self._converter = Converter()
        self._oriented: tuple[VideoFrame, Orientation] | None = None  # the frame whose orientation was looked up last
        stamps, self._packets = first_stamps(container, stream, container.demux())
        self.timeline = rules.timeline(container, stream, stamps)
        self.packets = PacketCount(container, stream)
        self._demuxed = self._demux()
        self._pending: deque[VideoFrame] = deque()  # decoded, not yet yielded
        self.sizes: list[tuple[float, tuple[int, int]]] = []  # since when, s, and (width, height) as shown
        self._coded_size: tuple[int, int] | None = None
        self.first_stamp_seconds = self.passed_seconds = 0.0
        self.is_at_end, self._has_frame = False, False
        self.latest: TimedFrame | None = None  # the frame that was yielded last
        self.kept_frames: list[TimedFrame] = []  # the last frames, which a later reader may need too
        self._coded = self._number = self._noted = 0
        self._seeker: seeking.Seeker | None = None
        self._landing: Packet[Any] | None = None  # packet of the key frame of the last seek, until decoded

    def close(self) -> None:
        """Closes the file. The decoder and its frames are freed as soon as nothing refers to this object."""
        self._demuxed.close()  # refers to this object: a cycle, which the garbage collector would find much later
        self.container.close()

    @contextmanager
    def collect_messages(self) -> Iterator[None]:
        """Returns a context manager that collects the messages of FFmpeg. Messages that FFmpeg writes on this thread in
        the `with` block become part of the property `complaints`.
        """
        with av.logging.Capture() as logs:
            logs[:0] = self._logs
            self._logs = logs
            yield

    @property
    def frame_period(self) -> float:
        """Returns the mean time in seconds from one frame of the video to the next."""
        return self.timeline.frame_period

    @property
    def slack_seconds(self) -> float:
        """Returns the tolerance in seconds with which the times of frames are compared with target times."""
        return self.timeline.slack_seconds

    @property
    def complaints(self) -> str:
        """Returns what went wrong so far, in words of FFmpeg and of kinegraph, or "" if nothing went wrong."""
        said = [_said(self._logs) or "; ".join(dict.fromkeys(self._errors[:MAX_COMPLAINTS]))]
        stamps = self.timeline.complaints
        more = [f"and {counted(len(stamps) - MAX_COMPLAINTS, 'time')} more"] if len(stamps) > MAX_COMPLAINTS else []
        return "; ".join(filter(None, [*said, *stamps[:MAX_COMPLAINTS], *more]))

    @property
    def stated_duration(self) -> float | None:
        """Returns the duration in seconds that the container states for the video stream, or None."""
        return self.rules.stated_duration(self)

    @property
    def is_clean(self) -> bool:
        """Returns whether nothing went wrong since the first frame."""
        return self._num_complaints() == self._noted

    @property
    def has_sought(self) -> bool:
        """Returns whether a seek has skipped a part of the video."""
        return self._seeker is not None and self._seeker.has_sought

    @property
    def can_continue(self) -> bool:
        """Returns whether the next reader can continue after the latest frame, and gets the same frames as by reading
        the video from the start.

        The result is False before the first frame and after a message or an error of the decoder. At the end of the
        video, the result is True only if the last frames were kept in `kept_frames`.
        """
        return self.latest is not None and (not self.is_at_end or bool(self.kept_frames)) and self.is_clean

    def _num_complaints(self) -> int:
        said = sum(name != NOBODY for _, name, _ in self._logs)
        return said + len(self._errors) + len(self.timeline.complaints)

    def frames(self, deadline: float = float("inf")) -> Iterator[TimedFrame]:
        """Yields a TimedFrame (a frame and its time) for each frame of the video, in the order in which the frames are
        shown. Each call continues where the last call ended.

        A frame that cannot be decoded is left out, and `complaints` says so. Raises DecodeError (`timeout`) if
        time.monotonic() passes `deadline`. Raises SeekLost if the frames after a seek may be wrong.
        """
        for frame in self._decoded():
            if time.monotonic() > deadline:
                self._pending.appendleft(frame)
                latest = self.latest.seconds if self.latest else 0.0
                raise DecodeError("timeout", f"decoding had reached {latest:.1f} s of the video when its time was up")
            if self._seeker is not None and not self._seeker.accepts(frame):
                continue
            seconds, coded = self.timeline.seconds(frame), self._coded
            self._coded += 1
            if seconds is not None:
                self._note_size(seconds, frame)
                if self.latest is None:
                    self._noted = self._num_complaints()
                numbers = (-1, -1) if self.has_sought else (coded, self._number)
                self._number += 1
                self.latest = TimedFrame(seconds, frame, *numbers)
                yield self.latest

    def skip_to(self, seconds: float) -> bool:
        """Seeks to the last key frame at or before the time `seconds`, to skip a part of the video. Returns whether a
        part was skipped.

        Does not seek if the part is short, or if the frames after a seek might be wrong. Raises SeekLost if the seek
        led to a wrong place. The caller then has to read the video from the start.
        """
        assert self.latest is not None
        if seconds - self.latest.seconds < seeking.MIN_SKIP_SECONDS or not self.is_clean:
            return False
        try:
            if self._seeker is None:
                self._seeker = seeking.Seeker(self)
            landing = self._seeker.seek(self.latest.seconds, seconds, self._packets)
        except PYAV_ERRORS as error:
            raise SeekLost from error
        if landing is not None:
            self._landing = landing
            self._pending.clear()
        return landing is not None

    def _note_size(self, seconds: float, frame: VideoFrame) -> None:
        if (frame.width, frame.height) != self._coded_size:
            self._coded_size = frame.width, frame.height
            self.sizes.append((seconds, self.size(frame)))

    def read_to_end(self) -> PacketCount:
        """Reads the remaining packets of the file without decoding them. Returns the PacketCount, which has the number
        of packets of the video stream and computes the duration from their times.
        """
        for _ in self._demuxed:
            pass
        return self.packets

    def later_packets(self) -> Iterator["Packet[Any]"]:
        """Yields the remaining packets of the video stream without decoding them. Packets that are empty, or that the
        file marks as not shown, are left out.
        """
        return (packet for packet in self._demuxed if packet.size and not packet.is_discard)

    def _demux(self) -> Generator["Packet[Any]"]:
        """Yields the packets of the video stream, until the file ends or cannot be read further. Counts the packets of
        all streams in `self.packets`.
        """
        while True:
            try:
                packet = next(self._packets) if self._landing is None else self._landing
            except StopIteration:
                break
            except PYAV_ERRORS as error:
                self._errors.append(f"reading stopped: {error}")
                break
            self._landing = None
            self.packets.add(packet, self.frame_period, not self._has_frame)
            if packet.stream_index == self.stream.index:
                yield packet
        self.is_at_end = True

    def _decoded(self) -> Iterator[VideoFrame]:
        while True:
            while self._pending:
                yield self._pending.popleft()
            packet = next(self._demuxed, None)
            if packet is None:
                return
            num_said, num_errors = len(self._logs), len(self._errors)
            try:
                frames = packet.decode()
            except PYAV_ERRORS as error:
                frames = []
                self._errors.append(str(error))
            if (seeker := self._seeker) is not None:
                self._logs[num_said:] = [
                    line for line in self._logs[num_said:] if not seeker.is_harmless(packet, line[2])
                ]
                self._errors[num_errors:] = [
                    line for line in self._errors[num_errors:] if not seeker.is_harmless(packet, line)
                ]
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    if not self._has_frame:
                        self._begin(frame)
                    self._pending.append(frame)

    def _begin(self, frame: VideoFrame) -> None:
        """Notes the time stamp of `frame`, the first decoded frame. If FFmpeg left out earlier frames without a
        message, appends their number and duration to `timeline.complaints`.
        """
        self._has_frame = True
        stamp = frame.dts if self.timeline.has_decode_times else frame.pts
        if stamp is None or frame.time_base is None or isinstance(self.timeline, FirstTimeline):
            return
        self.first_stamp_seconds = float(stamp * frame.time_base)
        passed = [pts for pts in self.packets.early_pts if pts < stamp]
        if passed and not self.timeline.has_decode_times and not self.timeline.is_raw:
            self.passed_seconds = self.first_stamp_seconds - float(min(passed) * frame.time_base)
            self.timeline.complaints.append(
                f"passed over: {counted(len(passed), 'frame')} at the start, {self.passed_seconds:.2f} s, as what "
                "these are made from is missing"
            )

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Returns (width, height) in px of the decoded frame `frame` as a player shows it."""
        return self._orientation(frame).size(frame.width, frame.height)

    def _orientation(self, frame: VideoFrame) -> Orientation:
        if self._oriented is None or self._oriented[0] is not frame:  # PyAV needs 50 us to look it up
            self._oriented = frame, self.rules.orientation(frame)
        return self._oriented[1]

    def rgb(self, frame: VideoFrame) -> np.ndarray:
        """Returns the decoded frame `frame` as RGB pixels, uint8 [height, width, 3], turned and mirrored as its
        metadata says.
        """
        return self._converter.rgb(frame, self._orientation(frame))

    def scaled(self, frame: VideoFrame, size: Size) -> np.ndarray:
        """Returns the RGB pixels of `rgb`, scaled by libswscale to `size` = (width, height) in px: uint8 [height,
        width, 3].
        """
        return self._converter.scaled(frame, self._orientation(frame), size)


@contextmanager
def open_video(path: str | Seekable, rules: int = LATEST_RULES) -> Iterator[OpenVideo]:
    """Opens the video stream of a file for a `with` block, as an OpenVideo. `path` is a path or an open file. `rules`
    is the version of the rules that say which frame is shown at which time.

    Raises DecodeError if the video cannot be opened. The reason is `missing` if there is no file, and `no_video_stream`
    if the file has no video. The reason is `unreadable` if `path` is no regular file, or if FFmpeg cannot open the
    file.
    """
    with closing(begin_video(path, rules)) as video, video.collect_messages():
        yield video


def begin_video(path: str | Seekable, rules: int = LATEST_RULES) -> OpenVideo:
    """Opens the video stream of a file and returns it as an OpenVideo. The caller has to close it. Arguments and errors
    are those of `open_video`.

    The caller must read the video inside a `with` block of `OpenVideo.collect_messages`.
    """
    if not isinstance(path, str):
        path.seek(0)
    else:
        path = on_disk(path)
        require_file(path)
    if av.logging.get_level() != av.logging.ERROR:
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # the skipping looks back to other videos, so complaints were misplaced
    with av.logging.Capture() as logs:
        try:
            container = open_container(path, logs)
        except PYAV_ERRORS as error:
            raise DecodeError("unreadable", _said(logs) or str(error)) from error
        try:
            return _opened(container, logs, RULES[rules], path if isinstance(path, str) else None)
        except PYAV_ERRORS as error:
            container.close()
            raise DecodeError("unreadable", _said(logs) or f"its header cannot be understood: {error}") from error
        except BaseException:
            container.close()
            raise


def _opened(container: InputContainer, logs: Logs, rules: Rules, path: str | None) -> OpenVideo:
    videos = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise DecodeError("no_video_stream", f"streams found: {kinds}")
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise DecodeError("unreadable", _said(logs) or "this FFmpeg has no decoder for its codec")
    return OpenVideo(container, rules.choose_stream(decodable), logs, rules, path)


def _said(logs: Logs) -> str:
    said = [(name, message.strip()) for _, name, message in logs if name != NOBODY]
    lines = dict.fromkeys(f"{name}: {message}" if name else message for name, message in said)
    return "; ".join([*lines][:MAX_COMPLAINTS])
