"""Reads facts and frames of single videos without a cache: `kinegraph.probe`, `kinegraph.decode`. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kinegraph.cache_schemas.clips_table import ClipRow, Interval
from kinegraph.pipeline.caches.indexing import video_rows
from kinegraph.pipeline.config_file import sentences
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.listing import Video
from kinegraph.stages.decode import probing
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.counting import probe_counted
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import probe_images
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.wanted import LATEST_RULES, Square, Wanted, WholeFrame

NO_LIMIT = float("inf")
MAX_FRAME_RATE = 1000  # images a second, as in a config


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """The facts about a video that are known before its frames are decoded.

    - `duration`: seconds from the first frame to the end of the last frame.
    - `width`, `height`: the size of a displayed frame in pixels.
    - `rate`: frames per second.
    - `warning`: a sentence about faults in the file, or "".
    """

    duration: float
    width: int
    height: int
    rate: float
    warning: str


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The decoded frames of a clip: T frames of H rows and W columns.

    - `pixels`: [T, H, W, 3] uint8, RGB.
    - `times`: [T], seconds from the first frame of the video.
    - `warning`: a sentence about faults that the decoder found, or "".
    """

    pixels: np.ndarray
    times: np.ndarray
    warning: str


def probe(path: str | Path, *, frame_rate: float | None = None) -> VideoFacts:
    """Returns the duration, frame size and frame rate of a video, without decoding its frames.

    `path` is a video file. If `frame_rate` (images per second) is set, `path` is a folder of numbered images. Raises
    DecodeError if the video cannot be read, and ConfigError if `frame_rate` is not allowed.
    """
    facts = _probed(str(path), frame_rate)
    return VideoFacts(
        duration=facts.duration,
        width=facts.frame_width,
        height=facts.frame_height,
        rate=facts.rate,
        warning=facts.warning,
    )


def decode(
    path: str | Path,
    *,
    times: Sequence[float] | None = None,
    clips: Mapping[str, Any] | ClipOptions | None = None,
    intervals: Sequence[Interval] | None = None,
    size: int | None = None,
    frame_rate: float | None = None,
) -> list[Frames | DecodeError]:
    """Returns frames of a video, decoded in one pass and by the same rules as the frames of a cache.

    The argument `times` or `clips` says which frames are wanted. If both are missing, the defaults of `clips` are used.

    - `times`: seconds from the first frame of the video, any number in any order. Each time makes one frame with the
      whole picture.
    - `clips`: the options of the section `clips` of a config.
    - `intervals`: pairs (start, end) in seconds. The default is the whole video. For a time before an interval, the
      frame at the interval's start is returned. For a time after it, the last frame of the interval is returned.
    - `size`: the side in pixels of the squares to which crops are resized. A whole picture is squeezed into the square.
      Without `size`, nothing is resized.
    - `frame_rate`: images per second, if `path` is a folder of numbered images.

    Returns a list with one result for each interval, clip and crop, in this order. With `times` there is one result per
    interval. A result is a `Frames`, or a DecodeError that says why there are none. Raises ConfigError if an option is
    not allowed, or if both `times` and `clips` are set.
    """
    options = _options(times, clips)
    if size is not None and (not isinstance(size, Integral) or size < 1):
        raise ConfigError(f"decode: size: given {size!r}, allowed: whole numbers from 1 on")
    spans: Sequence[Interval | None] = [None] if intervals is None else [_interval(pair) for pair in intervals]
    try:
        rows = _rows(str(path), options, spans, times, frame_rate)
    except DecodeError as error:
        return [error] * (len(spans) * options.rows_per_video)
    if not rows:
        return []
    square = Square(size=size, every=1) if size is not None else None
    wanted = Wanted(
        num_frames=len(rows[0].target_times),
        squares=frozenset([square] if square else []),
        whole=None if square else WholeFrame(network_size=lambda height, width: (height, width), every=1),
        short=options.short,
        may_repeat=times is not None or options.has_windows,
        torchcodec_device=options.torchcodec_device,
    )
    decoded = decode_clips(str(path), rows, wanted, NO_LIMIT, LATEST_RULES, OpenVideos())
    return [_frames(clip, row, square) for row, clip in zip(rows, decoded, strict=True)]


def _options(times: Sequence[float] | None, clips: Mapping[str, Any] | ClipOptions | None) -> ClipOptions:
    if times is not None:
        if clips is not None:
            raise ConfigError("decode: given times and clips, allowed: one of them")
        if not len(times):
            raise ConfigError("decode: times: given none, allowed: at least one")
        if odd := [seconds for seconds in times if not isfinite(seconds)]:
            raise ConfigError(f"decode: times: given {odd[0]}, allowed: finite numbers of seconds")
        return ClipOptions(num_frames=1, crops=("full",))
    try:
        options = ClipOptions.model_validate({} if clips is None else clips)
    except ValidationError as error:
        raise ConfigError("\n".join(f"decode: clips.{line}" for line in sentences(error, ClipOptions))) from error
    if options.is_annotated:
        raise ConfigError("decode: clips.sampling: given 'annotated', which needs a data set; give the times instead")
    return options


def _interval(pair: Interval) -> Interval:
    try:
        start, end = map(float, pair)
    except (TypeError, ValueError):
        start = end = float("nan")
    if not 0 <= start < end < float("inf"):
        raise ConfigError(f"decode: intervals: given {pair!r}, allowed: (start, end) in seconds, 0 <= start < end")
    return start, end


def _probed(path: str, frame_rate: float | None, *, by_number: bool = False) -> probing.Probe:
    """Returns the facts about the video at `path`, such as its duration. If `frame_rate` (images per second) is set,
    `path` is a folder of images. If `by_number` is true, the facts about a file include the times of all frames.

    Raises DecodeError if the video cannot be read, and ConfigError if `frame_rate` is not allowed.
    """
    if frame_rate is not None:
        if not 0 < frame_rate <= MAX_FRAME_RATE:
            raise ConfigError(f"frame_rate: given {frame_rate}, allowed: above 0, at most {MAX_FRAME_RATE}")
        return probe_images(path, frame_rate)
    if "\0" not in path and Path(path).is_dir():
        words = (
            f"{path} is a folder; a file is expected, or frame_rate, images a second, for a folder of numbered images"
        )
        raise DecodeError("unreadable", words)
    return probe_counted(path) if by_number else probing.probe(path)


def _rows(
    path: str,
    options: ClipOptions,
    spans: Sequence[Interval | None],
    times: Sequence[float] | None,
    frame_rate: float | None,
) -> list[ClipRow]:
    facts = _probed(path, frame_rate, by_number=options.by_number)
    rows: list[ClipRow] = []
    for interval_index, span in enumerate(spans):
        video = Video(
            video_id=str(interval_index), path=path, split="", labels=(), list_index=interval_index, interval=span,
            frame_rate=frame_rate,
        )  # fmt: skip
        rows += video_rows(video, facts, options)
    return rows if times is None else [replace(row, target_times=_within(row, times)) for row in rows]


def _within(row: ClipRow, times: Sequence[float]) -> tuple[float, ...]:
    """Returns `times` (seconds) with each time before the interval of `row` replaced by the start of the interval.
    Times after the interval are kept. If `row` has no interval, all times are kept.
    """
    start = float("-inf") if row.interval is None else row.interval[0]
    return tuple(max(float(seconds), start) for seconds in times)


def _frames(clip: DecodedClip | DecodeError, row: ClipRow, square: Square | None) -> Frames | DecodeError:
    if isinstance(clip, DecodeError):
        return clip
    if square is not None:
        return Frames(pixels=clip.squares[square], times=clip.frame_times, warning=clip.warning)
    assert clip.whole is not None
    x1, y1, x2, y2 = (round(edge) for edge in row.crop)
    pixels = clip.whole[:, y1:y2, x1:x2]
    return Frames(pixels=pixels[:, :, ::-1] if row.mirrored else pixels, times=clip.frame_times, warning=clip.warning)
