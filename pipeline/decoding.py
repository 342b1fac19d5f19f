"""Frames of single videos, outside any cache: `kinegraph.probe` and `kinegraph.decode`. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from cache_schemas.clips_table import ClipRow, Interval
from pipeline.config import sentences
from pipeline.errors import ConfigError
from pipeline.indexing import video_rows
from stages.clips.datasets import Video
from stages.clips.options import ClipOptions
from stages.decode import stream
from stages.decode.clips import DecodedClip, Wanted, WholeFrame, decode_clips
from stages.decode.counting import probe_counted
from stages.decode.errors import DecodeError
from stages.decode.open_videos import OpenVideos
from stages.decode.squares import Square

NO_LIMIT = float("inf")


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What `probe` tells: seconds from the first frame to the end of the last, pixels as shown, frames a second.

    `warning` is what went wrong while the file was read; empty if nothing did.
    """

    duration: float
    width: int
    height: int
    rate: float
    warning: str


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a video or an interval: `pixels` [T, H, W, 3] uint8 RGB, `times` [T] in seconds from the first frame.

    `warning` is what the decoder complained about; empty if it did not.
    """

    pixels: np.ndarray
    times: np.ndarray
    warning: str


def probe(path: str) -> VideoFacts:
    """Duration, size and rate of a video file. Raises DecodeError."""
    told = stream.probe(str(path))
    return VideoFacts(
        duration=told.duration,
        width=told.frame_width,
        height=told.frame_height,
        rate=told.rate,
        warning=told.warning,
    )


def decode(
    path: str,
    *,
    times: Sequence[float] | None = None,
    clips: Mapping[str, Any] | ClipOptions | None = None,
    intervals: Sequence[Interval] | None = None,
    size: int | None = None,
) -> list[Frames | DecodeError]:
    """Frames of a video file in one pass, by the rules by which caches are made.

    `times`: seconds from the first frame, any number in any order; the whole picture is shown. `clips`: the options of
    a config's section `clips` (or their defaults) instead. `intervals`: (start, end) in seconds; without, the whole
    video. `size`: side of the squares to which crops are resized, a whole frame is squeezed; without, crops keep their
    pixels.

    Returns one result an interval, one in all without: frames, or why there are none. Where `clips` asks for several
    clips or crops of a video, each has a result of its own: interval by interval, clip by clip, crop by crop. Raises
    ConfigError where options cannot be used.
    """
    options = _options(times, clips)
    spans: Sequence[Interval | None] = [None] if intervals is None else [(float(a), float(b)) for a, b in intervals]
    try:
        rows = _rows(str(path), options, spans, times)
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
    )
    decoded = decode_clips(str(path), rows, wanted, NO_LIMIT, stream.LATEST_RULES, OpenVideos())
    return [_frames(clip, row, square) for row, clip in zip(rows, decoded, strict=True)]


def _options(times: Sequence[float] | None, clips: Mapping[str, Any] | ClipOptions | None) -> ClipOptions:
    if times is not None:
        if clips is not None:
            raise ConfigError("decode: given times and clips, allowed: one of them")
        if not len(times):
            raise ConfigError("decode: times: given none, allowed: at least one")
        return ClipOptions(num_frames=len(times), crops=("full",))
    try:
        return ClipOptions.model_validate({} if clips is None else clips)
    except ValidationError as error:
        raise ConfigError("\n".join(f"decode: clips.{line}" for line in sentences(error))) from error


def _rows(
    path: str, options: ClipOptions, spans: Sequence[Interval | None], times: Sequence[float] | None
) -> list[ClipRow]:
    found = probe_counted(path) if options.by_number else stream.probe(path)
    rows: list[ClipRow] = []
    for number, span in enumerate(spans):
        video = Video(video_id=str(number), path=path, split="", labels=(), list_index=number, interval=span)
        rows += video_rows(video, found, options)
    return rows if times is None else [replace(row, target_times=tuple(map(float, times))) for row in rows]


def _frames(clip: DecodedClip | DecodeError, row: ClipRow, square: Square | None) -> Frames | DecodeError:
    if isinstance(clip, DecodeError):
        return clip
    if square is not None:
        return Frames(pixels=clip.squares[square], times=clip.frame_times, warning=clip.warning)
    assert clip.whole is not None
    x1, y1, x2, y2 = (round(edge) for edge in row.crop)
    pixels = clip.whole[:, y1:y2, x1:x2]
    return Frames(pixels=pixels[:, :, ::-1] if row.mirrored else pixels, times=clip.frame_times, warning=clip.warning)
