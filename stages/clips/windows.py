"""Computes the windows that slide over a video. Pure arithmetic, torch-free.

A video has N frames, a window has W frames, and a window starts every h frames. Frames are counted at the rate
`clips.fps`. With `fps: native` they are the frames of the video. Positions count frames from 0.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from kinegraph.cache_schemas.clips_table import Interval
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.decode.timeline import COPIED_TICK_SECONDS, PresentedFrames

MAX_WINDOWS = 500_000  # of one video
MAX_DENOMINATOR = 100_000  # a rate as a fraction, such as 30000/1001


def new_frames(options: ClipOptions, every: int) -> int | None:
    """Returns how many frames of a window are in no earlier window. For example, 4 if a window of 16 frames starts
    every 4 frames. If `every` is k, only every k-th frame of a window counts, because a network takes only these
    frames.

    Returns None if windows share no frame, or if the options have no windows. Returns 1, the smallest possible number,
    if the number depends on the video (`hop_seconds` with `fps: native`).
    """
    if not options.has_windows:
        return None
    if options.hop_frames is None and options.by_number:
        return 1
    hop = options.hop_frames or Fraction(repr(options.hop_seconds)) * Fraction(repr(options.fps))
    # the first later window that begins at a frame of this one begins `numerator` of its frames later
    number = Fraction(hop, options.frame_step * every).numerator
    return number if number < options.num_frames // every else None


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of one video, numbered from 0 in the order of time. The option `tail` says what happens at the end of
    the video:

    - "drop": only whole windows.
    - "pad": the last windows may reach past the end.
    - "shift": as "drop". If the last window does not reach the end, one more window ends with the video.
    """

    options: ClipOptions
    num_frames: int  # N, the number of frames of the video
    rate: Fraction  # frames per second. `size`: W, the number of frames that a window covers.
    hop: Fraction  # h, the number of frames from one window to the next. With `hop_seconds` it may be a fraction.
    frames: PresentedFrames | None  # the times of the frames with `fps: native`, and otherwise None

    @classmethod
    def of(cls, options: ClipOptions, duration: float, frames: PresentedFrames | None) -> "Windows":
        """Returns the Windows of a video of `duration` seconds.

        `frames` has the number and the times of the frames of the video, and is needed with `fps: native`. Otherwise
        frames are counted at the rate `fps`. A frame that would begin less than COPIED_TICK_SECONDS before the end of
        the video does not count.
        """
        if options.by_number:
            assert frames is not None
            rate = Fraction(frames.rate).limit_denominator(MAX_DENOMINATOR)
            count = frames.number
        else:
            rate, frames = Fraction(repr(options.fps)), None
            count = math.ceil(max(0.0, duration - COPIED_TICK_SECONDS) * float(rate))
        hop = options.hop_frames or Fraction(repr(options.hop_seconds)) * rate
        return cls(options=options, num_frames=count, rate=rate, hop=Fraction(hop), frames=frames)

    @property
    def size(self) -> int:
        """Returns W, the number of frames that a window covers."""
        return self.options.num_frames * self.options.frame_step

    @property
    def count(self) -> int:
        """Returns the number of windows of the video."""
        N, W, h = self.num_frames, self.size, self.hop
        if self.options.tail == "pad":
            return math.ceil(N / h)
        num_fitting = max(0, math.floor((N - W) / h) + 1)
        ends = (num_fitting - 1) * h + W if num_fitting else 0
        return num_fitting + (self.options.tail == "shift" and ends < N)

    def start(self, window: int) -> Fraction | int:
        """Returns the frame number, from 0, at which window number `window` begins. With `fps: native` it is an int,
        rounded down. Otherwise it may be a fraction.
        """
        hop = self.hop
        start = window * hop.numerator if hop.denominator == 1 else window * hop
        if self.options.tail == "shift":
            start = min(start, max(0, self.num_frames - self.size))
        return math.floor(start) if self.options.by_number else start

    def times(self, window: int) -> tuple[float, ...]:
        """Returns the times of the frames of window number `window`, in seconds from the first frame of the video. A
        time after the last frame stands for the last frame.
        """
        return self._seconds(self.start(window), range(0, self.size, self.options.frame_step))

    def interval(self, window: int) -> Interval:
        """Returns the part [start, end) of the video that window number `window` covers, in seconds. The part may reach
        past the end of the video.
        """
        start, end = self._seconds(self.start(window), (0, self.size))
        return start, end

    def _seconds(self, start: Fraction | int, later: Iterable[int]) -> tuple[float, ...]:
        """Returns the times of several frames in seconds from the first frame of the video. `start` is a position in
        frames. Each number in `later` stands for the frame so many frames after `start`.
        """
        if self.frames is not None:
            return tuple(self.frames.seconds(int(start) + number) for number in later)
        # whole numbers, because sums of fractions take most of the time of `index`
        first, each, per_frame = start.numerator, start.denominator, self.rate.denominator
        per_second = each * self.rate.numerator
        return tuple((first + number * each) * per_frame / per_second for number in later)
