"""Seeks to a later key frame of a video. The frames and times after a seek must equal those of a reading from the start
of the file. Torch-free.

Before and after a seek, four facts are checked:

- The file has an index with presentation times that never go back (`key_stamps`).
- The codec starts anew at the key frame, so later frames need no earlier frame (`starts_anew`). Frames that are stored
  after the key frame but shown before it are dropped.
- The time of a frame is its stamp minus the stamp of the first frame, and stamps continue in order (`Seeker.accepts`).
- The decoder has no complaint, except about the skipped frames.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import av.logging
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinegraph.stages.decode.opening import open_container
from kinegraph.stages.decode.reading import VideoBeingRead
from kinegraph.stages.decode.timeline import Timeline, formats

MIN_SKIP_SECONDS = 5.0  # seconds of video; decoding less takes about as long as a seek
INDEXED = frozenset({"mov", "matroska"})
CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1"})  # tests compare these with passes from the start
MORE_TRIES = 2
LETS_GO = "mmco: unref short failure"  # FFmpeg's words for a frame that releases skipped references
H264_IDR, H264_SEI, RECOVERY_POINT = 5, 6, 6
HEVC_RANDOM_ACCESS = range(16, 22)  # BLA, IDR, CRA


class SeekLost(Exception):
    """Raised if a seek did not lead to the place that the index of the file states, or if it is uncertain which frames
    follow the seek. The caller then reads the video from the start.
    """


class Seeker:
    """Seeks to key frames of the video `video`, and checks the frames after a seek.

    The frames after a seek must equal the frames of a reading from the start of the video. Methods raise SeekLost if
    they cannot prove this.
    """

    def __init__(self, video: VideoBeingRead) -> None:
        self._container, self._timeline, self._stream = video.container, video.timeline, video.stream
        self._codec = codec_name(video.stream)
        self._base = float(video.stream.time_base or 0)
        self._keys = key_stamps(video)
        self._key_pts: int | None = None
        self._last_pts: int | None = None

    @property
    def has_sought(self) -> bool:
        return self._key_pts is not None

    def seek(self, after_seconds: float, seconds: float, packets: Iterator["Packet[Any]"]) -> "Packet[Any] | None":
        """Seeks to the last key frame at or before the time `seconds`. Returns the packet of this key frame.

        `after_seconds` is the time of the frame that was read last. `packets` iterates over the packets of the file.
        Returns None, without a seek, if at most MIN_SKIP_SECONDS would be skipped or if the times of the file are not
        reliable. Raises SeekLost if the key frame is not where the index says.
        """
        timeline = self._timeline
        if not isinstance(timeline, Timeline) or not timeline.is_straight or (zero := timeline.zero_seconds) is None:
            return None
        target = math.floor((seconds + zero) / self._base)
        place = bisect_right(self._keys, target)
        earliest = bisect_right(self._keys, (after_seconds + MIN_SKIP_SECONDS + zero) / self._base)
        if earliest >= place:
            return None
        # mp4's index has decode times, so the key frame that FFmpeg finds first may be shown too late
        for stamp in (target, *reversed(self._keys[max(earliest, place - MORE_TRIES) : place])):
            self._container.seek(stamp, stream=self._stream)
            packet = next((packet for packet in packets if packet.stream_index == self._stream.index), None)
            if packet is None or packet.pts is None or not self._may_begin(packet):
                continue
            if after_seconds < packet.pts * self._base - zero <= seconds:
                self._key_pts, self._last_pts = packet.pts, None
                return packet
        raise SeekLost

    def _may_begin(self, packet: "Packet[Any]") -> bool:
        if not packet.is_keyframe or packet.is_discard or packet.is_corrupt:
            return False
        return starts_anew(self._codec, bytes(self._stream.codec_context.extradata or b""), bytes(packet))

    def is_harmless(self, packet: "Packet[Any]", message: str) -> bool:
        """Returns whether FFmpeg's complaint `message` about `packet` only comes from a seek, and shows no fault of the
        video.

        After a seek, FFmpeg has not seen the frames before the key frame. So two kinds of complaints are harmless:
        complaints about frames that are shown before the key frame, and the complaint that a reference frame is
        missing.
        """
        if self._key_pts is None:
            return False
        is_leading = packet.pts is not None and packet.pts < self._key_pts
        return is_leading or message.startswith(LETS_GO)

    def accepts(self, frame: VideoFrame) -> bool:
        """Returns whether the frame `frame` is to be used. `frame` is the next frame that the decoder returned.

        After a seek, a frame is dropped if it is stored after the key frame but shown before it. Without a seek, every
        frame is used. Raises SeekLost if the frames may differ from the frames of a reading without a seek, for example
        because time stamps go back.
        """
        if self._key_pts is None:
            return True
        if frame.pts is None or frame.is_corrupt:
            raise SeekLost
        if frame.pts < self._key_pts and self._last_pts is None:
            return False
        if self._last_pts is None and (frame.pts != self._key_pts or not self._is_key(frame)):
            raise SeekLost
        if self._last_pts is not None and frame.pts < self._last_pts:
            raise SeekLost
        self._last_pts = frame.pts
        return True

    def _is_key(self, frame: VideoFrame) -> bool:
        return frame.key_frame or self._codec in ("h264", "hevc")


def key_stamps(video: VideoBeingRead) -> list[int]:
    """Returns the time stamps of the key frames in the index of the file of `video`, in ticks of the stream, in
    increasing order. Returns an empty list for files in which the frames after a seek may be wrong.
    """
    names, timeline = formats(video.container), video.timeline
    if video.path is None or not isinstance(timeline, Timeline) or not names & INDEXED:
        return []
    if timeline.has_decode_times or codec_name(video.stream) not in CODECS:
        return []
    if "matroska" not in names:
        return _in_order(video.stream)
    # opened again, because FFmpeg reads the index of a matroska file only at the first seek
    with av.logging.Capture() as logs, open_container(video.path, logs) as container:
        stream: VideoStream = container.streams[video.stream.index]  # type: ignore[assignment]
        read = len(stream.index_entries)
        container.seek(0, stream=stream)
        return _in_order(stream) if not read or len(stream.index_entries) > read + 1 else []


def codec_name(stream: VideoStream) -> str:
    """Returns FFmpeg's name of the codec of `stream`. The name is "av1" also if the decoder is libdav1d."""
    return stream.codec_context.codec.canonical_name


def _in_order(stream: VideoStream) -> list[int]:
    """Returns the time stamps of the key frames of `stream` to which a seek is safe, in ticks, in increasing order.

    A key frame is safe if no frame from it to the next key frame is hidden. An mp4 may hide frames, usually at its
    start and end. Returns an empty list if the time stamps of the index are not in order, or if frames in the middle of
    the video are hidden.
    """
    entries = [(entry.timestamp, entry.is_keyframe, entry.is_discard) for entry in stream.index_entries]
    groups: list[tuple[int, bool]] = []  # the key frame's stamp, and whether the whole group is shown
    for stamp, is_key, is_left_out in entries:
        if is_key:
            groups.append((stamp, True))
        if is_left_out and groups:
            groups[-1] = groups[-1][0], False
    places = [place for place, (_, is_whole) in enumerate(groups) if is_whole]
    is_ordered = all(before[0] <= after[0] for before, after in itertools.pairwise(entries))
    if not is_ordered or not places or places[-1] - places[0] >= len(places):
        return []
    return [groups[place][0] for place in places]


def starts_anew(codec: str, extradata: bytes, content: bytes) -> bool:
    """Returns whether decoding can start at a key frame, so that all frames shown after it are right.

    - `codec`: FFmpeg's name of the codec, such as "h264".
    - `extradata`: the header of the codec in the file.
    - `content`: the packet of the key frame.

    An H.264 packet must have an IDR picture, or a message that all pictures from here on are right. A HEVC packet must
    have a random access picture. Other codecs always can.
    """
    if codec not in ("h264", "hevc"):
        return True
    if len(extradata) < (7 if codec == "h264" else 23) or extradata[0] != 1:  # the bytes are neither avcC nor hvcC
        return False
    width = (extradata[4 if codec == "h264" else 21] & 3) + 1
    if codec == "hevc":
        kinds = [unit[0] >> 1 & 63 for unit in _units(content, width)]
        return any(kind in HEVC_RANDOM_ACCESS for kind in kinds)
    return any(unit[0] & 31 == H264_IDR or _recovers_at_once(unit) for unit in _units(content, width))


def _units(content: bytes, width: int) -> Iterator[bytes]:
    """Yields the NAL units, the parts of a packet of H.264 or HEVC. In the packet `content`, the length of a unit in
    bytes stands before the unit, as a big-endian number of `width` bytes.
    """
    at = 0
    while at + width < len(content):
        size = int.from_bytes(content[at : at + width], "big")
        if size:
            yield content[at + width : at + width + size]
        at += width + size


def _recovers_at_once(unit: bytes) -> bool:
    """Returns whether the NAL unit `unit` of an H.264 stream has a recovery point message that takes effect at once.

    The message says when pictures are right after decoding began in the middle of the stream. Its first bit is 1 if
    pictures are right without waiting for further frames. Its second bit is 1 if these pictures equal those of a pass
    from the start. Both bits must be 1.
    """
    at = 1
    while unit[0] & 31 == H264_SEI and at + 2 < len(unit):
        header = []
        for _ in ("kind", "size"):
            value = 0
            while at < len(unit) and unit[at] == 0xFF:
                value, at = value + 0xFF, at + 1
            if at >= len(unit):
                return False
            header.append(value + unit[at])
            at += 1
        kind, size = header
        if kind == RECOVERY_POINT and at < len(unit):
            return unit[at] & 0xC0 == 0xC0
        at += size
    return False
