"""Computes when each decoded frame is shown, from the time stamps in the file. Torch-free.

Times are seconds since the first frame. Time stamps count ticks of the container's clock. A container states
presentation times (the times at which frames are shown), or only decode times, as avi does. A raw stream states no
times.
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

NO_TIMESTAMPS = 0x0080  # FFmpeg's AVFMT_NOTIMESTAMPS, set for a raw stream
DECODE_TIMES = frozenset({"avi", "asf", "asf_o"})
JOINED = frozenset({"mpegts", "mpeg", "flv"})  # containers whose files can be joined byte by byte
MAX_GAP_SECONDS = 10.0  # in JOINED containers, a longer gap is the start of another recording
MAX_DISORDER_SECONDS = 1.0  # stamps that go back further belong to another recording too
MAX_REORDERED = 32  # frames that a decoder may hold back
ASSUMED_RATE, MAX_RATE = 25.0, 1000.0
COPIED_TICK_SECONDS = 1e-3  # the clock of mkv, webm and flv; their stamps stay coarse when copied to other containers
FINER = 8  # a clock must be this many times finer before copied stamps can be recognised
MAX_STAMPS, MAX_PACKETS = 1000, 100  # stamps read from a table of frames, and packets read where there is no table
FLOAT_NOISE_SECONDS = 1e-6  # pts and target times are rounded floats, so i/fps may lie slightly before its frame


def formats(container: InputContainer) -> frozenset[str]:
    """Returns FFmpeg's names of the format of a container, for example {"matroska", "webm"}."""
    return frozenset(container.format.name.split(","))


def is_raw(container: InputContainer) -> bool:
    """Returns whether the open file `container` is a raw stream, which has no container format and states no times."""
    return bool(int(container.format.flags) & NO_TIMESTAMPS)


def has_decode_times(container: InputContainer, stream: VideoStream) -> bool:
    """Returns whether the file states the times at which frames are decoded, but not the times at which they are shown.

    FFmpeg's presentation times of such a file are guesses, and may be wrong.
    """
    names = formats(container)
    is_vfw = "matroska" in names and stream.codec_context.codec_tag.strip("\0 ") != ""
    return bool(names & DECODE_TIMES) or is_vfw


def frame_rate(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns the frames per second of `stream`. Returns None if the file states no rate, a rate of 0 or less, or a
    rate above MAX_RATE.
    """
    rates = [stream.average_rate, stream.guessed_rate]
    if is_raw(container) or has_decode_times(container, stream) or formats(container) & JOINED:
        rates.reverse()  # FFmpeg states an average of 25 for every raw stream
    return next((float(rate) for rate in rates if rate and 0 < rate <= MAX_RATE), None)


def slack_seconds(tick_seconds: float, frame_period: float) -> float:
    """Returns the tolerance in seconds with which times are compared. A frame that begins at most this tolerance after
    a time still counts as shown at the time.

    `tick_seconds` is one tick of the container's clock, and `frame_period` is the time from frame to frame. The result
    is `tick_seconds`, or only the rounding error of floats if a tick is longer than a quarter of `frame_period`.
    """
    return max(tick_seconds, FLOAT_NOISE_SECONDS) if tick_seconds < frame_period / 4 else FLOAT_NOISE_SECONDS


def first_stamps(
    container: InputContainer, stream: VideoStream, packets: Iterator["Packet[Any]"]
) -> tuple[list[int], Iterator["Packet[Any]"]]:
    """Returns (time stamps of the first frames, iterator over all packets of the file). The stamps are in ticks of the
    container's clock. The container decides their number:

    - mp4 and mov: the first MAX_STAMPS stamps in the index of the file.
    - ts, mpg and flv: the stamps of the first MAX_PACKETS video packets, which are read from `packets`.
    - others, and clocks with a tick longer than 1/8 ms: no stamps.

    If reading fails, the iterator raises the error after the last packet that was read.
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
    """Returns an iterator without packets. It raises `error` when the first packet is requested."""
    yield from ()
    raise error


def are_copied(stamps: Sequence[int], tick_seconds: float) -> bool:
    """Returns whether the time stamps of a file were probably rounded to whole milliseconds, by a copy from another
    container. For example, 0, 33, 67 ms look rounded. But 0, 40, 80 ms are exact stamps of 25 frames per second.

    `stamps` are the time stamps of the first frames, in ticks of `tick_seconds`. Stamps at the very start are ignored.
    The result is True if all later stamps are whole milliseconds apart, to within one tick, and if these milliseconds
    have no common divisor above 1.
    """
    later = stamps[min(MAX_REORDERED, len(stamps) // 2) :]
    passed = [(stamp - later[0]) * tick_seconds / COPIED_TICK_SECONDS for stamp in later]
    tick = tick_seconds / COPIED_TICK_SECONDS + FLOAT_NOISE_SECONDS
    return all(abs(ms - round(ms)) <= tick for ms in passed) and math.gcd(*map(round, passed)) == 1


@dataclass(frozen=True, kw_only=True)
class PresentedFrames:
    """The number and the times of the frames of a video, as a player shows them. Frames count from 0."""

    number: int  # how many frames there are
    rate: float  # frames per second. If `times` is None, frame n is shown at n / `rate` seconds.
    # The tolerance in seconds with which times are compared, because containers round times
    slack_seconds: float = FLOAT_NOISE_SECONDS
    # The time of each frame in seconds since the first frame, if the frame rate varies. Otherwise None.
    times: "array[float] | None" = None

    def seconds(self, number: int) -> float:
        """Returns the time in seconds at which frame `number` is shown. After the last known time, frames follow each
        other by 1 / `rate` seconds.
        """
        if self.times is None:
            return number / self.rate
        past = number - len(self.times) + 1
        return self.times[number] if past <= 0 else self.times[-1] + past / self.rate

    def within(self, interval: Interval | None) -> range:
        """Returns the numbers of the frames in an interval [start, end) of seconds. Returns all numbers if `interval`
        is None.

        The first number is that of the frame that is shown at `start`. The last number is that of the last frame that
        begins before `end`. The range is empty if the video ends before the interval.
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
    """Computes the times at which the frames of one video stream are shown."""

    complaints: list[str]  # sentences about faults of the stream
    frame_period: float  # the time from one frame to the next, in seconds
    slack_seconds: float  # the tolerance in seconds with which times are compared
    # True if the stream has no container, and so states no times. Then frame n is shown at n * `frame_period`.
    is_raw: bool
    # True if the time stamps in the file are decode times, not presentation times
    has_decode_times: bool

    def seconds(self, frame: VideoFrame) -> float | None:
        """Returns the time at which `frame` is shown, in seconds since the first frame. Returns None if the frame is
        not shown.
        """
        ...


class Timeline:
    """Computes the times at which the frames of one video stream are shown. The caller passes the frames in the order
    in which the decoder returns them. No time is earlier than the time before it.

    A file may hold several recordings, joined end to end. A later recording begins one frame period after the last
    frame of the recording before. `first_stamps` are the time stamps at the start of `stream`, in its ticks.
    `complaints` has sentences for messages, for example that times are out of order.
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
        self.is_straight = True  # all times so far are stamps minus zero_seconds
        self._last_stamp = self._last_dts = float("-inf")
        self._fell = -MAX_REORDERED - 1  # the number of the frame at which decode times last went back

    def seconds(self, frame: VideoFrame) -> float | None:
        """Returns the time at which `frame` is shown, in seconds since the first frame. Call this method once for each
        frame, in order.

        The result is never None. The type allows None because `FirstTimeline.seconds` may return it.
        """
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
        """Returns the time in seconds of the next frame: one frame period after the latest frame, or 0 if there is no
        frame yet.
        """
        return self._latest + self.frame_period if self._number else 0.0

    def _note_decode_time(self, frame: VideoFrame) -> None:
        if frame.dts is not None:
            if frame.dts < self._last_dts:
                self._fell = self._number
            self._last_dts = frame.dts

    def _continued(self, stamp: float, now: float) -> float:
        """Returns the time in seconds at which a frame is shown, counted from the first frame. `stamp` is the frame's
        time stamp in seconds. `now` is the same time, but counted from the first frame.

        If the stamp continues in order, the result is `now`. If the stamp goes back, the result is the time of the
        frame before plus one frame period. The same holds if the stamp leaps by more than MAX_GAP_SECONDS in a format
        whose files are often joined from pieces, such as MPEG-TS.
        """
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
