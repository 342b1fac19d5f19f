"""When each decoded frame is shown: seconds since the first one, by the stamps of its container. Torch-free.

A container gives presentation times, or decode times only (avi, asf, Matroska's VfW tracks), or none (raw streams).
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinegraph.cache_schemas.clips_table import Interval

NO_TIMESTAMPS = 0x0080  # FFmpeg's AVFMT_NOTIMESTAMPS: a raw stream
DECODE_TIMES = frozenset({"avi", "asf", "asf_o"})
JOINED = frozenset({"mpegts", "mpeg", "flv"})  # containers whose recordings are put together byte by byte
MAX_GAP_SECONDS = 10.0  # in those: a longer one is where another recording begins
MAX_DISORDER_SECONDS = 1.0  # stamps further back are those of another recording, too
MAX_REORDERED = 32  # frames that a decoder may hold back
ASSUMED_RATE, MAX_RATE = 25.0, 1000.0
COPIED_TICK_SECONDS = 1e-3  # the clock of mkv, webm and flv, whose stamps stay coarse when they are copied elsewhere
FINER = 8  # by so much another clock is finer before copied stamps are told from its own
MAX_STAMPS, MAX_PACKETS = 1000, 100  # of a table of frames, and of a stream without one, that are looked at
FLOAT_NOISE_SECONDS = 1e-6  # pts and target times are rounded floats: i/fps may fall a bit short of the frame it names


def formats(container: InputContainer) -> frozenset[str]:
    """FFmpeg's names of a container: {"matroska", "webm"}."""
    return frozenset(container.format.name.split(","))


def is_raw(container: InputContainer) -> bool:
    return bool(int(container.format.flags) & NO_TIMESTAMPS)


def has_decode_times(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the stamps are decode times, from which FFmpeg guesses wrong presentation times."""
    names = formats(container)
    is_vfw = "matroska" in names and stream.codec_context.codec_tag.strip("\0 ") != ""
    return bool(names & DECODE_TIMES) or is_vfw


def frame_rate(container: InputContainer, stream: VideoStream) -> float | None:
    """Frames a second; None where nobody says, or what is said cannot be."""
    told = [stream.average_rate, stream.guessed_rate]
    if is_raw(container) or has_decode_times(container, stream) or formats(container) & JOINED:
        told.reverse()  # FFmpeg's average is 25 for every raw stream
    return next((float(rate) for rate in told if rate and 0 < rate <= MAX_RATE), None)


def slack_seconds(tick_seconds: float, frame_period: float) -> float:
    """How long after a target time a frame may be stamped that is still the one meant.

    Containers round stamps to their clock. So one tick, unless ticks are as long as frames.
    """
    return max(tick_seconds, FLOAT_NOISE_SECONDS) if tick_seconds < frame_period / 4 else FLOAT_NOISE_SECONDS


def first_stamps(
    container: InputContainer, stream: VideoStream, packets: Iterator["Packet[Any]"]
) -> tuple[list[int], Iterator["Packet[Any]"]]:
    """Stamps of the first frames, in ticks, where they may be copied ones; and all the packets, as if none was read.

    They come from the table of frames of an mp4 or mov, and from the first packets of ts and mpg. What went wrong while
    these were read is raised where the packets end.
    """
    names = formats(container)
    if not 0 < float(stream.time_base or 0) * FINER <= COPIED_TICK_SECONDS:
        return [], packets
    if "mov" in names:
        return [entry.timestamp for entry in stream.index_entries[:MAX_STAMPS]], packets
    if not names & JOINED:
        return [], packets
    early: list[Packet[Any]] = []
    of_stream = 0
    try:
        while of_stream < MAX_PACKETS and (packet := next(packets, None)) is not None:
            early.append(packet)
            of_stream += packet.stream_index == stream.index
    except (FFmpegError, OSError, ValueError) as error:
        packets = _raising(error)
    stamps = [packet.pts for packet in early if packet.stream_index == stream.index and packet.pts is not None]
    return stamps, chain(early, packets)


def _raising(error: Exception) -> Iterator["Packet[Any]"]:
    """No packet, then the error."""
    yield from ()
    raise error


def are_copied(stamps: Sequence[int], tick_seconds: float) -> bool:
    """Whether stamps, in ticks, were rounded to whole milliseconds by the container that they were copied from.

    All of these are whole to a tick, and lie on no coarser grid: 40 ms at 25 frames a second are no rounding. The first
    stamps do not count, because programs that copy B-frames make up decode times.
    """
    later = stamps[min(MAX_REORDERED, len(stamps) // 2) :]
    passed = [(stamp - later[0]) * tick_seconds / COPIED_TICK_SECONDS for stamp in later]
    tick = tick_seconds / COPIED_TICK_SECONDS + FLOAT_NOISE_SECONDS
    return all(abs(ms - round(ms)) <= tick for ms in passed) and math.gcd(*map(round, passed)) == 1


@dataclass(frozen=True, kw_only=True)
class PresentedFrames:
    """The frames of a video by number, from 0. Frame n is shown at n / rate or, where the rate varies, at `times[n]`.

    `times` are seconds since the first frame. `slack_seconds` is by how much containers round them.
    """

    number: int
    rate: float
    slack_seconds: float = FLOAT_NOISE_SECONDS
    times: "array[float] | None" = None

    def seconds(self, number: int) -> float:
        """When a frame is shown. Frames past the last one with a time follow at the rate."""
        if self.times is None:
            return number / self.rate
        past = number - len(self.times) + 1
        return self.times[number] if past <= 0 else self.times[-1] + past / self.rate

    def within(self, interval: Interval | None) -> range:
        """The frames of an interval [start, end): from the one on the screen at its start to the last before its end.

        Empty where the video has ended before it.
        """
        if interval is None:
            return range(self.number)
        start, end = interval
        if start >= self.seconds(self.number):
            return range(self.number, self.number)
        first = bisect_right(range(self.number), start + self.slack_seconds, key=self.seconds) - 1
        last = bisect_left(range(self.number), end - self.slack_seconds, key=self.seconds)
        return range(first, max(first + 1, last))


class ShownTimes(Protocol):
    """When the frames of one stream are shown. `frame_period` and `slack_seconds` are in seconds."""

    complaints: list[str]
    frame_period: float
    slack_seconds: float
    is_raw: bool  # no container: frames are counted
    has_decode_times: bool  # in place of presentation times

    def seconds(self, frame: VideoFrame) -> float | None:
        """Seconds since the first frame; None where the frame is not to be shown."""
        ...


class Timeline:
    """Places the decoded frames of one stream in time, in the order in which the decoder gives them.

    Every frame has a time, and no time is before the last one. Where another recording begins it follows by one period.
    `complaints` says where stamps could not be followed.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, first_stamps: Sequence[int] = ()) -> None:
        rate, tick = frame_rate(container, stream), float(stream.time_base or 0)
        self.complaints: list[str] = []
        self.frame_period = 1 / (rate or ASSUMED_RATE)
        clock = COPIED_TICK_SECONDS if are_copied(first_stamps, tick) else tick
        self.slack_seconds = slack_seconds(clock, self.frame_period)
        self.is_raw = is_raw(container)
        self.has_decode_times = has_decode_times(container, stream)
        self._has_rate, self._may_be_joined = rate is not None, bool(formats(container) & JOINED)
        self._number, self._latest = -1, 0.0
        self.zero_seconds: float | None = None  # the stamp that is time 0
        self.is_straight = True  # all times so far are stamps less this one
        self._last_stamp = self._last_dts = float("-inf")
        self._fell = -MAX_REORDERED - 1  # the number of the frame at which decode times last went back

    def seconds(self, frame: VideoFrame) -> float | None:
        """Seconds since the first frame."""
        self._number += 1
        if self._number == 0 and frame.pts is None and frame.dts is not None:
            self.has_decode_times = True
        stamp = self._stamp(frame)
        self._note_decode_time(frame)
        if stamp is None:
            self._latest, self.is_straight = self._next(), False
        elif self.zero_seconds is None:
            self._latest = self._next()
            self.zero_seconds, self._last_stamp = stamp - self._latest, stamp
        else:
            self._latest = max(self._latest, self._continued(stamp, stamp - self.zero_seconds))
        return self._latest

    def _stamp(self, frame: VideoFrame) -> float | None:
        stamp = frame.dts if self.has_decode_times else frame.pts
        if self.is_raw or stamp is None or frame.time_base is None:
            if not self._has_rate:
                self._has_rate = True
                self.complaints.append(f"the stream tells no frame rate: {ASSUMED_RATE:.0f} a second are assumed")
            return None
        return float(stamp * frame.time_base)

    def _next(self) -> float:
        """The time of a frame that follows the last one by one period."""
        return self._latest + self.frame_period if self._number else 0.0

    def _note_decode_time(self, frame: VideoFrame) -> None:
        if frame.dts is not None:
            if frame.dts < self._last_dts:
                self._fell = self._number
            self._last_dts = frame.dts

    def _continued(self, stamp: float, now: float) -> float:
        """The time of a frame with this stamp, which would be `now` if stamps went on; counted on where they do not."""
        step = stamp - self._last_stamp
        went_back = self._number - self._fell <= MAX_REORDERED or -step > MAX_DISORDER_SECONDS
        if step < 0 and not went_back:
            self.complaints.append(
                f"time stamps are out of order at frame {self._number}: {stamp:.2f} s after {self._last_stamp:.2f} s"
            )
            return self._next()
        if step < 0 or (step > MAX_GAP_SECONDS and self._may_be_joined):
            self.zero_seconds, self.is_straight = stamp - self._next(), False
            now = self._next()
        self._last_stamp = stamp
        return now
