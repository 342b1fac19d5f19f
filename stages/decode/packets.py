"""Measures the duration of a video from its packets, without decoding them. Torch-free."""

from typing import Any

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.decode.timeline import JOINED, MAX_GAP_SECONDS, ShownTimes, formats


class PacketCount:
    """Counts the packets of the video stream `stream` while its file is read, and computes the duration from their
    times.

    `number` is the number of packets. `jumps` says in words where time stamps jump. `latest_end_seconds` is the latest
    end of a packet that was read so far, in any stream of the file, in seconds of the container's clock.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._stream, self._may_be_joined = stream, bool(formats(container) & JOINED)
        self._base = float(stream.time_base or 0)
        self._spans: list[tuple[int, int]] = []  # first and last pts of each recording, in ticks
        self._last_dts: int | None = None
        self._decoded_seconds = 0.0
        self._first_seconds: float | None = None
        self._is_stamped = True
        self.jumps: list[str] = []
        self.number = 0
        self._streams = container.streams
        self._ends: dict[int, int] = {}  # stream -> end of its last packet, in the stream's ticks
        self.early_pts: list[int] = []  # pts of packets before the first frame, in ticks

    @property
    def latest_end_seconds(self) -> float:
        ends = [float(end * (self._streams[stream_index].time_base or 0)) for stream_index, end in self._ends.items()]
        return max(ends, default=0.0)

    @property
    def note(self) -> str:
        """Returns a sentence for messages if the time stamps of the video jump, for example because several recordings
        were joined to one file. Returns "" if they do not jump.
        """
        if not self.jumps:
            return ""
        return f"time stamps jump {counted(len(self.jumps), 'time')}, first {self.jumps[0]}: its frames are counted on"

    def add(self, packet: "Packet[Any]", period: float, before_first_frame: bool) -> None:
        if packet.size == 0:
            return
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None:
            stream_index, end = packet.stream_index, stamp + (packet.duration or 0)
            self._ends[stream_index] = max(end, self._ends.get(stream_index, end))
        if packet.stream_index == self._stream.index and not packet.is_discard:
            self.number += 1
            self._add_to_span(packet, period)
            if before_first_frame and packet.pts is not None:
                self.early_pts.append(packet.pts)

    def _add_to_span(self, packet: "Packet[Any]", period: float) -> None:
        """Adds the presentation time of a packet to the time span of the current recording. A file may hold several
        recordings, one after the other. `period` is the time between two frames in seconds.

        A new recording begins where decode times go back. In formats whose files can be joined, a new recording also
        begins where presentation times leap by more than MAX_GAP_SECONDS.
        """
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
        """Notes the decode time `dts` of a packet, in ticks. Returns True if `dts` is earlier than the decode time of
        the packet before, else False.

        `period` is the frame period in seconds. A packet without a decode time (None) counts as one period later than
        the packet before it.
        """
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
        """Returns the seconds between the smallest and the largest presentation time of the packets that were read so
        far.
        """
        pts = [tick for span in self._spans for tick in span]
        return (max(pts) - min(pts)) * self._base if pts else 0.0

    def shown_seconds(self, timeline: ShownTimes, first_pts: int | None) -> float:
        """Returns the seconds from the first frame of the video to the end of the last packet that was read. For a file
        that was joined from several recordings, the result is the sum of their durations.

        `timeline` computes the times of frames. `first_pts` is the time stamp of the first frame, in ticks of the
        stream, or None if it is unknown.
        """
        period = timeline.frame_period
        if timeline.is_raw:
            return self.number * period
        if timeline.has_decode_times or not self._is_stamped or not self._spans or first_pts is None:
            return self._decoded_seconds - (self._first_seconds or 0.0) + period
        spans = [(max(first, first_pts) if n == 0 else first, last) for n, (first, last) in enumerate(self._spans)]
        return sum((last - first) * self._base + period for first, last in spans)
