"""Which times of a video make a row. Pure arithmetic, torch-free.

Times are seconds from the first presented frame, intervals [start, end).
"""

from cache_schemas.clips_table import Interval
from stages.clips.options import ClipOptions

INSIDE_SECONDS = 1e-5  # so long before the end of an interval no frame is taken yet that is presented at its end


def clip_times(options: ClipOptions, duration: float, clip: int, interval: Interval | None = None) -> tuple[float, ...]:
    """Target times of clip number `clip` of a video that lasts `duration` seconds, or of an interval of it.

    uniform: t_i = start + (i + 0.5) (end - start) / T; several clips shift within the stride, so that together they
    sample the video evenly. dense: t_i = s + i / fps, starts s evenly spaced from the first to the last possible;
    centre: the same with one clip in the middle. Past the end of a short video `loop` starts again, otherwise the
    times run on and the decoder repeats the last frame; of a short interval they stay before its end.
    """
    T = options.num_frames
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        offset = (clip + 0.5) / options.per_video
        return tuple(first + (i + offset) * (end - first) / T for i in range(T))
    start = first + max(0.0, end - first - T / options.fps) * _start_fraction(options, clip)
    times = (start + i / options.fps for i in range(T))
    if options.short == "loop" and end > first:
        times = (first + (t - first) % (end - first) for t in times)
    if options.short != "fail" and interval is not None:
        times = (min(t, max(first, end - INSIDE_SECONDS)) for t in times)
    return tuple(times)


def whole_or_part(duration: float, interval: Interval | None) -> Interval:
    """The interval as far as the video goes: empty, at its own start, where the video ends before it."""
    if interval is None:
        return 0.0, duration
    start, end = interval
    return start, max(start, min(end, duration))


def _start_fraction(options: ClipOptions, clip: int) -> float:
    """Where clip number `clip` starts between the first (0) and the last possible start (1)."""
    if options.per_video > 1:
        return clip / (options.per_video - 1)
    return 0.5 if options.sampling == "centre" else 0.0


def clip_interval(
    options: ClipOptions, duration: float, times: tuple[float, ...], interval: Interval | None = None
) -> Interval:
    """The interval [start, end) that a clip stands for, which never leaves the one that the video is listed by."""
    first, end = whole_or_part(duration, interval)
    if options.sampling == "uniform":
        return first, end
    clip_end = times[0] + options.num_frames / options.fps
    return times[0], clip_end if interval is None else min(clip_end, end)
