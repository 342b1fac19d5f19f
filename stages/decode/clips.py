"""Decodes a video to the pixels that networks take. One pass over the file serves all clips and all stages.

The rules are the version of the key `clips` by which frames are found in a file (`wanted.LATEST_RULES`). A slot is one
frame of one row that has to be filled. A skip or seek is proved where a pass from the start of the video would result
in the same frames and times (see `seeking`).
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.durations import TRUNCATED_SECONDS
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import OpenImages, open_images
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.seeking import SeekLost
from kinegraph.stages.decode.squares import FramePixels
from kinegraph.stages.decode.stream import PYAV_ERRORS, OpenVideo, TimedFrame, open_video
from kinegraph.stages.decode.wanted import LATEST_RULES, Size, Square, Wanted


@dataclass(kw_only=True)
class DecodedClip:
    """The pixels of one row, uint8 RGB. T_in is the number of frames of the row. All crops of a clip share the array
    `whole`.

    `frame_numbers` are the places of the frames among the frames as presented. `coded_numbers` are their places among
    all frames that the decoder returned, so that `coded_numbers` are the same for any version of the rules. Both kinds
    of numbers are -1 where a part of the video was skipped. `video_frames` is the number of frames of the video, set
    where numbers were asked for.
    """

    frame_times: np.ndarray  # [T_in] float64, seconds
    frame_numbers: np.ndarray  # [T_in] int64, from 0
    coded_numbers: np.ndarray  # [T_in] int64, from 0
    video_frames: int = 0
    squares: dict[Square, np.ndarray] = field(default_factory=dict)  # [T_in/every, size, size, 3]
    whole: np.ndarray | None = None  # [T_in/every, h, w, 3]
    warning: str = ""

    @classmethod
    def blank(cls, num_frames: int) -> "DecodedClip":
        """Returns a clip of `num_frames` frames without pixels. Times are NaN until they are filled in."""
        frame_numbers, coded_numbers = np.zeros((2, num_frames), np.int64)
        times = np.full(num_frames, np.nan)
        return cls(frame_times=times, frame_numbers=frame_numbers, coded_numbers=coded_numbers)


@dataclass(frozen=True)
class _Slot:
    """A frame that is wanted: frame `index` of row number `row`. `at` is its target time in seconds, or its frame
    number.
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
) -> ClipResults:
    """Decodes all `rows` of one video in one pass. Returns for each row its clip, or the error because of which it has
    none.

    The frame for a target time is the last frame with a presentation time at or before the target time, or the first
    frame of the video if there is none. The comparison allows for the rounding of the container's clock. A frame that
    is presented at or after the end of the row's interval is never taken. Rows with `target_frames` take the frames
    with these numbers. Either all rows have `target_frames`, or no row has them. `rules` is the version of `clips`
    whose rules apply.

    With `open_videos`, parts of the video without a wanted frame are skipped where it is proved that the frames stay
    the same. Where the proof fails, a second pass reads from the start, with its own `timeout_seconds`. Without
    `open_videos`, and where frames are counted, the video is read from its start.
    """
    try:
        rate = rows[0].frame_rate
        are_counted = wanted.numbered or rows[0].target_frames is not None
        if rate is None and open_videos is not None and not are_counted and rules == LATEST_RULES:
            skipping = _skipping(path, rows, wanted, timeout_seconds, open_videos)
            if skipping is not None:
                return skipping
        with open_video(path, rules) if rate is None else open_images(path, rate) as video:
            return _Pass(video, rows, wanted).run(time.monotonic() + timeout_seconds)
    except DecodeError as error:
        return [error for _ in rows]


def _skipping(
    path: str, rows: Sequence[ClipRow], wanted: Wanted, timeout_seconds: float, open_videos: OpenVideos
) -> ClipResults | None:
    """Returns the clips of a pass that skips parts of the video.

    Returns None where a pass from the start might have other clips. The pass starts where the last caller stopped in
    the video, or at its start. Which warnings and failures a decoder reports depends on the packets that it has read.
    So clips with warnings or failures always come from a pass from the start.
    """
    for begin in (open_videos.left_before, open_videos.begun):
        with suppress(SeekLost), begin(path, lambda slack: _first_wanted(rows, slack)) as video:
            if video is None:
                continue
            was_left = video.latest is not None
            clips = _Pass(video, rows, wanted, skips=True).run(time.monotonic() + timeout_seconds)
            if not (was_left or video.has_sought):
                return clips
            if video.is_clean and all(_is_proved(clip, video) for clip in clips):
                return clips
    return None


def _is_proved(clip: DecodedClip | DecodeError, video: OpenVideo) -> bool:
    """Returns whether a pass from the start of the video would result in the same clip or error.

    Errors about a file that broke off are never proved, because they depend on everything that was read.
    """
    if isinstance(clip, DecodeError):
        return clip.reason in ("timeout", "too_short")
    return clip.warning == video.complaints


def _first_wanted(rows: Sequence[ClipRow], slack_seconds: float) -> float:
    return min((seconds for row in rows for seconds in _latest_wanted(row, slack_seconds)), default=0.0)


def _latest_wanted(row: ClipRow, slack_seconds: float) -> list[float]:
    """Returns the target times of a row, in seconds. A time is made earlier where a frame at the end of the row's
    interval could be taken for that time.
    """
    latest = float("inf") if row.interval is None else row.interval[1] - 2 * slack_seconds
    return [min(seconds, latest) for seconds in row.target_times]


class _Pass:
    """One pass over one video. It holds how far each clip is filled, and which clips have failed.

    skips: parts of the video without a wanted frame are skipped, where that is possible and saves time.
    """

    def __init__(
        self, video: OpenVideo | OpenImages, rows: Sequence[ClipRow], wanted: Wanted, *, skips: bool = False
    ) -> None:
        self.video, self.rows, self.wanted, self.skips = video, rows, wanted, skips
        self.clips = [DecodedClip.blank(wanted.num_frames) for _ in rows]
        self.errors: dict[int, DecodeError] = {}
        self._shown_until: dict[
            int, float
        ] = {}  # row -> end of the time during which the row's last frame was shown, s
        self.by_number = rows[0].target_frames is not None  # frames are then counted from the video's start
        self.video_frames = 0
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
        complaint = self.video.complaints
        return [self._judged(row_index, last_seconds, complaint) for row_index in range(len(self.rows))]

    def _fill(self, slots: list[_Slot], deadline: float) -> float | None:
        """Fills all slots, which are sorted by time or frame number.

        Returns the time of the last frame in seconds where the stream ended before all slots were filled, else None.
        """
        filled = 0
        current, slack = self.video.latest, self.video.slack_seconds
        try:
            self._skip(slots[:1])
            for shown in self.video.frames(deadline):
                if current is not None:
                    reached = shown.number if self.by_number else shown.seconds - slack
                    due = bisect_left(slots, reached, filled, key=lambda slot: slot.at)
                    self._take(current, slots[filled:due])
                    self._shown_until |= dict.fromkeys((slot.row for slot in slots[filled:due]), shown.seconds)
                    filled = due
                if filled == len(slots) and not self.wanted.numbered:
                    return None
                current = shown
                self._skip(slots[filled : filled + 1])
        except DecodeError as error:  # the time limit was reached
            late = range(len(self.rows)) if self.wanted.numbered else {slot.row for slot in slots[filled:]}
            self.errors |= dict.fromkeys(late, error)
            return None
        if current is None:
            raise DecodeError("truncated", self.video.complaints or "not one frame could be decoded")
        self.video_frames = current.number + 1
        self._take(current, slots[filled:])
        return None if filled == len(slots) else current.seconds

    def _skip(self, following: Iterable[_Slot]) -> None:
        """Moves the video near the first of the `following` slots, where that is possible and saves time.

        Raises SeekLost where the file led elsewhere than its index says.
        """
        if self.skips and isinstance(self.video, OpenVideo) and self.video.latest is not None:
            for slot in following:
                self.video.skip_to(slot.at)

    def _take(self, shown: TimedFrame, slots: list[_Slot]) -> None:
        """Writes one video frame into all of `slots`. The frame is converted to RGB once, and each square or size is
        made from it once.
        """
        slots = [slot for slot in slots if slot.row not in self.errors]
        if not slots:
            return
        image = self._image(shown, {slot.row for slot in slots})
        if image is None:
            return
        pixels = FramePixels(image)
        for slot in slots:
            clip, row = self.clips[slot.row], self.rows[slot.row]
            clip.frame_times[slot.index], clip.frame_numbers[slot.index] = shown.seconds, shown.number
            clip.coded_numbers[slot.index] = shown.coded
            for square in self.wanted.squares:
                if slot.index % square.every == 0:
                    self._store(clip.squares, square, slot.index // square.every, pixels.square(square, row))
            self._store_whole(slot, pixels)

    def _image(self, shown: TimedFrame, rows: set[int]) -> Image.Image | None:
        """Returns the picture of a frame. `rows` are the numbers of the rows that want the frame.

        Returns None where the picture cannot be read or has another size than was indexed. All rows in `rows` are then
        marked as failed.
        """
        try:
            image = Image.fromarray(self.video.rgb(shown.frame))
        except DecodeError as error:  # one image of a folder cannot be read
            failed = error
        except PYAV_ERRORS as error:
            failed = DecodeError("unreadable", f"the frame at {shown.seconds:.2f} s cannot be shown: {error}")
        else:
            indexed = next((row.frame_width, row.frame_height) for row in (self.rows[row_index] for row_index in rows))
            if image.size == indexed:
                return image
            failed = self._other_size(shown, image.size, indexed)
        self.errors |= dict.fromkeys(rows, failed)
        return None

    def _other_size(self, shown: TimedFrame, size: Size, indexed: Size) -> DecodeError:
        sizes = self.video.sizes
        first = sizes[0][1] if sizes else size
        if first != indexed:
            words = f"frames of {first[0]}x{first[1]} px, indexed as {indexed[0]}x{indexed[1]}: another video now"
            return DecodeError("unreadable", words)
        since = max(seconds for seconds, changed in sizes if changed == size and seconds <= shown.seconds)
        change = f"from {first[0]}x{first[1]} to {size[0]}x{size[1]} at {since:.1f} s"
        return DecodeError("unreadable", f"the frame size changes {change}")

    def _store_whole(self, slot: _Slot, pixels: FramePixels) -> None:
        whole = self.wanted.whole
        if whole is None or slot.index % whole.every:
            return
        first = self.clips[self.first_of_clip[self.rows[slot.row].clip_id.rpartition(":")[0]]]
        if first is self.clips[slot.row]:
            height, width = whole.network_size(pixels.image.height, pixels.image.width)
            if first.whole is None:
                first.whole = np.zeros((-(-self.wanted.num_frames // whole.every), height, width, 3), np.uint8)
            first.whole[slot.index // whole.every] = pixels.whole((width, height))

    def _store(self, into: dict[Square, np.ndarray], square: Square, index: int, pixels: np.ndarray) -> None:
        if square not in into:
            into[square] = np.zeros((-(-self.wanted.num_frames // square.every), *pixels.shape), np.uint8)
        into[square][index] = pixels

    def _judged(self, row_index: int, last_seconds: float | None, complaint: str) -> DecodedClip | DecodeError:
        """Returns the clip of a row, or the error that says why the clip has failed.

        `last_seconds` is the result of `_fill`. `complaint` is what the decoder complained about.
        """
        if row_index in self.errors:
            return self.errors[row_index]
        row, clip = self.rows[row_index], self.clips[row_index]
        clip.whole = self.clips[self.first_of_clip[row.clip_id.rpartition(":")[0]]].whole
        clip.warning, clip.video_frames = complaint, self.video_frames
        if last_seconds is not None:
            end = last_seconds + self.video.frame_period
            beyond = self._reaches_beyond(row, end)
            declared = self.video.promised_duration
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
        """Returns a sentence where a row wants frames after the end of the video, else "". `end` is the time in seconds
        at which the video ends.
        """
        if row.target_frames is None:
            latest = max(row.target_times)
            return f"the clip reaches {latest:.2f} s, the video {end:.2f} s" if latest > end else ""
        latest_number, count = max(row.target_frames), self.video_frames
        return f"the clip reaches frame {latest_number}, the video has {count}" if latest_number >= count else ""

    def _alone(self, row_index: int, complaint: str) -> DecodeError:
        """Returns the error for a clip in which all frames are the same frame."""
        words = f"only one distinct frame for a clip of {self.wanted.num_frames}"
        if row_index in self._shown_until:
            since, until = self.clips[row_index].frame_times[0], self._shown_until[row_index]
            words += f", from {since:.2f} s to {until:.2f} s there is no other"
        return DecodeError("unreadable", f"{words}; {complaint}") if complaint else DecodeError("too_short", words)
