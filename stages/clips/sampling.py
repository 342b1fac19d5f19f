"""Computes which times or frame numbers of a video make a clip. Pure arithmetic, torch-free.

Times are seconds from the first frame that is shown. Intervals are [start, end). Letters: A video has K clips, a clip
has T frames, and a video or interval has n frames.
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
class SampledClip:
    """One clip: which frames it takes from a video."""

    times: tuple[float, ...]  # the target times of its frames in seconds from the first frame of the video
    interval: Interval  # the part [start, end) of the video that the clip represents, in seconds
    # The numbers of the frames, from 0, if frames are chosen by number. Otherwise, and for windows, None.
    frames: tuple[int, ...] | None = None


def clips_of(
    options: ClipOptions,
    duration: float,
    interval: Interval | None,
    frames: PresentedFrames | None,
    annotated_numbers: Sequence[int] = (),
) -> Iterator[SampledClip]:
    """Yields a SampledClip for each clip of one video, in order. A SampledClip says which frames the clip takes.

    - `duration`: the duration of the video in seconds.
    - `interval`: the part of the video from which clips are taken, or None for the whole video. Windows ignore it.
    - `frames`: the number and the times of the frames. Needed if `options.by_number` is true.
    - `annotated_numbers`: the numbers of the annotated frames, from 0. Needed with `sampling: annotated`.
    """
    if options.is_annotated:
        assert frames is not None
        yield annotated_clip(options, duration, interval, frames, annotated_numbers)
        return
    if options.has_windows:
        windows = Windows.of(options, duration, frames)
        for window in range(windows.count):
            yield SampledClip(times=windows.times(window), interval=windows.interval(window))
        return
    for clip in range(options.per_video):
        yield sample_clip(options, duration, clip, interval, frames)


def sample_clip(
    options: ClipOptions, duration: float, clip: int, interval: Interval | None, frames: PresentedFrames | None
) -> SampledClip:
    """Returns the SampledClip of clip number `clip`, from 0, of a video of `duration` seconds.

    The clip is taken from `interval`, or from the whole video if `interval` is None. `frames` has the number and the
    times of the frames of the video. `frames` is needed with `fps: native`, and may be None otherwise.
    """
    if not options.by_number:
        times = clip_times(options, duration, clip, interval)
        return SampledClip(times=times, interval=clip_interval(options, duration, times, interval))
    assert frames is not None
    frame_numbers = clip_frames(options, frames, clip, interval)
    start, end = whole_or_part(duration, interval)
    if options.sampling != "uniform":
        past = frames.seconds(frame_numbers[0] + options.num_frames * options.frame_step)
        start, end = max(start, frames.seconds(frame_numbers[0])), past if interval is None else min(past, end)
    return SampledClip(
        times=tuple(map(frames.seconds, frame_numbers)), interval=(start, max(start, end)), frames=frame_numbers
    )


def annotated_clip(
    options: ClipOptions,
    duration: float,
    interval: Interval | None,
    frames: PresentedFrames,
    annotated_numbers: Sequence[int],
) -> SampledClip:
    """Returns the SampledClip that takes its T frames from the annotated frames of a video or of an interval. There
    must be at least one.

    `annotated_numbers` are the numbers of the annotated frames of the video, from 0, in ascending order. Let n of these
    frames lie in the interval. If n >= T, frame i of the clip is the annotated frame at position floor((i + 0.5) n /
    T). For n = 10 and T = 5 the positions are 1, 3, 5, 7, 9. If n < T, the clip has all n frames and repeats the last.
    `duration` is in seconds, and `frames` has the times of the frames.
    """
    T, within = options.num_frames, annotated_within(annotated_numbers, frames, interval)
    n = len(within)
    places = [(2 * i + 1) * n // (2 * T) for i in range(T)] if n >= T else [min(i, n - 1) for i in range(T)]
    numbers = tuple(within[place] for place in places)
    return SampledClip(
        times=tuple(map(frames.seconds, numbers)), interval=whole_or_part(duration, interval), frames=numbers
    )


def annotated_within(annotated_numbers: Sequence[int], frames: PresentedFrames, interval: Interval | None) -> list[int]:
    """Returns the numbers of the annotated frames that begin in `interval`. If `interval` is None, returns all
    `annotated_numbers`. Numbers count from 0. `frames` has the times of the frames.

    A frame that began before the interval is left out, although it is still shown at the start of the interval.
    """
    if interval is None:
        return [*annotated_numbers]
    start, end = (seconds - frames.slack_seconds for seconds in interval)
    return [number for number in annotated_numbers if start <= frames.seconds(number) < end]


def clip_frames(
    options: ClipOptions, frames: PresentedFrames, clip: int, interval: Interval | None = None
) -> tuple[int, ...]:
    """Returns the T frame numbers of clip number `clip`. In the result, frames are counted from the first frame of the
    video.

    In the formulas, frames are counted from the first frame of `interval`, or of the video if `interval` is None. n is
    the number of frames there, and K is the number of clips.

    - "uniform": frame i is number floor((i + (clip + 0.5) / K) n / T). For K = 1 this is the rule of TSN (Temporal
      Segment Networks).
    - "dense": frame i is number s + i * `frame_step`. The K starts s are evenly spaced from the first to the last
      possible start, and rounded down.
    - "centre": as "dense", with one clip in the middle.

    If there are fewer frames than a dense clip needs, the option `short` decides:

    - "loop": the clip starts again at the first frame.
    - "repeat_last": the last frame is repeated.
    - "fail": the numbers go past the end.
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
    """Returns the T target times, in seconds, of clip number `clip` of a video of `duration` seconds.

    In the formulas, start and end are those of `interval`, or of the video if `interval` is None. K is the number of
    clips.

    - "uniform": time i is start + (i + (clip + 0.5) / K) (end - start) / T.
    - "dense": time i is s + i / fps. The K starts s are evenly spaced from the first to the last possible start.
    - "centre": as "dense", with one clip in the middle.

    If the video is shorter than a clip, `short: loop` starts again at its beginning. Otherwise the times run past the
    end of the video, and the decoder repeats the last frame. Times of an interval stay before its end, unless `short`
    is "fail".
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
    """Returns the part [start, end) of a video from which clips are taken, in seconds.

    If `interval` is None, this is the whole video, from 0 to `duration`. Otherwise it is the part of `interval` that
    lies in the video. If the video ends before the interval, the part is empty.
    """
    if interval is None:
        return 0.0, duration
    start, end = interval
    return start, max(start, min(end, duration))


def _start_fraction(options: ClipOptions, clip: int) -> Fraction:
    """Returns where clip number `clip` starts, from 0 (the first possible start of a clip) to 1 (the last possible
    start).
    """
    if options.per_video > 1:
        return Fraction(clip, options.per_video - 1)
    return Fraction(1, 2) if options.sampling == "centre" else Fraction(0)


def clip_interval(
    options: ClipOptions, duration: float, times: tuple[float, ...], interval: Interval | None = None
) -> Interval:
    """Returns the part [start, end) of the video that a clip represents, in seconds.

    `times` are the target times of the clip, and `duration` is the duration of the video in seconds. `interval` is the
    listed interval from which the clip is taken, or None. The result lies in this interval.
    """
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        return first, end
    assert not isinstance(options.fps, str)
    clip_end = times[0] + options.num_frames / options.fps
    return times[0], clip_end if interval is None else min(clip_end, end)
