"""Whatever rate, clock and start a video has: dense sampling at its own rate takes each frame once, in its interval."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.sampling import clip_times
from kinegraph.stages.clock import DECODE, Clock
from kinegraph.stages.decode.clips import DecodedClip, _Pass
from kinegraph.stages.decode.stream import TimedFrame
from kinegraph.stages.decode.timeline import Timeline
from kinegraph.stages.decode.wanted import Wanted
from tests.stages.decode.conftest import clip_row

RATES = st.sampled_from([5, 10, 12, 15, 24, 25, 30, 50, 60, *(Fraction(n * 1000, 1001) for n in (24, 30, 60))])
CLOCKS = st.sampled_from([Fraction(1, n) for n in (600, 1000, 12800, 16000, 24000, 30000, 90000, 1200000)])
STARTS = st.fractions(0, 100, max_denominator=100000)
PLACES = st.integers(0, 30)
MANY = settings(max_examples=25, derandomize=True, deadline=None, database=None)


class Stamped:
    """An open video of which only the stamps are real."""

    complaints, stated_duration, sizes, latest = "", None, ((0.0, (48, 32)),), None

    def __init__(self, rate: Fraction, clock: Fraction, stamps: list[int], container: str = "matroska,webm") -> None:
        stream = SimpleNamespace(
            average_rate=rate, guessed_rate=rate, time_base=clock, codec_context=SimpleNamespace(codec_tag="")
        )
        self.timeline: Any = Timeline(SimpleNamespace(format=SimpleNamespace(name=container, flags=0)), stream)  # type: ignore[arg-type]
        self.slack_seconds, self.frame_period = self.timeline.slack_seconds, self.timeline.frame_period
        self._frames = [SimpleNamespace(pts=pts, dts=pts, time_base=clock) for pts in stamps]

    def frames(self, deadline: float) -> Iterator[TimedFrame]:
        for number, frame in enumerate(self._frames):
            yield TimedFrame(self.timeline.seconds(frame), frame, number, number)

    def rgb(self, frame: object) -> np.ndarray:
        return np.zeros((32, 48, 3), np.uint8)


def stamps(rate: Fraction, clock: Fraction, start: Fraction, num_frames: int) -> list[int]:
    return [round((start + n / Fraction(rate)) / clock) for n in range(num_frames)]


def taken(video: Stamped, fps: float, num_frames: int, interval: tuple[float, float]) -> DecodedClip:
    options = ClipOptions(num_frames=num_frames, sampling="dense", fps=fps)
    row = clip_row(Path("v"), clip_times(options, 1e6, 0, interval), interval=interval)
    (clip,) = _Pass(video, [row], Wanted(num_frames=num_frames), Clock(DECODE)).run(0.0)  # type: ignore[arg-type]
    assert isinstance(clip, DecodedClip)
    return clip


@MANY
@given(rate=RATES, clock=CLOCKS, start=STARTS, first=PLACES, part=st.integers(1, 4), count=st.integers(2, 12))
def test_each_frame_once(rate: Fraction, clock: Fraction, start: Fraction, first: int, part: int, count: int) -> None:
    assume(clock < 1 / Fraction(rate) / 4)
    video = Stamped(rate, clock, stamps(rate, clock, start, 100))
    interval = float(first / Fraction(rate)), float((first + count * part) / Fraction(rate))
    clip = taken(video, float(rate / Fraction(part)), count, interval)
    assert clip.coded_numbers.tolist() == list(range(first, first + count * part, part))


@MANY
@given(
    rate=RATES, clock=CLOCKS, start=STARTS, begin=st.floats(0, 2), length=st.floats(0.3, 2), fps=st.floats(1, 60)
)  # fmt: skip
def test_times_rise_and_stay_in_the_interval(
    rate: Fraction, clock: Fraction, start: Fraction, begin: float, length: float, fps: float
) -> None:
    """The first frame may have been on the screen before the interval."""
    assume(clock < 1 / Fraction(rate) / 4)
    assume(length > 2 / rate and 7 / fps > 2 / rate)  # else it is one frame, which is no clip
    video = Stamped(rate, clock, stamps(rate, clock, start, 400))
    clip = taken(video, fps, 8, (begin, begin + length))
    assert (np.diff(clip.frame_times) >= 0).all()
    assert clip.frame_times[-1] < begin + length
    assert clip.frame_times[0] > begin - float(1 / Fraction(rate)) - 2 * float(clock)


@MANY
@given(rate=RATES, clock=CLOCKS, start=STARTS, joins=st.lists(st.integers(3, 40), min_size=1, max_size=4))
def test_joined_recordings_lose_no_frame(rate: Fraction, clock: Fraction, start: Fraction, joins: list[int]) -> None:
    parts = [stamps(rate, clock, start, count) for count in joins]
    video = Stamped(rate, clock, [stamp for part in parts for stamp in part], "mpegts")
    times = [shown.seconds for shown in video.frames(0.0)]
    assert len(times) == sum(joins)
    np.testing.assert_allclose(
        times, [float(n / rate) for n in range(len(times))], atol=2.01 * len(joins) * float(clock)
    )
