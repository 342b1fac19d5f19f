"""Decodes the frames that networks take from a video. One pass over the file serves all clips and all stages.

Terms: A row is one clip under one crop. A slot is the place of one frame in a row. A pass reads a video once, from
front to back. The rules decide which frame is shown at which time. `wanted.LATEST_RULES` is their version.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.clock import CONVERT, DECODE, Clock
from kinegraph.stages.decode.converting import Converter
from kinegraph.stages.decode.durations import TRUNCATED_SECONDS
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.frame_pixels import pixels_of
from kinegraph.stages.decode.numbered_images import OpenImages, open_images
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.overlap import OverlappingFrames
from kinegraph.stages.decode.seeking import SeekLost
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.stream import OpenVideo, TimedFrame, open_video
from kinegraph.stages.decode.torchcodec_video import LeftToPyAVError, TorchcodecVideo
from kinegraph.stages.decode.wanted import LATEST_RULES, Size, Square, Wanted


@dataclass(kw_only=True)
class DecodedClip:
    """The decoded frames of one row of the cache. A row is one clip under one crop. T is the number of frames of the
    clip.

    A network takes each `every`-th frame of the clip. A frame has -1 in `frame_numbers` and in `coded_numbers` if a
    part of the video before the frame was skipped. All rows of one clip share the array `whole`.
    """

    # Float64 [T], the time of each frame in seconds from the first frame of the video
    frame_times: np.ndarray
    # Int64 [T], the number of each frame among the frames that a player shows, from 0
    frame_numbers: np.ndarray
    # Int64 [T], the number of each frame among all frames that the decoder returned, from 0. Some are never shown.
    coded_numbers: np.ndarray
    video_frames: int = 0  # the number of shown frames of the whole video if `Wanted.numbered` is true, else 0
    # {Square: pixels}, the cropped frames for each backbone, uint8 RGB [T / every, size, size, 3]
    squares: dict[Square, np.ndarray] = field(default_factory=dict)
    # The uncropped frames for a proposal network, uint8 RGB [T / every, height, width, 3], or None
    whole: np.ndarray | None = None
    warning: str = ""  # the faults of the video that the decoder found, in words, or ""

    @classmethod
    def blank(cls, num_frames: int) -> "DecodedClip":
        """Returns a DecodedClip for `num_frames` frames that are not decoded yet. All times are NaN, all frame numbers
        are 0, and there are no pixels.
        """
        frame_numbers, coded_numbers = np.zeros((2, num_frames), np.int64)
        times = np.full(num_frames, np.nan)
        return cls(frame_times=times, frame_numbers=frame_numbers, coded_numbers=coded_numbers)


@dataclass(frozen=True)
class _Slot:
    """One frame that a row wants. `row` is the index of the row in `_Pass.rows`. `index` is the position of the frame
    in the clip of the row, from 0.

    `at` is the time of the wanted frame in seconds. If the rows choose frames by number (`target_frames`), `at` is the
    number of the frame in the video.
    """

    at: float
    row: int
    index: int


ClipResults = list[DecodedClip | DecodeError]


def decode_clips(
    path: str,
    rows: Sequence[ClipRow],
    wanted: Wanted,
    timeout_seconds: float,
    rules: int = LATEST_RULES,
    open_videos: OpenVideos | None = None,
    clock: Clock | None = None,
) -> ClipResults:
    """Decodes the clips `rows` of one video. Returns a list with one entry for each row: the DecodedClip, or the
    DecodeError that says why the row has no clip.

    - `path`: the video file, or a folder of numbered images.
    - `rows`: rows of the clip table. A row names its frames by number (`target_frames`) or by time.
    - `wanted`: the number of frames of a clip, and the pixels that are needed.
    - `timeout_seconds`: the time limit of one pass over the file. Rows that lack frames then get the error `timeout`.
    - `rules`: the version of the rules that say which frame is shown at a time.
    - `open_videos`: a pool of open videos, or None. With a pool, parts of the video without a wanted frame are skipped
      if the result stays the same.
    - `clock`: measures the work of this thread.

    The frame at a time is the last frame that begins at or before the time, or else the first frame of the video. Times
    are compared with the tolerance of the container's clock. If a row is cut from an interval of the video and names
    its frames by time, it gets no frame that begins at or after the end of the interval.
    """
    clock = clock or Clock(DECODE)
    try:
        rate = rows[0].frame_rate
        if rate is None:
            wanted.require_kind(path, is_flow=False)
        if rate is None and wanted.torchcodec_device is not None and rules == LATEST_RULES:
            deadline = time.monotonic() + timeout_seconds
            try:
                plain_video = TorchcodecVideo(path, wanted.torchcodec_device, deadline)
                return _Pass(plain_video, rows, wanted, clock).run(deadline)
            except LeftToPyAVError as left:
                left.log_once()
        are_counted = wanted.numbered or rows[0].target_frames is not None
        if rate is None and open_videos is not None and not are_counted and rules == LATEST_RULES:
            skipping = _skipping(path, rows, wanted, timeout_seconds, open_videos, clock)
            if skipping is not None:
                return skipping
        with open_video(path, rules) if rate is None else open_images(path, rate) as video:
            if isinstance(video, OpenImages):
                wanted.require_kind(path, is_flow=video.images.is_flow)
            return _Pass(video, rows, wanted, clock).run(time.monotonic() + timeout_seconds)
    except DecodeError as error:
        return [error.detached() for _ in rows]


def _skipping(
    path: str, rows: Sequence[ClipRow], wanted: Wanted, timeout_seconds: float, open_videos: OpenVideos, clock: Clock
) -> ClipResults | None:
    """Decodes `rows` of the video at `path`, and skips parts of the video without a wanted frame. The arguments are
    those of `decode_clips`. Returns a DecodedClip or a DecodeError for each row.

    Returns None if the result may differ from the result of reading the whole video. For example, a warning of the
    decoder can depend on the parts that were skipped.
    """
    for begin in (partial(open_videos.lend_open, waits=wanted.overlapping), open_videos.lend_new):
        with suppress(SeekLost), begin(path, partial(_first_wanted, rows)) as video:
            if video is None:
                continue
            was_open = video.latest is not None
            clips = _Pass(video, rows, wanted, clock, skips=True).run(time.monotonic() + timeout_seconds)
            if not (was_open or video.has_sought):
                return clips
            if video.is_clean and all(_is_proved(clip, video) for clip in clips):
                return clips
    return None


def _is_proved(clip: DecodedClip | DecodeError, video: OpenVideo) -> bool:
    """Returns whether `clip` certainly equals the result of reading the whole video from its start. `clip` comes from a
    pass over `video` that skipped parts of the video.

    A decoded clip is certain if the decoder has sent no message since. An error is certain only with the reason
    `timeout` or `too_short`.
    """
    if isinstance(clip, DecodeError):
        return clip.reason in ("timeout", "too_short")
    return clip.warning == video.complaints


def _first_wanted(rows: Sequence[ClipRow], slack_seconds: float) -> float:
    return min((seconds for row in rows for seconds in _latest_wanted(row, slack_seconds)), default=0.0)


def _latest_wanted(row: ClipRow, slack_seconds: float) -> list[float]:
    """Returns the times in seconds at which the clip `row` takes its frames. No time lies beyond the interval of the
    clip.

    The frame that begins at the end of the interval is outside the interval. So times near the end or later are
    replaced by the end minus 2 `slack_seconds`. `slack_seconds` is the tolerance with which times are compared.
    """
    latest = float("inf") if row.interval is None else row.interval[1] - 2 * slack_seconds
    return [min(seconds, latest) for seconds in row.target_times]


class _Pass:
    """Reads `video` once, from front to back, and fills the clips of `rows` with the frames that are `wanted`. Holds
    the clips that are filled so far and the errors of the rows that have failed.

    If `skips` is true, parts of the video without a wanted frame are skipped, where a seek is possible and saves time.
    If `skips` is false, every frame up to the last wanted frame is decoded. `clock` counts the time of each kind of
    work.
    """

    def __init__(
        self,
        video: OpenVideo | OpenImages | TorchcodecVideo,
        rows: Sequence[ClipRow],
        wanted: Wanted,
        clock: Clock,
        *,
        skips: bool = False,
    ) -> None:
        self.video, self.rows, self.wanted, self.clock, self.skips = video, rows, wanted, clock, skips
        self.clips = [DecodedClip.blank(wanted.num_frames) for _ in rows]
        self.errors: dict[int, DecodeError] = {}
        self._shown_until: dict[
            int, float
        ] = {}  # row -> end of the time during which the row's last frame was shown, s
        self.by_number = rows[0].target_frames is not None  # frames are then counted from the video's start
        self.video_frames = 0
        self._converter = Converter()
        self._overlap: OverlappingFrames | None = None  # where rows of the next pass overlap with these
        if skips and wanted.overlapping and isinstance(video, OpenVideo) and rows[-1].target_times:
            self._overlap = OverlappingFrames(video, min(rows[-1].target_times))
        self.first_of_clip = {
            row.clip_id.rpartition(":")[0]: row_index for row_index, row in reversed([*enumerate(rows)])
        }

    def run(self, deadline: float) -> list[DecodedClip | DecodeError]:
        if unprobed := [row for row in self.rows if not row.is_probed]:
            path = unprobed[0].path
            raise DecodeError(
                "unreadable", f"{path} could not be read when it was indexed: run `kinegraph index` again"
            )
        slots = sorted(
            (
                _Slot(at, row_index, i)
                for row_index, row in enumerate(self.rows)
                for i, at in enumerate(row.target_frames or _latest_wanted(row, self.video.slack_seconds))
            ),
            key=lambda slot: slot.at,
        )
        if isinstance(self.video, OpenImages):
            self.video.read_ahead(int(slot.at) if self.by_number else self.video.place(slot.at) for slot in slots)
        last_seconds = self._fill(slots, deadline)
        if self._overlap is not None:
            self._overlap.keep_for_next_pass()
        complaint = self.video.complaints
        return [self._judged(row_index, last_seconds, complaint) for row_index in range(len(self.rows))]

    def _fill(self, slots: list[_Slot], deadline: float) -> float | None:
        """Reads the video and takes a frame for each of `slots`. A slot stands for one frame that a row wants. `slots`
        are sorted by `at`, the wanted time or frame number. Slots after the end of the video get the last frame.

        Returns the time of the last frame in seconds if there were slots after the end of the video, else None. If
        time.monotonic() passes `deadline`, the rows that still lack frames are marked as failed.
        """
        filled = 0
        shown_frames = self.video if self._overlap is None else self._overlap
        current, slack = shown_frames.latest, self.video.slack_seconds
        try:
            self._skip(slots[:1])
            for timed_frame in shown_frames.frames(deadline):
                if current is not None:
                    reached = timed_frame.number if self.by_number else timed_frame.seconds - slack
                    due = bisect_left(slots, reached, filled, key=lambda slot: slot.at)
                    self._take(current, slots[filled:due])
                    self._shown_until |= dict.fromkeys((slot.row for slot in slots[filled:due]), timed_frame.seconds)
                    filled = due
                if filled == len(slots) and not self.wanted.numbered:
                    return None
                current = timed_frame
                self._skip(slots[filled : filled + 1])
        except DecodeError as error:  # the time limit was reached
            late = range(len(self.rows)) if self.wanted.numbered else {slot.row for slot in slots[filled:]}
            self.errors |= dict.fromkeys(late, error.detached())
            return None
        if current is None:
            raise DecodeError("truncated", self.video.complaints or "not one frame could be decoded")
        self.video_frames = current.number + 1
        self._take(current, slots[filled:])
        return None if filled == len(slots) else current.seconds

    def _skip(self, following: Iterable[_Slot]) -> None:
        """Seeks towards the next wanted frame, if the video allows a seek and if the seek saves time.

        `following` has the slot of this frame, or is empty if all wanted frames were read. Raises SeekLost if the seek
        led to another place than the index of the file states.
        """
        if self.skips and isinstance(self.video, OpenVideo) and self.video.latest is not None:
            for slot in following:
                if self.video.skip_to(slot.at) and self._overlap is not None:
                    self._overlap.forget()

    def _take(self, timed_frame: TimedFrame, slots: list[_Slot]) -> None:
        """Writes the decoded frame `timed_frame` to `slots`. A slot is one frame of a clip that is still needed. Slots
        of rows that have failed are skipped.
        """
        slots = [slot for slot in slots if slot.row not in self.errors]
        if slots:
            with self.clock.during(CONVERT):
                self._fill_from(timed_frame, slots)

    def _fill_from(self, timed_frame: TimedFrame, slots: list[_Slot]) -> None:
        """Writes the decoded frame `timed_frame` to `slots`. If the frame cannot be converted, or if its size is not
        the size that `index` found in the video, the rows of the slots are marked as failed.
        """
        try:
            pixels = pixels_of(self.video, timed_frame, self._converter, self.clock)
            row = self.rows[slots[0].row]
            if pixels.size != (indexed := (row.frame_width, row.frame_height)):
                raise self._other_size(timed_frame, pixels.size, indexed)
            for slot in slots:
                self._fill_slot(slot, timed_frame, pixels)
        except DecodeError as error:
            self.errors |= dict.fromkeys((slot.row for slot in slots), error.detached())

    def _fill_slot(self, slot: _Slot, timed_frame: TimedFrame, pixels: FramePixels) -> None:
        clip, row = self.clips[slot.row], self.rows[slot.row]
        clip.frame_times[slot.index], clip.frame_numbers[slot.index] = timed_frame.seconds, timed_frame.number
        clip.coded_numbers[slot.index] = timed_frame.coded
        for square in self.wanted.squares:
            if slot.index % square.every == 0:
                self._store(clip.squares, square, slot.index // square.every, pixels.square(square, row))
        self._store_whole(slot, pixels)

    def _other_size(self, timed_frame: TimedFrame, size: Size, indexed: Size) -> DecodeError:
        sizes = self.video.sizes
        first = sizes[0][1] if sizes else size
        if first != indexed:
            words = f"frames of {first[0]}x{first[1]} px, indexed as {indexed[0]}x{indexed[1]}: another video now"
            return DecodeError("unreadable", words)
        since = max(seconds for seconds, changed in sizes if changed == size and seconds <= timed_frame.seconds)
        change = f"from {first[0]}x{first[1]} to {size[0]}x{size[1]} at {since:.1f} s"
        return DecodeError("unreadable", f"the frame size changes {change}")

    def _store_whole(self, slot: _Slot, pixels: FramePixels) -> None:
        whole = self.wanted.whole
        if whole is None or slot.index % whole.every:
            return
        first = self.clips[self.first_of_clip[self.rows[slot.row].clip_id.rpartition(":")[0]]]
        if first is self.clips[slot.row]:
            height, width = whole.network_size(*pixels.size[::-1])
            if first.whole is None:
                first.whole = np.zeros((-(-self.wanted.num_frames // whole.every), height, width, 3), np.uint8)
            first.whole[slot.index // whole.every] = pixels.whole((width, height), whole.resize)

    def _store(self, into: dict[Square, np.ndarray], square: Square, index: int, pixels: np.ndarray) -> None:
        if square not in into:
            into[square] = np.zeros((-(-self.wanted.num_frames // square.every), *pixels.shape), np.uint8)
        into[square][index] = pixels

    def _judged(self, row_index: int, last_seconds: float | None, complaint: str) -> DecodedClip | DecodeError:
        """Returns the DecodedClip of row `row_index`, an index into the rows of this pass. Returns a DecodeError if the
        clip has failed.

        `last_seconds` is the time of the last frame if the video ended before all wanted times, else None. `complaint`
        has the decoder's messages about the video, or is empty.
        """
        if row_index in self.errors:
            return self.errors[row_index]
        row, clip = self.rows[row_index], self.clips[row_index]
        clip.whole = self.clips[self.first_of_clip[row.clip_id.rpartition(":")[0]]].whole
        clip.warning, clip.video_frames = complaint, self.video_frames
        if last_seconds is not None:
            end = last_seconds + self.video.frame_period
            beyond = self._reaches_beyond(row, end)
            declared = self.video.stated_duration
            if declared is not None and declared - end > TRUNCATED_SECONDS:
                clip.warning = f"decoding ended at {end:.2f} s of {declared:.2f} s; {complaint}".strip("; ")
                if beyond:
                    return DecodeError("truncated", clip.warning)
            if self.wanted.short == "fail" and beyond:
                return DecodeError("too_short", beyond)
            if row.interval is not None and row.interval[0] >= end:
                return DecodeError(
                    "too_short", f"the interval begins at {row.interval[0]:.2f} s, the video ends at {end:.2f} s"
                )
        if self.wanted.short == "fail" and row.interval is not None:
            end, slack = row.interval[1], self.video.slack_seconds if self.by_number else 0.0
            reached = max(clip.frame_times if self.by_number else row.target_times)
            if reached >= end - slack:
                return DecodeError("too_short", f"the clip reaches {reached:.2f} s, its interval {end:.2f} s")
        if self.wanted.num_frames > 1 and not self.wanted.may_repeat and len(np.unique(clip.frame_times)) < 2:
            return self._alone(row_index, complaint)
        return clip

    def _reaches_beyond(self, row: ClipRow, end: float) -> str:
        """Returns a sentence for messages if a row wants frames after the end of the video, else "". `end` is the time
        in seconds at which the video ends.
        """
        if row.target_frames is None:
            latest = max(row.target_times)
            return f"the clip reaches {latest:.2f} s, the video {end:.2f} s" if latest > end else ""
        latest_number, count = max(row.target_frames), self.video_frames
        return f"the clip reaches frame {latest_number}, the video has {count}" if latest_number >= count else ""

    def _alone(self, row_index: int, complaint: str) -> DecodeError:
        """Returns the DecodeError for the clip of row number `row_index`, which shows the same frame at all its times.

        `complaint` has the decoder's messages about the video, or is "". With a complaint, the reason of the error is
        `unreadable`, because the other frames may be damaged. Without one, it is `too_short`.
        """
        words = f"only one distinct frame for a clip of {self.wanted.num_frames}"
        if row_index in self._shown_until:
            since, until = self.clips[row_index].frame_times[0], self._shown_until[row_index]
            words += f", from {since:.2f} s to {until:.2f} s there is no other"
        return DecodeError("unreadable", f"{words}; {complaint}") if complaint else DecodeError("too_short", words)
