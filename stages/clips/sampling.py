"""Computes which times, or which frame numbers, of a video make a row. Pure arithmetic, torch-free.

Times are seconds from the first presented frame. Intervals are [start, end).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.decode.timeline import PresentedFrames

INSIDE_SECONDS = 1e-5  # times this long before an interval's end never take the frame presented at that end


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One clip: its target times in seconds, and the interval that it stands for.

    Frame numbers are set where frames are taken by number.
    """

    times: tuple[float, ...]
    interval: Interval
    frames: tuple[int, ...] | None = None


def sampled(
    options: ClipOptions, duration: float, clip: int, interval: Interval | None, frames: PresentedFrames | None
) -> Sampled:
    """Returns clip number `clip` of a video or of an interval of a video. `frames` is needed with `fps: native`."""
    if not options.by_number:
        times = clip_times(options, duration, clip, interval)
        return Sampled(times=times, interval=clip_interval(options, duration, times, interval))
    assert frames is not None
    frame_numbers = clip_frames(options, frames, clip, interval)
    start, end = whole_or_part(duration, interval)
    if options.sampling != "uniform":
        past = frames.seconds(frame_numbers[0] + options.num_frames * options.frame_step)
        start, end = max(start, frames.seconds(frame_numbers[0])), past if interval is None else min(past, end)
    return Sampled(
        times=tuple(map(frames.seconds, frame_numbers)), interval=(start, max(start, end)), frames=frame_numbers
    )


def clip_frames(
    options: ClipOptions, frames: PresentedFrames, clip: int, interval: Interval | None = None
) -> tuple[int, ...]:
    """Returns the frame numbers of clip number `clip`, among the n frames of a video or an interval.

    uniform: floor((i + (clip + 0.5) / K) n / T) for K clips, which is TSN's rule for K = 1. dense, centre: every
    `frame_step`-th frame; starts are those of `clip_times`, rounded down. The option `short` works as for times.
    """
    T, K, step = options.num_frames, options.per_video, options.frame_step
    part = frames.within(interval)
    n = len(part)
    if options.sampling == "uniform":
        return tuple(part.start + (2 * i * K + 2 * clip + 1) * n // (2 * K * T) for i in range(T))
    start = math.floor(max(0, n - T * step) * _start_fraction(options, clip))
    places = [start + i * step for i in range(T)]
    if options.short == "loop" and n:
        places = [place % n for place in places]
    if options.short != "fail" and interval is not None:
        places = [min(place, max(0, n - 1)) for place in places]
    return tuple(part.start + place for place in places)


def clip_times(options: ClipOptions, duration: float, clip: int, interval: Interval | None = None) -> tuple[float, ...]:
    """Returns the target times of clip number `clip` of a video of `duration` seconds, or of an interval of that video.

    uniform: t_i = start + (i + 0.5) (end - start) / T. Several clips are shifted within the stride, so that together
    they sample the video evenly. dense: t_i = s + i / fps, with starts s evenly spaced from the first to the last
    possible start. centre: the same with one clip in the middle. If a video is shorter than a clip, `loop` starts again
    at the beginning. Otherwise the times run past the end, and the decoder repeats the last frame. Times of a short
    interval stay before the interval's end.
    """
    T = options.num_frames
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        offset = (clip + 0.5) / options.per_video
        return tuple(first + (i + offset) * (end - first) / T for i in range(T))
    assert not isinstance(options.fps, str)
    start = first + max(0.0, end - first - T / options.fps) * float(_start_fraction(options, clip))
    times = (start + i / options.fps for i in range(T))
    if options.short == "loop" and end > first:
        times = (first + (t - first) % (end - first) for t in times)
    if options.short != "fail" and interval is not None:
        times = (min(t, max(first, end - INSIDE_SECONDS)) for t in times)
    return tuple(times)


def whole_or_part(duration: float, interval: Interval | None) -> Interval:
    """Returns the part of the interval that lies within the video.

    Where the video ends before the interval, the part is empty. An empty part lies at the interval's own start.
    """
    if interval is None:
        return 0.0, duration
    start, end = interval
    return start, max(start, min(end, duration))


def _start_fraction(options: ClipOptions, clip: int) -> Fraction:
    """Returns the start of clip number `clip` as a fraction: 0 is the first possible start, 1 the last."""
    if options.per_video > 1:
        return Fraction(clip, options.per_video - 1)
    return Fraction(1, 2) if options.sampling == "centre" else Fraction(0)


def clip_interval(
    options: ClipOptions, duration: float, times: tuple[float, ...], interval: Interval | None = None
) -> Interval:
    """Returns the interval [start, end) that a clip stands for.

    A clip's interval never leaves the interval by which the video is listed.
    """
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        return first, end
    assert not isinstance(options.fps, str)
    clip_end = times[0] + options.num_frames / options.fps
    return times[0], clip_end if interval is None else min(clip_end, end)
