"""Which times and which rectangle of a video make a row. Pure arithmetic, torch-free.

Times are seconds from the first presented frame, intervals [start, end), rectangles x1, y1, x2, y2 in video pixels.
"""

from stages.clips.options import ClipOptions, Crop

Rectangle = tuple[float, float, float, float]


def clip_times(options: ClipOptions, duration: float, clip: int) -> tuple[float, ...]:
    """Target times of clip number `clip` of a video that lasts `duration` seconds.

    uniform: t_i = (i + 0.5) duration / T; several clips shift within the stride, so that together they sample the
    video evenly. dense: t_i = s + i / fps, starts s evenly spaced from the first to the last possible; centre: the
    same with one clip in the middle. Past the end of a short video `loop` starts again, otherwise the times run on
    and the decoder repeats the last frame.
    """
    T = options.num_frames
    if options.sampling == "uniform":
        offset = (clip + 0.5) / options.per_video
        return tuple((i + offset) * duration / T for i in range(T))
    last_start = max(0.0, duration - T / options.fps)
    start = last_start * _start_fraction(options, clip)
    times = (start + i / options.fps for i in range(T))
    if options.short == "loop" and duration > 0:
        times = (t % duration for t in times)
    return tuple(times)


def _start_fraction(options: ClipOptions, clip: int) -> float:
    """Where clip number `clip` starts between the first (0) and the last possible start (1)."""
    if options.per_video > 1:
        return clip / (options.per_video - 1)
    return 0.5 if options.sampling == "centre" else 0.0


def clip_interval(options: ClipOptions, duration: float, times: tuple[float, ...]) -> tuple[float, float]:
    """The interval [start, end) that a clip stands for."""
    if options.sampling == "uniform":
        return 0.0, duration
    return times[0], times[0] + options.num_frames / options.fps


def crop_rectangle(crop: Crop, width: int, height: int) -> Rectangle:
    """The rectangle of a named crop in a frame of width x height pixels.

    center, left and right are squares of the short side; in an upright frame left and right are top and bottom.
    full is the whole frame, which a backbone squeezes into its square input.
    """
    if crop == "full":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}[crop]
    x, y = (width - side) * shift, (height - side) * shift
    return x, y, x + side, y + side
