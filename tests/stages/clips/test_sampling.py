"""Which times and which rectangle make a row."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinegraph.cache_schemas.crops import crop_rectangle
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.sampling import clip_frames, clip_interval, clip_times, sample_clip
from kinegraph.stages.decode.timeline import PresentedFrames


def test_uniform_takes_the_middle_of_equal_parts() -> None:
    options = ClipOptions(num_frames=4, sampling="uniform")
    times = clip_times(options, 8.0, 0)
    assert times == (1.0, 3.0, 5.0, 7.0)
    assert clip_interval(options, 8.0, times) == (0.0, 8.0)


def test_several_uniform_clips_share_the_video_evenly() -> None:
    options = ClipOptions(num_frames=2, sampling="uniform", per_video=2)
    both = clip_times(options, 8.0, 0) + clip_times(options, 8.0, 1)
    assert sorted(both) == [1.0, 3.0, 5.0, 7.0]


def test_dense_clips_start_from_the_first_to_the_last_possible() -> None:
    options = ClipOptions(num_frames=4, fps=2, sampling="dense", per_video=3)
    starts = [clip_times(options, 10.0, clip)[0] for clip in range(3)]
    assert starts == [0.0, 4.0, 8.0]
    times = clip_times(options, 10.0, 1)
    assert times == (4.0, 4.5, 5.0, 5.5)
    assert clip_interval(options, 10.0, times) == (4.0, 6.0)


@pytest.mark.parametrize(("sampling", "start"), [("dense", 0.0), ("centre", 4.0)])
def test_one_clip(sampling: str, start: float) -> None:
    options = ClipOptions.model_validate({"num_frames": 4, "fps": 2, "sampling": sampling})
    assert clip_times(options, 10.0, 0) == tuple(start + i / 2 for i in range(4))


@pytest.mark.parametrize(
    ("short", "times"),
    [("repeat_last", (0.0, 0.5, 1.0, 1.5)), ("fail", (0.0, 0.5, 1.0, 1.5)), ("loop", (0.0, 0.5, 0.0, 0.5))],
)
@pytest.mark.parametrize("clip", [0, 1])
def test_a_video_shorter_than_a_clip(short: str, times: tuple[float, ...], clip: int) -> None:
    """Times run on past the end, where the decoder repeats the last frame or fails the clip; or start again."""
    options = ClipOptions.model_validate({"num_frames": 4, "fps": 2, "per_video": 2, "short": short})
    assert clip_times(options, 1.0, clip) == times


@pytest.mark.parametrize(
    ("options", "clip", "times", "span"),
    [
        ({"sampling": "uniform", "num_frames": 4}, 0, (2.25, 2.75, 3.25, 3.75), (2.0, 4.0)),
        ({"sampling": "uniform", "num_frames": 2, "per_video": 2}, 1, (2.75, 3.75), (2.0, 4.0)),
        ({"sampling": "dense", "num_frames": 2, "fps": 2, "per_video": 2}, 0, (2.0, 2.5), (2.0, 3.0)),
        ({"sampling": "dense", "num_frames": 2, "fps": 2, "per_video": 2}, 1, (3.0, 3.5), (3.0, 4.0)),
        ({"sampling": "centre", "num_frames": 2, "fps": 2}, 0, (2.5, 3.0), (2.5, 3.5)),
        ({"sampling": "dense", "num_frames": 3, "fps": 1}, 0, (2.0, 3.0, 3.99999), (2.0, 4.0)),
        ({"sampling": "dense", "num_frames": 3, "fps": 1, "short": "loop"}, 0, (2.0, 3.0, 2.0), (2.0, 4.0)),
        ({"sampling": "dense", "num_frames": 3, "fps": 1, "short": "fail"}, 0, (2.0, 3.0, 4.0), (2.0, 4.0)),
    ],
)
def test_an_interval_is_sampled_as_a_video_is(
    options: dict[str, object], clip: int, times: tuple[float, ...], span: tuple[float, float]
) -> None:
    given = ClipOptions.model_validate(options)
    found = clip_times(given, 10.0, clip, (2.0, 4.0))
    assert found == times
    assert clip_interval(given, 10.0, found, (2.0, 4.0)) == span
    assert clip_times(given, 4.0, clip, (2.0, 9.0)) == times, "it ends with the video"


@pytest.mark.parametrize("sampling", ["uniform", "dense"])
def test_an_interval_past_the_end_is_empty(sampling: str) -> None:
    options = ClipOptions.model_validate({"num_frames": 2, "sampling": sampling})
    times = clip_times(options, 10.0, 0, (12.0, 14.0))
    assert times == (12.0, 12.0)
    assert clip_interval(options, 10.0, times, (12.0, 14.0)) == (12.0, 12.0)


@pytest.mark.parametrize("duration", [0.0, 0.7, 1.1, 13 / 8, 30.03])
@pytest.mark.parametrize("short", ["repeat_last", "loop", "fail"])
def test_the_whole_video_as_an_interval(short: str, duration: float) -> None:
    """Written out as it was before there were intervals: times in existing caches do not move by a bit."""
    for T, K in ((3, 1), (4, 3)):
        known = {"num_frames": T, "fps": 3.0, "per_video": K, "short": short}
        uniform = ClipOptions.model_validate(known | {"sampling": "uniform"})
        dense = ClipOptions.model_validate(known | {"sampling": "dense"})
        for clip in range(K):
            expected = tuple((i + (clip + 0.5) / K) * duration / T for i in range(T))
            assert clip_times(uniform, duration, clip) == expected
            start = max(0.0, duration - T / 3.0) * (clip / (K - 1) if K > 1 else 0.0)
            run_on = [start + i / 3.0 for i in range(T)]
            looped = [t % duration for t in run_on] if short == "loop" and duration > 0 else run_on
            assert clip_times(dense, duration, clip) == tuple(looped)


@pytest.mark.parametrize(
    ("crop", "landscape", "upright"),
    [
        ("center", (40.0, 0.0, 120.0, 80.0), (0.0, 40.0, 80.0, 120.0)),
        ("left", (0.0, 0.0, 80.0, 80.0), (0.0, 0.0, 80.0, 80.0)),
        ("right", (80.0, 0.0, 160.0, 80.0), (0.0, 80.0, 80.0, 160.0)),
        ("full", (0.0, 0.0, 160.0, 80.0), (0.0, 0.0, 80.0, 160.0)),
    ],
)
def test_crops(crop: str, landscape: tuple[float, ...], upright: tuple[float, ...]) -> None:
    (named,) = ClipOptions.model_validate({"crops": [crop]}).crops
    assert crop_rectangle(named, 160, 80) == landscape
    assert crop_rectangle(named, 80, 160) == upright


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 31, 32, 33, 100, 299])
@pytest.mark.parametrize("T", [1, 3, 8, 16, 25])
def test_frames_by_number_are_those_of_published_code(n: int, T: int) -> None:
    """Uniform as TSN's test, dense as PySlowFast's clips: both written out here as there, in whole numbers."""
    frames = PresentedFrames(number=n, rate=25.0)
    known = {"num_frames": T, "fps": "native"}
    uniform = ClipOptions.model_validate(known | {"sampling": "uniform"})
    tick = Fraction(n, T)
    assert clip_frames(uniform, frames, 0) == tuple(int(tick / 2 + tick * x) for x in range(T))
    K, step = 10, 2
    dense = ClipOptions.model_validate(known | {"per_video": K, "frame_step": step})
    for clip in range(K):
        start = int(Fraction(max(n - T * step, 0) * clip, K - 1))
        assert clip_frames(dense, frames, clip) == tuple(start + i * step for i in range(T))


@given(
    number=st.integers(1, 400),
    rate=st.sampled_from([8.0, 12.0, 24000 / 1001, 25.0, 30000 / 1001, 60.0]),
    begin=st.floats(0, 1, exclude_max=True),
    length=st.floats(0.001, 1),
    sampling=st.sampled_from(["uniform", "dense", "centre"]),
    short=st.sampled_from(["repeat_last", "loop"]),
    step=st.integers(1, 5),
)
def test_frames_of_an_interval_lie_inside(
    number: int, rate: float, begin: float, length: float, sampling: str, short: str, step: int
) -> None:
    frames, duration = PresentedFrames(number=number, rate=rate), number / rate
    interval = (begin * duration, begin * duration + length * duration)
    options = ClipOptions.model_validate(
        {"num_frames": 8, "fps": "native", "sampling": sampling, "short": short, "per_video": 3}
        | ({} if sampling == "uniform" else {"frame_step": step})
    )
    for clip in range(3):
        found = sample_clip(options, duration, clip, interval, frames)
        assert found.frames is not None
        shown = [frames.seconds(n) for n in found.frames]
        assert max(found.frames) < number
        assert max(shown) < interval[1] or len({*found.frames}) == 1
        assert min(shown) > interval[0] - 1 / rate - 1e-6
        assert interval[0] <= found.interval[0] <= found.interval[1] <= max(interval[0], min(interval[1], duration))
        assert short == "loop" or [*found.frames] == sorted(found.frames)
