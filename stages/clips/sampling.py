"""Computes which times or frame numbers of a video make a clip. Pure arithmetic, torch-free.

Times are seconds from the first presented frame. Intervals are [start, end). A video has K clips. A clip has T frames,
with the numbers i = 0 to T - 1. A video or interval has n frames.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.windows import Windows
from kinegraph.stages.decode.timeline import PresentedFrames

INSIDE_SECONDS = 1e-5  # times this long before an interval's end never take the frame presented at that end


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One clip. `times` are its target times in seconds from the first frame. `interval` is the part (start, end) of
    the video that the clip represents, in the same seconds.

    `frames` are the frame numbers if frames are chosen by number (`fps: native` or `sampling: annotated`), else None.
    """

    times: tuple[float, ...]
    interval: Interval
    frames: tuple[int, ...] | None = None


def clips_of(
    options: ClipOptions,
    duration: float,
    interval: Interval | None,
    frames: PresentedFrames | None,
    annotated: Sequence[int] = (),
) -> Iterator[Sampled]:
    """Yields a Sampled, the sampled frames, for each clip of a video, in the order of the clips.

    The video has `duration` seconds. The clips are taken from `interval`, or from the whole video if it is None.
    `frames` has the number and the times of the frames of the video, and is needed with `fps: native`. With the
    sampling `windows`, the number of clips depends on the video, and `interval` has no effect. With the sampling
    `annotated`, `annotated` are the numbers of the annotated frames of the video, from 0.
    """
    if options.is_annotated:
        assert frames is not None
        yield annotated_clip(options, duration, interval, frames, annotated)
        return
    if options.has_windows:
        windows = Windows.of(options, duration, frames)
        for window in range(windows.count):
            yield Sampled(times=windows.times(window), interval=windows.interval(window))
        return
    for clip in range(options.per_video):
        yield sampled(options, duration, clip, interval, frames)


def sampled(
    options: ClipOptions, duration: float, clip: int, interval: Interval | None, frames: PresentedFrames | None
) -> Sampled:
    """Returns the Sampled of the clip number `clip`, from 0: its times, its interval and the numbers of its frames.

    The clip is taken from `interval`, or from the whole video if `interval` is None. The video lasts `duration`
    seconds. `frames` has the number and the times of the frames of the video. With `fps: native`, frames are chosen by
    number, and `frames` is needed. Otherwise frames are chosen by time, and `frames` may be None.
    """
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


def annotated_clip(
    options: ClipOptions,
    duration: float,
    interval: Interval | None,
    frames: PresentedFrames,
    annotated: Sequence[int],
) -> Sampled:
    """Returns the Sampled of a clip that takes its T frames from the annotated frames of a video or interval. There
    must be at least one annotated frame.

    `annotated` are the numbers of the annotated frames of the video, from 0, ascending. n of them lie in the interval.
    If n is at least T, frame i of the clip is number floor((i + 0.5) n / T) of these: 1, 3, 5, 7, 9 for n = 10 and T =
    5. If n is less than T, the clip has all n frames and repeats the last. `duration` is that of the video in seconds,
    and `frames` has its frames.
    """
    T, within = options.num_frames, annotated_within(annotated, frames, interval)
    n = len(within)
    places = [(2 * i + 1) * n // (2 * T) for i in range(T)] if n >= T else [min(i, n - 1) for i in range(T)]
    numbers = tuple(within[place] for place in places)
    return Sampled(
        times=tuple(map(frames.seconds, numbers)), interval=whole_or_part(duration, interval), frames=numbers
    )


def annotated_within(annotated: Sequence[int], frames: PresentedFrames, interval: Interval | None) -> list[int]:
    """Returns those of the frame numbers `annotated` that are in `interval`, or all of them if it is None. Numbers
    count from 0.

    A frame that is shown when the interval starts, but began before it, is not in the interval. `frames` has the times
    of the frames.
    """
    if interval is None:
        return [*annotated]
    start, end = (seconds - frames.slack_seconds for seconds in interval)
    return [number for number in annotated if start <= frames.seconds(number) < end]


def clip_frames(
    options: ClipOptions, frames: PresentedFrames, clip: int, interval: Interval | None = None
) -> tuple[int, ...]:
    """Returns the T frame numbers of clip number `clip`, for a video or an interval with n frames and K clips. The
    numbers count from the first frame of the video. The formulas below count from the first frame of the interval, if
    there is one.

    uniform: frame i is number floor((i + (clip + 0.5) / K) n / T). For K = 1 this is the rule of TSN (Temporal Segment
    Networks).

    dense: frame i is number s + i * `frame_step`, where s is the start of the clip. The starts of the K clips are
    evenly spaced from the first to the last possible start, and rounded down.

    centre: as dense, with one clip in the middle.

    A video or interval may have fewer frames than a dense clip needs. The option `short` then decides:

    loop: the clip starts again at the first frame.
    repeat_last: a clip of an interval repeats the number of the last frame of the interval. The numbers of a clip of a
        whole video go past its end, and the decoder repeats the last frame.
    fail: the numbers go past the end.
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
    """Returns the T target times, in seconds, of clip number `clip`, counted from 0. The video has `duration` seconds.
    The clip is taken from `interval` = (start, end), or from the whole video if it is None. In the formulas, start and
    end are those of the video or interval. `options` states the sampling, T, fps and the number K of clips.

    uniform: with one clip, time i is start + (i + 0.5) (end - start) / T. With K clips, clip k has (k + 0.5) / K in
    place of 0.5, so that together the clips sample the video evenly.
    dense: time i is s + i / fps, where s is the start of the clip. The starts of the K clips are evenly spaced from the
    first to the last possible start.
    centre: the times are those of dense, with one clip in the middle.

    If a video is shorter than a clip, `short: loop` starts again at the beginning of the video. With another value of
    `short`, the times run past the end of the video, and the decoder repeats the last frame. Times of a short interval
    stay before the interval's end, unless `short` is "fail".
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
    """Returns the part [start, end) of a video that clips may use, in seconds.

    Without `interval`, this is the whole video, from 0 to `duration`. Otherwise it is the part of `interval` that lies
    within the video. Where the video ends before the interval, the part is empty and lies at the interval's start.
    """
    if interval is None:
        return 0.0, duration
    start, end = interval
    return start, max(start, min(end, duration))


def _start_fraction(options: ClipOptions, clip: int) -> Fraction:
    """Returns where in the video the clip starts, from 0 (the first possible start of a clip) to 1 (the last possible
    start).

    `clip` is the number of the clip among the `per_video` clips of the video, from 0.
    """
    if options.per_video > 1:
        return Fraction(clip, options.per_video - 1)
    return Fraction(1, 2) if options.sampling == "centre" else Fraction(0)


def clip_interval(
    options: ClipOptions, duration: float, times: tuple[float, ...], interval: Interval | None = None
) -> Interval:
    """Returns the part [start, end) of the video that a clip represents, in seconds.

    `duration` is that of the video in seconds, and `times` are the target times of the clip. `interval` is the interval
    by which the video is listed, or None. The result never leaves that interval.
    """
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        return first, end
    assert not isinstance(options.fps, str)
    clip_end = times[0] + options.num_frames / options.fps
    return times[0], clip_end if interval is None else min(clip_end, end)
