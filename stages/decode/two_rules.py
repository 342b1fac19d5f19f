"""Compares the frames that two versions of the rules for reading videos choose from a video. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.pictures import Orientation
from kinegraph.stages.decode.stream import PYAV_ERRORS, open_video
from kinegraph.stages.decode.wanted import LATEST_RULES, Wanted

NO_LIMIT = float("inf")
Change = Literal["none", "times", "frames", "unread"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Says how the latest rules for reading videos change the frames of one row, compared with older rules. `change` is
    one of these words:

    - "none": the same frames at the same times.
    - "times": the same frames at other times or with other numbers.
    - "frames": other frames, or an error under only one of the rules.
    - "unread": neither version of the rules can read the video.

    `words` describes "frames" and "unread". `frame_times` [T] are the times in seconds by the latest rules, or None.
    `old_times` [T] are the times by the older rules, for "none" and "times".
    """

    change: Change
    words: str = ""
    frame_times: np.ndarray | None = None
    old_times: np.ndarray | None = None


def compare(path: str, old: Sequence[ClipRow], new: Sequence[ClipRow], wanted: Wanted, rules: int) -> list[Comparison]:
    """Decodes the rows of a video by two versions of the rules for reading videos: version `rules`, and the latest
    version. Returns one Comparison for each row.

    - `path`: the video file.
    - `old`: the rows as a cache of version `rules` stores them.
    - `new`: the same rows, with the target times that the latest rules compute.
    - `wanted`: how many frames a row has, and how frames are decoded.
    """
    before = decode_clips(path, old, wanted, NO_LIMIT, rules)
    after = decode_clips(path, new, wanted, NO_LIMIT)
    is_shown_otherwise = _shown(path, rules) != _shown(path, LATEST_RULES)
    return [_compared(*decoded, is_shown_otherwise) for decoded in zip(before, after, strict=True)]


def _compared(
    before: DecodedClip | DecodeError, after: DecodedClip | DecodeError, is_shown_otherwise: bool
) -> Comparison:
    if isinstance(before, DecodeError):
        if isinstance(after, DecodeError):
            return Comparison(change="unread", words=str(after))
        return Comparison(change="frames", words=f"it can be read now ({before})", frame_times=after.frame_times)
    if isinstance(after, DecodeError):
        return Comparison(change="frames", words=f"it is not read any more: {after}")
    if is_shown_otherwise:
        words = "another stream is read, or the picture is turned otherwise"
        return Comparison(change="frames", words=words, frame_times=after.frame_times)
    if len(other := np.flatnonzero(before.coded_numbers != after.coded_numbers)):
        first = other[0]
        words = f"frame {after.coded_numbers[first]} in place of {before.coded_numbers[first]}"
        if len(other) > 1:
            words += f", and {len(other) - 1} others"
        return Comparison(change="frames", words=words, frame_times=after.frame_times)
    is_same = np.array_equal(before.frame_times, after.frame_times) and _places(before) == _places(after)
    change: Change = "none" if is_same else "times"
    return Comparison(change=change, frame_times=after.frame_times, old_times=before.frame_times)


def _places(clip: DecodedClip) -> tuple[int, list[int]]:
    return clip.video_frames, clip.frame_numbers.tolist()


def _shown(path: str, rules: int) -> tuple[int, Orientation] | None:
    """Returns (index of the video stream, Orientation of its first frame) of the file `path`, by version `rules` of the
    rules for reading videos. Returns None if the video cannot be opened or has no frame.
    """
    try:
        with open_video(path, rules) as video:
            for first in video.frames():
                return video.stream.index, video.rules.orientation(first.frame)
    except (DecodeError, *PYAV_ERRORS):
        pass
    return None
