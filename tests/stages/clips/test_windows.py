"""Windows over a video: how many, at which times, and what happens at the end of the video."""

import math
from array import array
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.stages.clips.options import ClipOptions, without_views
from kinegraph.stages.clips.sampling import clips_of
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.decode.timeline import PresentedFrames

TAILS = ("drop", "pad", "shift")


def windows(num_frames: int, hop_frames: int, **options: Any) -> ClipOptions:
    known = {"num_frames": num_frames, "hop_frames": hop_frames, "sampling": "windows"}
    return ClipOptions.model_validate(known | options)


def looped(N: int, W: int, h: int, tail: str) -> list[list[int]]:
    """The frames of each window, found one window after the other."""
    found, start = [], 0
    while start + W <= N or (tail == "pad" and start < N):
        found.append([start + i for i in range(W)])
        start += h
    if tail == "shift" and N and (not found or found[-1][-1] < N - 1):
        found.append([max(0, N - W) + i for i in range(W)])
    return found


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 25), st.sampled_from(TAILS), st.sampled_from([1, 2, 3]))
def test_windows_are_those_of_a_loop(N: int, T: int, h: int, tail: str, step: int) -> None:
    """At the video's own rate, at a rate of its own, and where frames have times of their own."""
    expected = [frames[::step] for frames in looped(N, T * step, h, tail)]
    native = windows(T, h, fps="native", tail=tail, frame_step=step)
    uneven = array("d", (n / 30 + n % 3 / 200 for n in range(N)))
    for times in (None, uneven or None):
        frames = PresentedFrames(number=N, rate=30.0, times=times)
        found = [*clips_of(native, N / 30, None, frames)]
        assert [clip.times for clip in found] == [tuple(map(frames.seconds, numbers)) for numbers in expected]
        assert all(clip.interval[0] == clip.times[0] for clip in found)
        assert all(clip.frames is None for clip in found), "windows are decoded by time, so that decoding may skip"
    if step == 1:
        found = [*clips_of(windows(T, h, fps=29.97, tail=tail), N / 29.97, None, None)]
        assert [[round(t * 29.97) for t in clip.times] for clip in found] == expected
    W = T * step
    counts = {
        "drop": max(0, (N - W) // h + 1),
        "pad": math.ceil(Fraction(N, h)),
        "shift": max(0, (N - W) // h + 1) + (N > 0 and (N < W or (N - W) % h > 0)),
    }
    assert len(expected) == counts[tail]


@pytest.mark.parametrize(("number", "expected"), [(5094, 1270), (20, 2), (16, 1), (15, 0)])
def test_counts_of_the_usual_features(number: int, expected: int) -> None:
    """16 frames every 4. The usual I3D extraction makes one less than fit."""
    frames = PresentedFrames(number=number, rate=30.0)
    assert len([*clips_of(windows(16, 4, fps="native"), number / 30, None, frames)]) == expected


def test_a_hop_in_seconds_may_be_no_whole_number_of_frames() -> None:
    options = ClipOptions(num_frames=4, fps=10, sampling="windows", hop_seconds=0.25)
    assert [clip.times[0] for clip in clips_of(options, 1.0, None, None)] == [0.0, 0.25, 0.5]
    native = options.model_copy(update={"fps": "native"})
    found = clips_of(native, 1.0, None, PresentedFrames(number=10, rate=10.0))
    assert [clip.times[0] for clip in found] == [0.0, 0.2, 0.5], "the frame on the screen at 0.25 s is that of 0.2 s"


@pytest.mark.parametrize("duration", [10.0, 10.0000001, 10.0009, 9.9999])
def test_rounding_of_a_duration_makes_no_frame(duration: float) -> None:
    assert len([*clips_of(windows(50, 50, fps=25.0, tail="pad"), duration, None, None)]) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling": "windows"}, "hop_frames: given None, allowed: hop_frames or hop_seconds, one of them"),
        ({"sampling": "windows", "hop_frames": 2, "hop_seconds": 0.5}, "one of them"),
        ({"sampling": "windows", "hop_frames": 0}, "hop_frames"),
        ({"sampling": "windows", "hop_seconds": 0}, "hop_seconds"),
        ({"sampling": "windows", "hop_frames": 2, "per_video": 2}, "per_video: given 2, allowed: 1 with windows"),
        ({"sampling": "windows", "hop_frames": 2, "short": "loop"}, "short: given 'loop', allowed: repeat_last"),
        ({"sampling": "windows", "hop_frames": 2, "frame_step": 2}, "frame_step: given 2"),
        ({"hop_frames": 2}, "hop_frames: given 2, allowed: with sampling: windows; here it is dense"),
        ({"tail": "pad"}, "tail: given 'pad', allowed: with sampling: windows"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ClipOptions.model_validate(options)


def test_other_samplings_keep_their_fingerprint() -> None:
    """The keys of windows are no part of the options of other samplings."""
    recorded = clips_options(ClipOptions())
    assert {"hop_frames", "hop_seconds", "tail"}.isdisjoint(recorded)
    assert fingerprint(recorded) == "10117a9e86bb3fb450e32e5c713724081daa8ed3d73f4987974876cfc1e2345a"
    of_windows = clips_options(windows(16, 4))
    assert (of_windows["hop_frames"], of_windows["tail"], "hop_seconds" in of_windows) == (4, "drop", False)
    assert without_views(of_windows) == without_views(clips_options(ClipOptions(num_frames=16)))
