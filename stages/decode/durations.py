"""How long a video lasts: as its container promises where that can be trusted, else as its packets say. Torch-free."""

from typing import TYPE_CHECKING, Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.timeline import JOINED, MAX_GAP_SECONDS, formats

if TYPE_CHECKING:
    from kinegraph.stages.decode.stream import OpenVideo

TRUNCATED_SECONDS = 0.5  # a shorter gap before the promised end is how encoders round
TOGETHER = frozenset({"matroska", "flv", "asf", "asf_o"})  # containers that tell one end for all streams, on one clock


class PacketCount:
    """What the packets say that were read so far, decoded or not.

    `latest_end_seconds` is of all streams, on the container's clock.
    """

    def __init__(self, video: "OpenVideo") -> None:
        self._stream, self._may_be_joined = video.stream, bool(formats(video.container) & JOINED)
        self._base = float(video.stream.time_base or 0)
        self._spans: list[tuple[int, int]] = []  # first and last pts of each recording
        self._last_dts: int | None = None
        self._decoded_seconds = 0.0
        self._first_seconds: float | None = None
        self._is_stamped = True
        self.jumps: list[str] = []
        self.number = 0
        self._streams = video.container.streams
        self._ends: dict[int, int] = {}  # by stream, in its ticks
        self.early_pts: list[int] = []  # of packets before the first frame

    @property
    def latest_end_seconds(self) -> float:
        ends = [float(end * (self._streams[number].time_base or 0)) for number, end in self._ends.items()]
        return max(ends, default=0.0)

    @property
    def note(self) -> str:
        """What is to be known of a file in which recordings were joined."""
        if not self.jumps:
            return ""
        return f"time stamps jump {counted(len(self.jumps), 'time')}, first {self.jumps[0]}: its frames are counted on"

    def add(self, packet: "Packet[Any]", period: float, before_first_frame: bool) -> None:
        if packet.size == 0:
            return
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            number, end = packet.stream_index, stamp + (packet.duration or 0)
            self._ends[number] = max(end, self._ends.get(number, end))
        if packet.stream_index == self._stream.index and not packet.is_discard:
            self.number += 1
            self._add_to_span(packet, period)
            if before_first_frame and packet.pts is not None:
                self.early_pts.append(packet.pts)

    def _add_to_span(self, packet: "Packet[Any]", period: float) -> None:
        """Presentation times lie in one span a recording; the next begins where decode times fall, or all leap."""
        pts, self._is_stamped = packet.pts, self._is_stamped and packet.pts is not None
        fell = self._follow_decode_times(packet.dts, period)
        if pts is None:
            return
        first, last = self._spans[-1] if self._spans else (pts, pts)
        if fell or (self._may_be_joined and (pts - last) * self._base > MAX_GAP_SECONDS):
            self.jumps.append(f"from {last * self._base:.2f} s to {pts * self._base:.2f} s")
            self._spans.append((pts, pts))
        else:
            self._spans[-1:] = [(min(first, pts), max(last, pts))]

    def _follow_decode_times(self, dts: int | None, period: float) -> bool:
        """Whether they go back with this packet. One without a decode time follows the last by one period."""
        before = self._decoded_seconds
        now = before + period if dts is None else dts * self._base
        step = 0.0 if dts is None or self._last_dts is None else (dts - self._last_dts) * self._base
        if self._first_seconds is None:
            self._first_seconds = now
        if step < 0 or (self._may_be_joined and step > MAX_GAP_SECONDS):
            self._first_seconds += now - before - period
        self._decoded_seconds, self._last_dts = now, self._last_dts if dts is None else dts
        return step < 0

    def pts_span_seconds(self) -> float:
        """From the least presentation time to the greatest."""
        pts = [tick for span in self._spans for tick in span]
        return (max(pts) - min(pts)) * self._base if pts else 0.0

    def shown_seconds(self, video: "OpenVideo", first_pts: int | None) -> float:
        """From the first frame, of stamp `first_pts`, to the end of the last packet."""
        timeline, period = video.timeline, video.frame_period
        if timeline.is_raw:
            return self.number * period
        if timeline.has_decode_times or not self._is_stamped or not self._spans or first_pts is None:
            return self._decoded_seconds - (self._first_seconds or 0.0) + period
        spans = [(max(first, first_pts) if n == 0 else first, last) for n, (first, last) in enumerate(self._spans)]
        return sum((last - first) * self._base + period for first, last in spans)


def duration(video: "OpenVideo", first: VideoFrame) -> float:
    """Seconds from the first frame, which was just decoded, to the end of the last one; reads on where it must.

    Of a file that broke off it is what its container promises, so that clips of what is missing are `truncated`.
    """
    if (told := _told(video)) is not None:
        return told - video.passed_seconds
    video.read_to_end()
    shown = video.packets.shown_seconds(video, first.pts)
    return promised(video) or shown


def promised(video: "OpenVideo") -> float | None:
    """Seconds that the container promises from the first frame on. None where it tells nothing of the pictures alone.

    Where it tells one end for all streams, that counts once the file was read to its end and none of them got there.
    """
    if (told := _told(video)) is not None:
        return told - video.passed_seconds
    if not video.is_at_end or video.packets.jumps or not formats(video.container) & TOGETHER:
        return None
    end = (video.container.duration or 0) / av.time_base
    if end - video.packets.latest_end_seconds <= TRUNCATED_SECONDS:
        return None
    return end - video.first_stamp_seconds if end > video.first_stamp_seconds else end


def _told(video: "OpenVideo") -> float | None:
    """Seconds that the header tells for the pictures alone.

    FFmpeg guesses the duration of a cut avi from its size; the header still has the number of frames. Of streams that
    may have been joined it only knows the last stamp.
    """
    stream, names = video.stream, formats(video.container)
    if video.timeline.is_raw or names & JOINED:
        return None
    if names & TOGETHER:
        begins_at_0 = not stream.start_time and len(video.container.streams) == 1
        is_told = "matroska" in names and begins_at_0 and video.container.duration
        return float(video.container.duration or 0) / av.time_base if is_told else None
    if stream.duration is not None and stream.time_base is not None:
        told = float(stream.duration * stream.time_base)
        counted = float(stream.frames * stream.time_base) if "avi" in names else 0.0  # a tick is a frame
        return (counted if counted - told > TRUNCATED_SECONDS else told) or None
    if video.container.duration is not None and len(video.container.streams) == 1:
        return video.container.duration / av.time_base
    return None
